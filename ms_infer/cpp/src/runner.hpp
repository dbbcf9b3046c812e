// The seam between the host's half of an engine and whoever runs the stages of a chunk; engines/runner.py in C++.
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
  text, condition, encode, points_first, points, tracks_first, tracks, roll, denoise, decode_first, decode_given, decode,
  encode_grey, look
};
constexpr std::array<std::string_view, 14> kStageNames{"text", "condition", "encode", "points_first", "points",
                                                       "tracks_first", "tracks", "roll", "denoise", "decode_first",
                                                       "decode_given", "decode", "encode_grey", "look"};
constexpr std::string_view stage_name(Stage stage) { return kStageNames[static_cast<std::size_t>(stage)]; }
constexpr bool is_decoder(Stage stage) {
  return stage == Stage::decode_first || stage == Stage::decode_given || stage == Stage::decode;
}
// The encoder of the image slot, whose state goes on whenever it runs, not once a chunk.
constexpr bool fills_image_slot(Stage stage) { return stage == Stage::encode || stage == Stage::encode_grey; }

// The host arrays behind the tensors of all stages, made once; stages that hand a tensor on share it.
//
// Arrays are shared by name and shape. `latents` are the first latent frames of `x`, and track latents land in the
// input of `denoise`. Autoencoder states, and what the host reads, have two sides: a stage reads states of one side
// and writes those of the other, so a chunk that failed can be made again.
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
  // Fills the states of both sides with zeros.
  void clear_states();

 private:
  struct Key {
    std::string name;
    Shape shape;
    int side = 0;
    auto operator<=>(const Key&) const = default;
  };
  struct Array {
    Bytes bytes;
    Role role = Role::host;
  };

  std::array<const StageSpec*, kStageNames.size()> specs_{};
  std::map<std::string, std::string> followers_;  // output -> the state that it becomes
  std::mutex lock_;
  std::map<Key, Array> arrays_;
};

// The inputs of `denoise` with the role `pass`, filled for every pass of a chunk before the first of them runs.
struct PassInputs {
  std::vector<float> values;  // one after the other
  std::span<float> time, sigma, next_sigma, noise;
};

// Milliseconds of the stages of a chunk by the clock of whoever runs them; STAGES of engines/base.py.
struct StageTimes {
  float begin_ms = 0, denoise_ms = 0, decode_ms = 0, write_cache_ms = 0;
};

// Whether a cache holds sink and ring: rotated keys, and values.
inline bool is_rolling_cache(std::string_view name) {
  return name.starts_with("k_cache_") || name.starts_with("v_cache_");
}

using Tensors = std::map<std::string, HostTensor>;

// Runs the stages of one stream and owns its attention caches and autoencoder states. The host fills the host arrays;
// one chunk is `prepare` (before the host fills them), `start`, `frames`, `commit`. One thread at a time, but
// `run(Stage::text)` may be called while another thread runs other stages.
class ChunkRunner {
 public:
  virtual ~ChunkRunner() = default;

  virtual std::string name() const = 0;
  virtual std::string precision() const = 0;
  // Loads what the first chunks need.
  virtual void load() = 0;
  // One stage outside of chunks, from host arrays to host arrays: text, condition, encode, encode_grey, look.
  virtual void run(Stage stage) = 0;
  // Lets other stages see what the host filled for this stage, without running it.
  virtual void hand_over(Stage stage) = 0;

  // What a failed chunk left under way is waited for: the host fills the inputs of the next.
  virtual void prepare() = 0;
  // Copies rows (tokens) of all keys and values to lower ones, before the host fills a chunk: the window moves.
  virtual void move_rows(std::int64_t target, std::int64_t source, std::int64_t rows) = 0;
  // Runs a chunk or sets it going: roll, points and track latents (`tracked`), all passes but the last, which is the
  // clean one. `passes` stays as it is until `commit`; the latents are left in `x`.
  virtual void start(bool opening, bool tracked, std::span<const PassInputs> passes) = 0;
  // Decoded frames, valid until the next `start`.
  virtual std::span<const std::uint8_t> frames() = 0;
  // The clean pass, if it is not under way; then encoder and decoder read what they wrote.
  virtual void commit() = 0;
  // Of the chunk committed last.
  virtual StageTimes times() const = 0;

  // One pass over what the host's arrays hold, outside of chunks.
  virtual void write(const PassInputs& pass) = 0;
  // The same for a given first latent frame, which the decoder takes too.
  virtual void write_given(const PassInputs& pass) = 0;

  // Copies of all caches and states by the names of their inputs, and back.
  virtual Tensors kept() = 0;
  virtual void keep(const Tensors& tensors) = 0;
  // Fills all caches and states with zeros.
  virtual void reset() = 0;
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
  std::unique_ptr<ChunkRunner> runner;
};

// The engine that is asked for; MS_ERROR_MISSING when this build or the bundle has none.
OpenedEngine open_engine(const Manifest& manifest, const RunnerOptions& options);

}  // namespace ms_infer
