// The loop: stream.py in C++. Read this file and stream.cpp first.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "controls.hpp"
#include "staged.hpp"
#include "state.hpp"

namespace ms_infer {

// What a prompt is made from; the first that is set counts.
struct Prompt {
  std::optional<std::vector<float>> embedding;  // [tokens, dim], tokens as they come
  std::int64_t embedding_tokens = 0;
  std::string file;
  std::string text;
  bool recache = false, replace_sink = false;
};

struct StartOptions {
  std::vector<std::uint8_t> image;  // RGB of `image_size`; empty: none
  PictureSize image_size;
  Prompt prompt;
  std::shared_ptr<const Tracks> tracks;
  std::uint64_t seed = 0;
};

struct ChunkTimes : StageTimes {
  float chunk_ms = 0;  // by the host's clock
};

struct Chunk {
  std::int64_t index = 0, first_rgb_frame = 0, control_id = 0;
  std::span<const std::uint8_t> frames;
  int rgb_frames = 0;
  ChunkTimes times;
};

// One thread at a time steps, starts, saves and restores (MS_ERROR_STATE for a second one); controls, pause and resume
// may come from any thread.
class Stream {
 public:
  Stream(const std::filesystem::path& bundle, const RunnerOptions& options);

  const StreamConfig& config() const { return manifest_.config; }
  const std::string& engine_label() const { return label_; }

  void start(const StartOptions& options);
  Chunk step();
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
  std::unique_lock<std::mutex> alone();
  std::vector<float> embed(const Prompt& prompt) const;
  std::shared_ptr<const Tracks> fitted(std::shared_ptr<const Tracks> tracks) const;
  void give_up();
  void begin(const Control& control, Picture image, std::uint64_t seed);
  Run& running();
  void apply_controls(const Run& run, const Control& control, TrackPlayer& player);
  ChunkPlan plan(const Run& run, const TrackPlayer& player) const;
  void check(const StreamState& state) const;
  TrackPlayer new_player() const;
  std::int64_t next_rgb_frame(std::int64_t index, std::int64_t given) const;

  Manifest manifest_;
  mutable std::mutex opened_;              // guards the pointer: a prompt may be embedded while the stream closes
  std::shared_ptr<StagedEngine> engine_;  // nullptr: closed
  std::string label_, digest_;
  Controls controls_;
  std::atomic<bool> paused_{false};
  std::mutex turn_;  // of the one thread that may use the engine
  std::optional<Run> run_;
  bool lost_ = false;  // a start or a restore failed after it had given up the stream that ran
};

}  // namespace ms_infer
