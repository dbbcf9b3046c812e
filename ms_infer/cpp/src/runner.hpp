// The seam between the host's loop and whoever computes the stages.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "manifest.hpp"

namespace ms_infer {

enum class Stage {
  text, condition, encode, points_first, points, tracks_first, tracks, roll, denoise, decode_first, decode_given, decode
};
constexpr std::array<std::string_view, 12> kStageNames{"text", "condition", "encode", "points_first", "points",
                                                       "tracks_first", "tracks", "roll", "denoise", "decode_first",
                                                       "decode_given", "decode"};
constexpr std::string_view stage_name(Stage stage) { return kStageNames[static_cast<std::size_t>(stage)]; }

// The host arrays behind the tensors of all stages, made once; stages that hand a tensor on share it.
//
// Arrays are shared by name and shape. `latents` are the first latent frames of `x`, and track latents land in the
// input of `denoise`. Encoder and decoder states, and frames, have two sides: a stage reads states of one side and
// writes those of the other, so a chunk that failed can be made again.
class HostArrays {
 public:
  explicit HostArrays(const std::map<std::string, StageSpec>& specs);
  HostArrays(const HostArrays&) = delete;

  const StageSpec* spec(Stage stage) const { return specs_[static_cast<std::size_t>(stage)]; }
  bool has(Stage stage) const { return spec(stage) != nullptr; }
  // Safe from any thread, and what it returns stays where it is; looking up allocates, so not in the loop.
  std::span<unsigned char> bytes(Stage stage, const TensorSpec& tensor, int side = 0);
  std::span<unsigned char> bytes(Stage stage, const std::string& tensor, int side = 0);
  // The same as numbers; the type must be the tensor's own.
  template <class Value>
  std::span<Value> values(Stage stage, const std::string& tensor, int side = 0) {
    const auto raw = bytes(stage, tensor, side);
    return {reinterpret_cast<Value*>(raw.data()), raw.size() / sizeof(Value)};
  }
  const TensorSpec& tensor(Stage stage, const std::string& name) const;
  // Fills with zeros every array whose name begins like this.
  void clear(std::string_view prefix);

 private:
  struct Key {
    std::string name;
    Shape shape;
    int side = 0;
    auto operator<=>(const Key&) const = default;
  };

  std::array<const StageSpec*, kStageNames.size()> specs_{};
  std::mutex lock_;
  std::map<Key, Bytes> arrays_;
};

using Caches = std::map<std::string, HostTensor>;

// Inputs of `denoise` that differ between the passes of a chunk, filled before the first of them runs.
struct PassInputs {
  std::vector<float> values;  // one after the other
  std::span<float> time, sigma, next_sigma, noise;
};

// Runs stages on the host arrays and owns the attention caches. One thread at a time, but `run(Stage::text)` may be
// called while another thread runs other stages.
class StageRunner {
 public:
  virtual ~StageRunner() = default;

  virtual std::string name() const = 0;
  virtual std::string precision() const = 0;
  // Loads what the first chunks need.
  virtual void prepare() = 0;
  // States are read from `side` and written to the other one.
  virtual void run(Stage stage, int side) = 0;
  // Copies of all caches by the name of their input, and back.
  virtual Caches read_caches() = 0;
  virtual void write_caches(const std::map<std::string, TensorView>& caches) = 0;
  // Fills all caches with zeros.
  virtual void reset_caches() = 0;

  // An engine may take a chunk as a whole (one CUDA graph) instead of stage by stage: `start_chunk` begins everything
  // from the roll to the clean pass and leaves the last `x_next` in the host's `x`; `finish_frames` waits for the
  // frames alone, `finish_chunk` for the rest.
  virtual bool takes_whole_chunks() const { return false; }
  virtual void start_chunk(bool /*opening*/, std::span<const PassInputs> /*passes*/) {}
  virtual void finish_frames() {}
  virtual void finish_chunk() {}
  // Encoder and decoder states that live on a device: side 0 of the host's arrays is their copy, and a commit makes
  // what was written into what is read. On the host (false) the loop swaps sides by itself.
  virtual bool keeps_states() const { return false; }
  virtual void commit_states(bool /*encoder*/, bool /*decoder*/) {}
  virtual void fetch_states() {}
  virtual void put_states() {}
};

struct RunnerOptions {
  std::string engine = "auto";
  std::string precision;  // "": the best of the device
  int threads = 0;        // 0: all that this process may use
  int device = 0;
};

// A runner and the arrays that it is bound to, which outlive it.
struct OpenedEngine {
  std::unique_ptr<HostArrays> arrays;
  std::unique_ptr<StageRunner> runner;
};

// The engine that is asked for; MS_ERROR_MISSING when this build or the bundle has none.
OpenedEngine open_engine(const Manifest& manifest, const RunnerOptions& options);

}  // namespace ms_infer
