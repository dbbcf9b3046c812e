// The engine of a bundle: its host's half, the same for every library, over a runner of the stages; engines/staged.py
// in C++.
#pragma once

#include <map>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "engines/ring.hpp"
#include "model.hpp"
#include "numerics/angles.hpp"
#include "numerics/noise.hpp"
#include "numerics/schedule.hpp"
#include "state.hpp"
#include "tracks/tracks.hpp"
#include "words.hpp"

namespace ms_infer {

// All that the stream decides about one chunk before any stage runs.
struct ChunkPlan {
  std::int64_t index = 0;
  bool opening = false;
  Placement placement;
  const TrackPlayer* player = nullptr;  // nullptr: the model has no track head
  std::int64_t first_rgb_frame = 0;
  std::uint64_t seed = 0;
};

// One chunk is `generate`, `frames`, `commit`; until `commit` has returned nothing that a later chunk depends on has
// changed. After the first chunks it allocates nothing.
class StagedEngine {
 public:
  StagedEngine(std::shared_ptr<Model> model, bool on_device);

  std::int64_t sink_start() const { return ring_.sink_start(); }
  std::int64_t given_frames() const { return given_; }
  // Whether no stream can begin without a first frame: an image encoder looks at it.
  bool needs_image() const { return arrays_->has(Stage::look); }

  // Text embedding [tokens, dim] of words; any thread may call it. MS_ERROR_CONFIG when the model has no word encoder.
  std::vector<float> embed(std::string_view prompt);
  void set_text(std::span<const float> embedding);
  // RGB [height, width, 3] of the stream's size; empty: no image.
  void set_image(std::span<const std::uint8_t> image);

  // Makes the chunk's latents, or sets them going.
  void generate(const ChunkPlan& plan);
  // Frames of the chunk, valid until the next `generate`.
  std::span<const std::uint8_t> frames();
  // The same where frames stay on a device.
  DeviceFrames device_frames();
  // Makes the chunk part of the context: its final keys and values (the clean pass), states and latents.
  void commit();
  // Of the chunk committed last, by the clock of whoever ran its stages.
  StageTimes times() const { return runner_->times(); }

  // Ends a chunk under way with MS_ERROR_CANCELLED, from any thread; false lets the next one be made.
  void cancel(bool wanted) { cancelled_ = wanted; }

  // Re-encodes the context under the newest prompt, in rounds over its chunks; see engines/staged.py.
  void recache(bool replace_sink);
  void reset();

  // Everything a later chunk depends on, by the names of Python's engine.
  EngineState state();
  // MS_ERROR_CONFIG unless `restore` can put this back, into a stream of `made` latent frames. Changes nothing.
  void check_state(const EngineState& state, std::int64_t made) const;
  // Puts back what `state` gave and `check_state` has seen.
  void restore(const EngineState& state);

 private:
  struct Slot {
    std::string name;
    int channels = 0;
    std::span<float> values;  // [1, chunk_frames, channels, height, width]
  };
  struct Sinusoid {
    double timestep = 0;
    std::vector<float> values;
  };

  // What a stage of points takes.
  struct PointInputs {
    std::span<float> points, anchors;
    std::span<std::uint8_t> visible;
    std::span<std::int64_t> ids;
  };

  void bind_inputs();
  void bind_opening(bool opening);
  void bind_passes();
  void make_room(std::int64_t start);
  void place(std::int64_t start, std::int64_t until);
  void fill_image_slots(std::int64_t start, int frames);
  void fill_points();
  std::size_t noise_count(int frames) const {
    return x_.size() / static_cast<std::size_t>(config_.context.chunk_frames) * static_cast<std::size_t>(frames);
  }
  void fill_pass(PassInputs& pass, double timestep, double sigma, double next_sigma, bool pinned);
  void fill_passes();
  void draw_ahead();
  const PassInputs& clean_pass(double timestep);
  void write_given();
  void encode_image(Stage stage);
  void look();
  std::span<const float> image_slot(std::int64_t frame);
  bool pins_image() const;
  void pin_image();
  void remember(std::int64_t start, int frames);
  void recall(std::int64_t start, int frames);
  std::span<float> frame_of(const Slot& slot, int frame) const;
  std::span<float> remembered(std::int64_t frame);
  std::span<const float> sinusoid(double timestep) const;
  // Encoder and decoder states by their names.
  std::vector<const TensorSpec*> states() const;
  std::map<std::string, std::vector<std::size_t>> kept_rows(std::int64_t made, const Ring& ring) const;
  Shape history_shape(int channels, std::int64_t made) const;
  void save_history(EngineState& all);
  void load_history(const EngineState& state);

  std::shared_ptr<Model> model_;
  const Manifest& manifest_;
  const StreamConfig& config_;
  std::atomic<bool> cancelled_{false};
  std::vector<DenoiseStep> steps_;
  Tokenizer tokenizer_;
  std::vector<PassInputs> passes_;  // of the chunk, the clean one last; outlives the runner, which page-locks it
  std::unique_ptr<HostArrays> arrays_;  // the stream's own, as are caches and states
  std::unique_ptr<ChunkRunner> runner_;

  std::span<float> x_;
  std::span<std::int64_t> write_index_, n_valid_, sink_index_;
  std::vector<Slot> slots_;  // in the order of the layout, the noise slot is x
  std::array<PointInputs, 2> point_inputs_;  // [opening]
  RotationTables tables_, sink_tables_;
  std::vector<Sinusoid> sinusoids_;
  std::size_t plane_ = 0;  // values of one channel of a latent frame

  std::vector<float> history_;  // [capacity, in_channels, height, width]
  int capacity_ = 0;
  NoiseAhead noise_;
  std::vector<std::vector<float>> image_latents_;  // of the image slot from frame 0 on; empty: no image
  std::mutex embedding_;
  ChunkPlan plan_;
  Ring ring_;
  std::int64_t made_ = 0, given_ = 0;
};

}  // namespace ms_infer
