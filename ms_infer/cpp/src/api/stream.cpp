// The C interface: streams.
#include "api/common.hpp"

using namespace ms_infer::api;
using ms_infer::require;

namespace ms_infer::api {

template <>
constexpr std::size_t kFirstSize<ms_stream_info> = offsetof(ms_stream_info, chunk_bytes);
template <>
constexpr std::size_t kFirstSize<ms_chunk> = offsetof(ms_chunk, buffer);
template <>
constexpr std::size_t kFirstSize<ms_prompt> = offsetof(ms_prompt, over);

}  // namespace ms_infer::api

namespace {

ms_infer::Prompt read_prompt(const ms_prompt* given_prompt, const ms_infer::StreamConfig& config) {
  ms_infer::Prompt prompt;
  if (!given_prompt) return prompt;
  const ms_prompt from = read_struct(given_prompt, "prompt");
  prompt.recache = from.recache != 0;
  prompt.replace_sink = from.replace_sink != 0;
  prompt.blend = {from.over ? from.over : 1, from.slerp != 0};
  prompt.file = text_or(from.embedding_file, "");
  prompt.text = text_or(from.text, "");
  if (from.embedding) {
    const int tokens = from.embedding_tokens;
    require(tokens >= 0 && tokens <= config.text.tokens, MS_ERROR_CONFIG, "prompt.embedding_tokens is ", tokens,
            "; expected 0..", config.text.tokens);
    prompt.embedding.emplace(from.embedding, from.embedding + std::ptrdiff_t{tokens} * config.text.dim);
    prompt.embedding_tokens = tokens;
  }
  return prompt;
}

ms_infer::StartOptions read_start(const ms_start_params* params, const ms_infer::StreamConfig& config) {
  constexpr std::int64_t kMaxPixels = std::int64_t{64} << 20;
  ms_infer::StartOptions options;
  if (!params) return options;
  const ms_start_params from = read_struct(params, "params");
  options.seed = from.seed;
  options.prompt = read_prompt(from.prompt, config);
  if (from.tracks) options.tracks = from.tracks->tracks;
  if (from.image) {
    const std::int64_t width = from.image_width, height = from.image_height;
    require(width >= 1 && height >= 1 && width * height <= kMaxPixels, MS_ERROR_CONFIG, "the image is ", width, " x ",
            height, "; both must be positive, with at most ", kMaxPixels, " pixels");
    options.image.assign(from.image, from.image + 3 * width * height);
    options.image_size = {from.image_height, from.image_width};
  }
  return options;
}

ms_infer::StreamOptions read_options(const ms_stream_params* params) {
  ms_infer::StreamOptions options;
  if (!params) return options;
  const ms_stream_params from = read_struct(params, "params");
  require(from.format >= MS_RGB24 && from.format <= MS_NV12, MS_ERROR_CONFIG, "params.format is ", from.format,
          "; expected MS_RGB24, MS_BGRA or MS_NV12");
  return {static_cast<ms_infer::FrameFormat>(from.format), from.keep ? from.keep : options.keep, from.on_device != 0};
}

ms_stream* new_stream(const std::shared_ptr<ms_infer::Model>& model, const ms_infer::StreamOptions& options) {
  auto made = std::make_unique<ms_stream>();
  made->stream = std::make_unique<ms_infer::Stream>(model, options);
  return made.release();
}

}  // namespace

extern "C" {

ms_status ms_stream_create(ms_model* model, const ms_stream_params* params, ms_stream** stream) {
  return guarded([&] {
    *given(stream, "stream") = nullptr;
    *stream = new_stream(given(model, "model")->model, read_options(params));
  });
}

ms_status ms_stream_open(const ms_model_params* model, const ms_stream_params* params, ms_stream** stream) {
  return guarded([&] {
    *given(stream, "stream") = nullptr;
    const auto options = read_options(params);
    *stream = new_stream(open_model(model), options);
  });
}

ms_status ms_stream_close(ms_stream* stream) {
  return guarded([&] { opened(stream).close(); });
}

void ms_stream_destroy(ms_stream* stream) { delete stream; }

ms_status ms_stream_get_info(const ms_stream* stream, ms_stream_info* info) {
  return guarded([&] {
    const ms_infer::Stream& from = opened(stream);
    const ms_infer::StreamConfig& config = from.config();
    ms_stream_info to = read_struct(info, "info");
    to.model = config.model.c_str();
    to.engine = from.engine_label().c_str();
    to.fps = config.fps;
    to.width = config.width, to.height = config.height;
    to.first_rgb_frames = static_cast<int32_t>(ms_infer::rgb_frames(config.context.opening_frames, true));
    to.rgb_frames = static_cast<int32_t>(ms_infer::rgb_frames(config.context.chunk_frames, false));
    to.max_tracks = config.max_tracks;
    to.text_tokens = config.text.tokens, to.text_dim = config.text.dim;
    to.next_rgb_frames = from.next_rgb_frames();
    const auto& layout = from.layout();
    to.chunk_bytes = config.most_rgb_frames() * static_cast<int64_t>(layout.frame_bytes(layout.row_bytes()));
    write_struct(info, to);
  });
}

ms_status ms_stream_warm_up(ms_stream* stream) {
  return guarded([&] { opened(stream).warm_up(); });
}

ms_status ms_stream_start(ms_stream* stream, const ms_start_params* params) {
  return guarded([&] {
    ms_infer::Stream& target = opened(stream);
    target.start(read_start(params, target.config()));
  });
}

ms_status ms_stream_step(ms_stream* stream, ms_chunk* chunk) {
  return guarded([&] {
    ms_infer::Stream& from = opened(stream);
    ms_chunk to = read_struct(chunk, "chunk");
    const ms_infer::Chunk made = from.step({to.buffer, to.buffer_bytes, to.buffer ? to.row_stride : 0});
    to.index = made.index;
    to.first_rgb_frame = made.first_rgb_frame;
    to.control_id = made.control_id;
    to.frames = made.frames.data;
    to.row_stride = made.frames.row_stride, to.frame_stride = made.frames.frame_stride;
    to.device_frames = made.device.data, to.device_event = made.device.ready;
    to.rgb_frames = made.rgb_frames;
    to.height = from.config().height, to.width = from.config().width;
    to.begin_ms = made.times.begin_ms, to.denoise_ms = made.times.denoise_ms, to.decode_ms = made.times.decode_ms;
    to.write_cache_ms = made.times.write_cache_ms, to.chunk_ms = made.times.chunk_ms;
    write_struct(chunk, to);
  });
}

ms_status ms_stream_cancel(ms_stream* stream) {
  return guarded([&] { opened(stream).cancel(); });
}

ms_status ms_stream_set_tracks(ms_stream* stream, const ms_tracks* tracks, int64_t* control_id) {
  return guarded([&] {
    const int64_t id = opened(stream).set_tracks(tracks ? tracks->tracks : nullptr);
    if (control_id) *control_id = id;
  });
}

ms_status ms_stream_set_prompt(ms_stream* stream, const ms_prompt* prompt, int64_t* control_id) {
  return guarded([&] {
    ms_infer::Stream& target = opened(stream);
    const int64_t id = target.set_prompt(read_prompt(given(prompt, "prompt"), target.config()));
    if (control_id) *control_id = id;
  });
}

ms_status ms_stream_pause(ms_stream* stream) {
  return guarded([&] { opened(stream).pause(); });
}

ms_status ms_stream_resume(ms_stream* stream) {
  return guarded([&] { opened(stream).resume(); });
}

ms_status ms_stream_reset(ms_stream* stream) {
  return guarded([&] { opened(stream).reset(); });
}

ms_status ms_stream_snapshot(ms_stream* stream, const char* path) {
  return guarded([&] { opened(stream).snapshot(given(path, "path")); });
}

ms_status ms_stream_restore(ms_stream* stream, const char* path) {
  return guarded([&] { opened(stream).restore(given(path, "path")); });
}

ms_status ms_stream_save(ms_stream* stream, ms_state** state) {
  return guarded([&] {
    *given(state, "state") = nullptr;
    *state = new ms_state{opened(stream).state()};
  });
}

ms_status ms_stream_load(ms_stream* stream, const ms_state* state) {
  return guarded([&] { opened(stream).load_state(given(state, "state")->state); });
}

ms_status ms_stream_fork(ms_stream* stream, ms_stream** fork) {
  return guarded([&] {
    *given(fork, "fork") = nullptr;
    ms_infer::Stream& from = opened(stream);
    auto made = std::make_unique<ms_stream>();
    const auto state = from.state();
    made->stream = std::make_unique<ms_infer::Stream>(from.model(), from.options());
    made->stream->load_state(state);
    *fork = made.release();
  });
}

void ms_state_destroy(ms_state* state) { delete state; }

}  // extern "C"
