// ms_infer for C++20: RAII over ms_infer.h, frames as std::span, errors as ms::Error. Header only.
//
//     ms::Stream stream("bundles/demo");
//     stream.start({.prompt = {.text = "a cat"}, .tracks = ms::Tracks::grid(8, 8).drag({0.4, 0.5}, {0.7, 0.5})});
//     for (;;) { const ms::Chunk chunk = stream.step(); show(chunk.frames, chunk.rgb_frames); }
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "ms_infer/ms_infer.h"

namespace ms {

// A status other than MS_OK, with the library's words.
class Error : public std::runtime_error {
 public:
  Error(ms_status status, const char* words) : std::runtime_error(words), status_(status) {}
  ms_status status() const noexcept { return status_; }

 private:
  ms_status status_;
};

inline void check(ms_status status) {
  if (status != MS_OK) throw Error(status, ms_last_error());
}

struct Point {
  double x = 0, y = 0;
};

// Immutable points over time; in pixels of a picture, or in 0..1 without one. Copies share.
class Tracks {
 public:
  struct Picture {
    int width = 0, height = 0;
  };
  struct Motion {
    double seconds = 1.0, radius = 0.0, start = 0.0;
  };

  Tracks() = default;  // no tracks at all

  static Tracks grid(int rows, int columns, Picture picture = {0, 0}, double fps = 16.0) {
    ms_tracks* made = nullptr;
    check(ms_tracks_grid(rows, columns, picture.width, picture.height, fps, &made));
    return Tracks(made);
  }

  // points [count, frames, 2]; visible [count, frames] and ids [count], or empty.
  static Tracks make(std::span<const float> points, int count, int frames, std::span<const std::uint8_t> visible = {},
                     std::span<const std::int64_t> ids = {}, Picture picture = {0, 0}, double fps = 16.0) {
    const auto places = static_cast<std::size_t>(count) * static_cast<std::size_t>(frames);
    if (points.size() != 2 * places || (!visible.empty() && visible.size() != places) ||
        (!ids.empty() && ids.size() != static_cast<std::size_t>(count)))
      throw Error(MS_ERROR_CONFIG, "points, visible and ids do not have the sizes of count and frames");
    ms_tracks* made = nullptr;
    check(ms_tracks_create(points.data(), visible.empty() ? nullptr : visible.data(),
                           ids.empty() ? nullptr : ids.data(), count, frames, picture.width, picture.height, fps,
                           &made));
    return Tracks(made);
  }

  Tracks drag(Point from, Point to, Motion motion = {1.0, 0.0, 0.0}) const {
    const std::array corners{from, to};
    return path(corners, motion, true);
  }

  Tracks path(std::span<const Point> corners, Motion motion = {1.0, 0.0, 0.0}, bool smooth = false) const {
    ms_tracks* made = nullptr;
    check(ms_tracks_path(get(), corners.empty() ? nullptr : &corners[0].x, static_cast<int>(corners.size()),
                         motion.seconds, motion.radius, motion.start, smooth, &made));
    return Tracks(made);
  }

  Tracks resample(double fps) const {
    ms_tracks* made = nullptr;
    check(ms_tracks_resample(get(), fps, &made));
    return Tracks(made);
  }

  const ms_tracks* get() const noexcept { return tracks_.get(); }

 private:
  explicit Tracks(ms_tracks* made) : tracks_(made, ms_tracks_destroy) {}

  std::shared_ptr<const ms_tracks> tracks_;
};

// A stream between two chunks. Immutable; copies share.
class State {
 public:
  const ms_state* get() const noexcept { return state_.get(); }

 private:
  friend class Stream;
  explicit State(ms_state* made) : state_(made, ms_state_destroy) {}

  std::shared_ptr<const ms_state> state_;
};

struct Options {
  std::string engine = "auto";
  std::string precision = {};  // "": the best of the device
  int threads = 0;             // 0: all that this process may use
  int device = 0;
};

struct Image {
  std::span<const std::uint8_t> rgb = {};  // [height, width, 3]; empty: none
  int width = 0, height = 0;
};

// Words, or a ready embedding from memory or from a .npy file.
struct Prompt {
  std::string text = {};
  std::string embedding_file = {};
  std::span<const float> embedding = {};  // [embedding_tokens, text_dim]
  int embedding_tokens = 0;
  bool recache = false, replace_sink = false;
};

struct Start {
  Image image = {};
  Prompt prompt = {};
  Tracks tracks = {};
  std::uint64_t seed = 0;
};

// What one step made; `frames` are valid until the next step.
struct Chunk {
  std::int64_t index = 0, first_rgb_frame = 0, control_id = 0;
  std::span<const std::uint8_t> frames;  // RGB [rgb_frames, height, width, 3]
  int rgb_frames = 0, height = 0, width = 0;
  float chunk_ms = 0;

  std::span<const std::uint8_t> frame(int place) const {
    const std::size_t size = frames.size() / static_cast<std::size_t>(rgb_frames);
    return frames.subspan(static_cast<std::size_t>(place) * size, size);
  }
};

// Makes video chunk by chunk. Movable, not copyable.
class Stream {
 public:
  explicit Stream(const std::string& bundle, const Options& options = {}) {
    ms_stream_params params;
    check(ms_stream_default_params(&params, sizeof params));
    params.bundle = bundle.c_str();
    params.engine = options.engine.c_str();
    params.precision = options.precision.empty() ? nullptr : options.precision.c_str();
    params.threads = options.threads;
    params.device = options.device;
    ms_stream* made = nullptr;
    check(ms_stream_create(&params, &made));
    stream_.reset(made);
  }

  ms_stream_info info() const {
    ms_stream_info info = {};
    info.struct_size = sizeof info;
    check(ms_stream_get_info(stream_.get(), &info));
    return info;
  }

  void start(const Start& from = {}) {
    if (from.image.rgb.size() != 3 * static_cast<std::size_t>(from.image.width) * static_cast<std::size_t>(from.image.height))
      throw Error(MS_ERROR_CONFIG, "the image does not have 3 x width x height values");
    const ms_prompt prompt = plain(from.prompt);
    ms_start_params params;
    check(ms_start_default_params(&params, sizeof params));
    params.image = from.image.rgb.empty() ? nullptr : from.image.rgb.data();
    params.image_width = from.image.width;
    params.image_height = from.image.height;
    params.prompt = &prompt;
    params.tracks = from.tracks.get();
    params.seed = from.seed;
    check(ms_stream_start(stream_.get(), &params));
  }

  Chunk step() {
    ms_chunk made = {};
    made.struct_size = sizeof made;
    check(ms_stream_step(stream_.get(), &made));
    const auto size = static_cast<std::size_t>(made.rgb_frames) * static_cast<std::size_t>(made.height) *
                      static_cast<std::size_t>(made.width) * 3;
    return {made.index, made.first_rgb_frame, made.control_id, {made.frames, size},
            made.rgb_frames, made.height, made.width, made.chunk_ms};
  }

  // Returns the id that the chunks made with it carry.
  std::int64_t set_tracks(const Tracks& tracks) {
    std::int64_t id = 0;
    check(ms_stream_set_tracks(stream_.get(), tracks.get(), &id));
    return id;
  }

  std::int64_t set_prompt(const Prompt& prompt) {
    std::int64_t id = 0;
    const ms_prompt plain_prompt = plain(prompt);
    check(ms_stream_set_prompt(stream_.get(), &plain_prompt, &id));
    return id;
  }

  void pause() { check(ms_stream_pause(stream_.get())); }
  void resume() { check(ms_stream_resume(stream_.get())); }
  void reset() { check(ms_stream_reset(stream_.get())); }
  void close() { check(ms_stream_close(stream_.get())); }

  // Everything the next chunk depends on; load it often, and into other streams of the same bundle (a fork).
  State state() {
    ms_state* made = nullptr;
    check(ms_stream_save(stream_.get(), &made));
    return State(made);
  }
  void load_state(const State& state) { check(ms_stream_load(stream_.get(), state.get())); }
  void snapshot(const std::string& path) { check(ms_stream_snapshot(stream_.get(), path.c_str())); }
  void restore(const std::string& path) { check(ms_stream_restore(stream_.get(), path.c_str())); }

 private:
  struct Destroy {
    void operator()(ms_stream* stream) const noexcept { ms_stream_destroy(stream); }
  };

  ms_prompt plain(const Prompt& from) const {
    const auto values = std::int64_t{from.embedding_tokens} * (from.embedding.empty() ? 0 : info().text_dim);
    if (static_cast<std::int64_t>(from.embedding.size()) != values)
      throw Error(MS_ERROR_CONFIG, "the embedding does not have embedding_tokens x text_dim values");
    ms_prompt prompt;
    check(ms_prompt_default(&prompt, sizeof prompt));
    prompt.embedding = from.embedding.empty() ? nullptr : from.embedding.data();
    prompt.embedding_tokens = from.embedding_tokens;
    prompt.recache = from.recache;
    prompt.replace_sink = from.replace_sink;
    prompt.embedding_file = from.embedding_file.empty() ? nullptr : from.embedding_file.c_str();
    prompt.text = from.text.c_str();
    return prompt;
  }

  std::unique_ptr<ms_stream, Destroy> stream_;
};

}  // namespace ms
