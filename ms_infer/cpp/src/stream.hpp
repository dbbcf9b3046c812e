// The loop: stream.py in C++. Read this file and stream.cpp first.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "controls.hpp"
#include "media/frames.hpp"
#include "engines/staged.hpp"
#include "state.hpp"

namespace ms_infer {

// What a prompt is made from; the first that is set counts.
struct Prompt {
  std::optional<std::vector<float>> embedding;  // [tokens, dim], tokens as they come
  std::int64_t embedding_tokens = 0;
  std::string file;
  std::string text;
  bool recache = false, replace_sink = false;
  Blend blend;
};

struct StartOptions {
  std::vector<std::uint8_t> image;  // RGB of `image_size`; empty: none
  PictureSize image_size;
  Prompt prompt;
  std::shared_ptr<const Tracks> tracks;
  std::uint64_t seed = 0;
};

// How a stream hands its frames out.
struct StreamOptions {
  FrameFormat format = FrameFormat::rgb24;
  int keep = 3;            // chunks whose frames stay valid; 1: the engine's own memory, where the format allows it
  bool on_device = false;  // frames stay on the CUDA device
};

struct ChunkTimes : StageTimes {
  float chunk_ms = 0;  // by the host's clock
};

struct Chunk {
  std::int64_t index = 0, first_rgb_frame = 0, control_id = 0;
  FrameView frames;
  DeviceFrames device;
  int rgb_frames = 0;
  ChunkTimes times;
};

// One thread at a time steps, starts, saves and restores (MS_ERROR_STATE for a second one); controls, pause and resume
// may come from any thread.
class Stream {
 public:
  Stream(const std::shared_ptr<Model>& model, const StreamOptions& options);

  const StreamConfig& config() const { return manifest_->config; }
  const std::string& engine_label() const { return label_; }
  const FrameLayout& layout() const { return ring_.layout(); }
  // RGB frames of the next chunk; from any thread.
  int next_rgb_frames() const { return next_rgb_frames_; }
  // The model, for another stream of it; MS_ERROR_STATE when this one is closed.
  std::shared_ptr<Model> model() const;
  const StreamOptions& options() const { return options_; }

  void start(const StartOptions& options);
  // Frames go to `target` where it has memory, else to the stream's own.
  Chunk step(const FrameTarget& target = {});
  // Runs everything that chunks need once, so that the first chunks take no longer than later ones. Does nothing for a
  // stream that was started.
  void warm_up();
  // Ends the step, start or warm-up that another thread is in with MS_ERROR_CANCELLED; nothing else.
  void cancel();
  std::int64_t set_tracks(std::shared_ptr<const Tracks> tracks);
  std::int64_t set_prompt(const Prompt& prompt);
  void pause() { paused_ = true; }
  void resume() { paused_ = false; }
  void reset();
  StreamState state();
  // Checks everything before it changes anything.
  void load_state(const StreamState& state);
  void snapshot(const std::filesystem::path& path) { write_snapshot(path, state(), config()); }
  void restore(const std::filesystem::path& path);
  // Waits for a chunk that is being made.
  void close();

 private:
  // Where a started stream stands.
  struct Run {
    std::int64_t index = 0, given = 0;
    std::uint64_t seed = 0;
    Picture image;
    std::shared_ptr<const Control> control;  // what the newest chunk was made with
    TrackPlayer player;
  };

  std::shared_ptr<StagedEngine> open() const;
  void tell_next(std::int64_t index, std::int64_t given);
  void run_unseen(int chunks, bool with_image);
  std::unique_lock<std::mutex> alone();
  std::vector<float> embed(const Prompt& prompt) const;
  std::size_t text_dim() const { return static_cast<std::size_t>(config().text.dim); }
  std::shared_ptr<const Tracks> fitted(std::shared_ptr<const Tracks> tracks) const;
  void give_up();
  void begin(const Control& control, Picture image, std::uint64_t seed);
  Run& running();
  std::shared_ptr<const Control> apply_controls(const Run& run, TrackPlayer& player);
  ChunkPlan plan(const Run& run, const TrackPlayer& player) const;
  void check(const StreamState& state) const;
  TrackPlayer new_player() const;
  std::int64_t next_rgb_frame(std::int64_t index, std::int64_t given) const;

  std::shared_ptr<const Manifest> manifest_;
  std::shared_ptr<Model> model_;           // nullptr: closed
  mutable std::mutex opened_;              // guards the pointer: a prompt may be embedded while the stream closes
  std::shared_ptr<StagedEngine> engine_;  // nullptr: closed
  std::string label_, digest_;
  Controls controls_;
  std::atomic<bool> paused_{false};
  std::mutex turn_;  // of the one thread that may use the engine
  std::optional<Run> run_;
  std::atomic<int> next_rgb_frames_{0};
  StreamOptions options_;
  FrameRing ring_;
  bool lost_ = false;  // a start or a restore failed after it had given up the stream that ran
};

}  // namespace ms_infer
