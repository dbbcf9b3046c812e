// The seam between the host's half of an engine and whoever runs the stages of a chunk; engines/runner.py in C++.
#pragma once

#include <array>
#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "bundle/manifest.hpp"

namespace ms_infer {

enum class Stage {
  text, condition, encode, points_first, points, layers, compose_first, compose, tracks_first, tracks, roll, denoise,
  decode_first, decode_given, decode, encode_grey, look
};
constexpr std::array<std::string_view, 17> kStageNames{
    "text",   "condition", "encode",  "points_first", "points",       "layers", "compose_first", "compose", "tracks_first",
    "tracks", "roll",      "denoise", "decode_first", "decode_given", "decode", "encode_grey",   "look"};
constexpr std::string_view stage_name(Stage stage) { return kStageNames[static_cast<std::size_t>(stage)]; }
constexpr bool is_decoder(Stage stage) {
  return stage == Stage::decode_first || stage == Stage::decode_given || stage == Stage::decode;
}
// The stages of a chunk from points to track latents, in order; a plain track head has the first and the last alone.
constexpr std::array<Stage, 4> track_stages(bool opening) {
  if (opening) return {Stage::points_first, Stage::layers, Stage::compose_first, Stage::tracks_first};
  return {Stage::points, Stage::layers, Stage::compose, Stage::tracks};
}
// The encoder of the image slot, whose state goes on whenever it runs, not once a chunk.
constexpr bool fills_image_slot(Stage stage) { return stage == Stage::encode || stage == Stage::encode_grey; }

// Tensors and where they are.
using TensorPlaces = std::vector<std::pair<const TensorSpec*, std::span<unsigned char>>>;

// The host arrays behind the tensors of all stages, made once; stages that hand a tensor on share it.
//
// Arrays are shared by name and shape. `latents` are the first latent frames of `x`, and track latents land in the
// input of `denoise`. What an opening chunk hands from stage to stage, and its frames, lie where longer chunks have
// them, for no stream makes both at once. Autoencoder states have two sides: a stage reads those of one side and writes
// those of the other, so a chunk that failed can be made again. Caches have one: what a chunk writes there is out of its
// context until then.
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
  // The attention caches: inputs of `denoise`.
  TensorPlaces caches();
  // Fills the states of both sides and the caches with zeros.
  void clear();

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
  std::map<std::string, const TensorSpec*> longest_;  // of what is handed from stage to stage, or out, by name
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

// Frames of a chunk that stay on a CUDA device.
struct DeviceFrames {
  const void* data = nullptr;  // RGB [rgb_frames, height, width, 3]; nullptr: the frames are on the host
  void* ready = nullptr;       // cudaEvent_t: whoever reads them waits for it
};

// Runs the stages of one stream and owns its attention caches and autoencoder states. The host fills the host arrays;
// one chunk is `prepare` (before the host fills them), `start`, `frames`, `commit`. One thread at a time, but
// `run(Stage::text)` may be called while another thread runs other stages.
class ChunkRunner {
 public:
  virtual ~ChunkRunner() = default;

  // Gets ready for the first chunk.
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
  // The same for a stream whose frames stay on the device: they are not waited for.
  virtual DeviceFrames device_frames() { return {}; }
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

// How one stream wants its chunks made.
struct RunnerSettings {
  const std::atomic<bool>* cancelled = nullptr;  // true: a chunk under way ends with MS_ERROR_CANCELLED; may be nullptr
  bool on_device = false;                        // frames stay on the device
};

// Told what is loaded next and the share 0..1 that is done; may throw to end the load.
using Progress = std::function<void(std::string_view what, double done)>;

// What the streams of a model share: weights and stages, each compiled once. Safe from any thread.
class EngineModel {
 public:
  virtual ~EngineModel() = default;

  virtual std::string name() const = 0;
  virtual std::string precision() const = 0;
  // Whether frames can stay on a device.
  virtual bool on_device() const { return false; }
  // Loads what every stream needs, and checks the files of all that may be loaded later.
  virtual void load(const Progress& progress) = 0;
  // A runner for one stream, bound to its arrays; both must end before this model does.
  virtual std::unique_ptr<ChunkRunner> runner(HostArrays& arrays, const RunnerSettings& settings) = 0;
};

// The host stops a chunk here when it is asked to.
inline void stop_if(const std::atomic<bool>* cancelled) {
  require(!cancelled || !*cancelled, MS_ERROR_CANCELLED, "the call was cancelled; it may be made again");
}

}  // namespace ms_infer
