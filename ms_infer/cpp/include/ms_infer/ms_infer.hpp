// ms_infer for C++20: RAII over ms_infer.h, frames as std::span, errors as ms::Error. Header only.
//
//     ms::Model model("bundles/demo");
//     ms::Stream stream(model);
//     stream.start({.prompt = {.text = "a cat"},
//                   .tracks = ms::Tracks::grid(10, 10).grab({0.4, 0.5}, {0.6, 0.4}, {.radius = 0.15})});
//     for (;;) { const ms::Chunk chunk = stream.step(); show(chunk.frames, chunk.rgb_frames); }
//
// Live, ms::Hand makes the tracks: before each step
//     stream.set_tracks(hand.tracks(seconds(), stream.info().next_rgb_frames));
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "ms_infer/tracks.hpp"

namespace ms {

// A stream between two chunks. Immutable; copies share.
class State {
 public:
  const ms_state* get() const noexcept { return state_.get(); }

 private:
  friend class Stream;
  explicit State(ms_state* made) : state_(made, ms_state_destroy) {}

  std::shared_ptr<const ms_state> state_;
};

// How a bundle is opened.
struct Options {
  std::string engine = "auto";
  std::string precision = {};  // "": the best of the device
  int threads = 0;             // 0: all that this process may use
  int device = 0;
  std::function<bool(const std::string& what, double done)> progress = {};  // false: cancel (MS_ERROR_CANCELLED)
};

// A bundle that is open: weights and compiled stages, for any number of streams. Copies share.
class Model {
 public:
  explicit Model(const std::string& bundle, const Options& options = {}) {
    ms_model_params params = {};
    params.struct_size = sizeof params;
    params.bundle = bundle.c_str();
    params.engine = options.engine.c_str();
    params.precision = options.precision.empty() ? nullptr : options.precision.c_str();
    params.threads = options.threads;
    params.device = options.device;
    if (options.progress) {
      params.user = const_cast<Options*>(&options);
      params.progress = [](void* user, const char* what, double done) noexcept -> int {
        return !static_cast<Options*>(user)->progress(what, done);
      };
    }
    ms_model* made = nullptr;
    check(ms_model_open(&params, &made));
    model_.reset(made, ms_model_close);
  }
  ms_model* get() const noexcept { return model_.get(); }

 private:
  std::shared_ptr<ms_model> model_;
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
  int over = 1;        // of a change: chunks until the prompt is all there
  bool slerp = false;  // rows of the embedding turn on the way
};

struct Start {
  Image image = {};
  Prompt prompt = {};
  Tracks tracks = {};
  std::uint64_t seed = 0;
};

// How a stream hands its frames out.
struct Frames {
  ms_format format = MS_RGB24;
  bool on_device = false;  // RGB24 frames stay in CUDA memory until the next step
};

// What one step made. Its frames are its own: they stay while it or a copy of it is kept.
struct Chunk {
  std::int64_t index = 0, first_rgb_frame = 0, control_id = 0;
  std::span<const std::uint8_t> frames;  // rgb_frames frames one after the other; RGB: [rgb_frames, height, width, 3]
  int rgb_frames = 0, height = 0, width = 0;
  std::size_t row_stride = 0;
  float chunk_ms = 0;
  const void* device_frames = nullptr;  // of a stream whose frames stay on the device, until its next step
  void* device_event = nullptr;         // cudaEvent_t that their reader waits for
  std::shared_ptr<const std::uint8_t[]> memory;

  std::span<const std::uint8_t> frame(int place) const {
    const std::size_t size = frames.size() / static_cast<std::size_t>(rgb_frames);
    return frames.subspan(static_cast<std::size_t>(place) * size, size);
  }
};

// Makes video chunk by chunk. Movable, not copyable.
class Stream {
 public:
  explicit Stream(const Model& model, const Frames& frames = {}) {
    ms_stream_params params = {};
    params.struct_size = sizeof params;
    params.format = frames.format;
    params.on_device = frames.on_device;
    ms_stream* made = nullptr;
    check(ms_stream_create(model.get(), &params, &made));
    *this = Stream(made, !frames.on_device);
  }
  // A stream with a model of its own.
  explicit Stream(const std::string& bundle, const Options& options = {}) : Stream(Model(bundle, options)) {}

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
    ms_start_params params = {};
    params.struct_size = sizeof params;
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
    std::shared_ptr<std::uint8_t[]> memory;
    if (pool_) memory = pool_->take(), made.buffer = memory.get(), made.buffer_bytes = pool_->bytes;
    check(ms_stream_step(stream_.get(), &made));
    const auto size = static_cast<std::size_t>(made.rgb_frames) * made.frame_stride;
    return {made.index,      made.first_rgb_frame, made.control_id,    {made.frames, size}, made.rgb_frames,
            made.height,     made.width,           made.row_stride,    made.chunk_ms,       made.device_frames,
            made.device_event, std::move(memory)};
  }

  // Runs every stage once, so that the first chunks take no longer than later ones.
  void warm_up() { check(ms_stream_warm_up(stream_.get())); }
  // Ends the step, start or warm-up that another thread is in with MS_ERROR_CANCELLED.
  void cancel() { check(ms_stream_cancel(stream_.get())); }

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

  // A new stream of the same model that goes on from here.
  Stream fork() {
    ms_stream* made = nullptr;
    check(ms_stream_fork(stream_.get(), &made));
    return Stream(made, pool_ != nullptr);
  }
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

  // Memory for frames, used again when nobody keeps it any more.
  struct Pool : std::enable_shared_from_this<Pool> {
    explicit Pool(std::size_t size) : bytes(size) {}
    std::shared_ptr<std::uint8_t[]> take() {
      std::unique_ptr<std::uint8_t[]> memory;
      if (const std::lock_guard lock(guard); !free.empty()) memory = std::move(free.back()), free.pop_back();
      if (!memory) memory.reset(new std::uint8_t[bytes]);
      return {memory.release(), [pool = shared_from_this()](std::uint8_t* used) {
                std::unique_ptr<std::uint8_t[]> back(used);
                const std::lock_guard lock(pool->guard);
                pool->free.push_back(std::move(back));
              }};
    }
    const std::size_t bytes;
    std::mutex guard;
    std::vector<std::unique_ptr<std::uint8_t[]>> free;
  };

  Stream(ms_stream* made, bool on_host) : stream_(made) {
    if (on_host) pool_ = std::make_shared<Pool>(static_cast<std::size_t>(info().chunk_bytes));
  }

  ms_prompt plain(const Prompt& from) const {
    const auto values = std::int64_t{from.embedding_tokens} * (from.embedding.empty() ? 0 : info().text_dim);
    if (static_cast<std::int64_t>(from.embedding.size()) != values)
      throw Error(MS_ERROR_CONFIG, "the embedding does not have embedding_tokens x text_dim values");
    ms_prompt prompt = {};
    prompt.struct_size = sizeof prompt;
    prompt.embedding = from.embedding.empty() ? nullptr : from.embedding.data();
    prompt.embedding_tokens = from.embedding_tokens;
    prompt.recache = from.recache;
    prompt.replace_sink = from.replace_sink;
    prompt.over = from.over;
    prompt.slerp = from.slerp;
    prompt.embedding_file = from.embedding_file.empty() ? nullptr : from.embedding_file.c_str();
    prompt.text = from.text.c_str();
    return prompt;
  }

  std::unique_ptr<ms_stream, Destroy> stream_;
  std::shared_ptr<Pool> pool_;  // nullptr: frames stay on the device
};

}  // namespace ms
