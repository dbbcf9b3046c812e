// The loop: stream.py in C++. Read this file and stream.cpp first.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "staged.hpp"

namespace ms_infer {

// The newest wishes; see controls.py.
struct Control {
  std::int64_t id = 0;
  std::shared_ptr<const Tracks> tracks;
  std::int64_t tracks_id = 0;
  std::shared_ptr<const std::vector<float>> text;  // embedding [tokens, dim]
  std::int64_t prompt_id = 0;
  bool recache = false, replace_sink = false;
};

// A single slot: writers replace it, the stream reads it once per chunk.
class Controls {
 public:
  std::shared_ptr<const Control> newest() const;
  std::int64_t set_tracks(std::shared_ptr<const Tracks> tracks);
  std::int64_t set_text(std::vector<float> text, bool recache, bool replace_sink);
  void reset(Control control);

 private:
  mutable std::mutex lock_;
  std::shared_ptr<const Control> newest_ = std::make_shared<const Control>();
};

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

struct ChunkTimes {
  float begin_ms = 0, denoise_ms = 0, decode_ms = 0, write_cache_ms = 0, chunk_ms = 0;
};

struct Chunk {
  std::int64_t index = 0, first_rgb_frame = 0, control_id = 0;
  std::span<const std::uint8_t> frames;
  int rgb_frames = 0;
  ChunkTimes times;
};

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
  void snapshot(const std::filesystem::path& path);
  void restore(const std::filesystem::path& path);
  void close();

 private:
  StagedEngine& open() const;
  std::vector<float> embed(const Prompt& prompt) const;
  void begin_again(std::vector<std::uint8_t> image, std::vector<float> text, std::shared_ptr<const Tracks> tracks,
                   std::uint64_t seed);
  void apply_controls(const Control& control, TrackPlayer& player);
  ChunkPlan plan(const TrackPlayer& player) const;
  void check_tracks(const Tracks* tracks) const;
  TrackPlayer new_player() const;
  std::string digest() const;
  int chunk_frames() const;
  std::int64_t next_latent_frame() const;
  std::int64_t next_rgb_frame() const;

  Manifest manifest_;
  std::unique_ptr<StagedEngine> engine_;  // nullptr: closed
  std::string label_;
  Controls controls_;
  std::atomic<bool> paused_{false};
  bool started_ = false;
  std::int64_t index_ = 0, given_ = 0;
  std::uint64_t seed_ = 0;
  std::vector<std::uint8_t> image_;  // RGB of the stream's size; empty: none
  mutable std::mutex player_lock_;   // set_tracks() reads the player while a step replaces it
  TrackPlayer player_;
  std::shared_ptr<const Control> applied_;
};

}  // namespace ms_infer
