// The C interface: checks what came, calls the library, turns errors into a status and words.
#include <algorithm>
#include <cstring>
#include <new>

#include "ms_infer/ms_infer.h"
#include "stream.hpp"

using ms_infer::fail;
using ms_infer::require;

struct ms_stream {
  std::unique_ptr<ms_infer::Stream> stream;
};

struct ms_state {
  ms_infer::StreamState state;
};

struct ms_tracks {
  std::shared_ptr<const ms_infer::Tracks> tracks;
};

namespace {

// Words of fixed size: keeping them must not fail where memory is out.
thread_local char last_error[1024] = "";

ms_status remember(ms_status status, const char* words) noexcept {
  std::strncpy(last_error, words, sizeof last_error - 1);
  return status;
}

// Runs the work of a function; nothing is thrown across the interface.
template <class Work>
ms_status guarded(Work&& work) noexcept {
  try {
    work();
    return MS_OK;
  } catch (const ms_infer::Error& error) {
    return remember(error.status, error.what());
  } catch (const std::bad_alloc&) {
    return remember(MS_ERROR_MEMORY, "out of memory");
  } catch (const std::exception& error) {
    return remember(MS_ERROR_INTERNAL, error.what());
  } catch (...) {
    return remember(MS_ERROR_INTERNAL, "an unknown error");
  }
}

template <class Pointer>
Pointer* given(Pointer* pointer, const char* name) {
  require(pointer != nullptr, MS_ERROR_CONFIG, name, " is NULL");
  return pointer;
}

// A struct of the caller's, of the size that this version knows.
template <class Struct>
Struct& sized(Struct* value, const char* name) {
  given(value, name);
  require(value->struct_size == sizeof(Struct), MS_ERROR_CONFIG, name, ".struct_size is ", value->struct_size,
          ", this library expects ", sizeof(Struct), "; fill it with its default function, or set sizeof, and build "
          "with the header of this library");
  return *value;
}

template <class Struct>
void set_defaults(Struct* value, std::size_t size, const char* name) {
  given(value, name);
  require(size == sizeof(Struct), MS_ERROR_CONFIG, name, " has ", size, " bytes for the caller, this library expects ",
          sizeof(Struct), "; build with the header of this library");
  *value = Struct{};
  value->struct_size = sizeof(Struct);
}

ms_infer::Stream& opened(const ms_stream* stream) { return *given(stream, "stream")->stream; }

std::string text_or(const char* text, const char* otherwise) { return text ? text : otherwise; }

ms_infer::Prompt read_prompt(const ms_prompt* given_prompt, const ms_infer::StreamConfig& config) {
  ms_infer::Prompt prompt;
  if (!given_prompt) return prompt;
  const ms_prompt& from = sized(given_prompt, "prompt");
  prompt.recache = from.recache != 0;
  prompt.replace_sink = from.replace_sink != 0;
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
  const ms_start_params& from = sized(params, "params");
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

std::optional<ms_infer::PictureSize> picture_size(int32_t width, int32_t height) {
  if (width == 0 && height == 0) return std::nullopt;
  require(width > 0 && height > 0, MS_ERROR_CONFIG, "width x height is ", width, " x ", height,
          "; expected both positive, or both 0 for coordinates 0..1");
  return ms_infer::PictureSize{height, width};
}

void hand_out(ms_tracks** target, ms_infer::Tracks tracks) {
  *target = new ms_tracks{std::make_shared<const ms_infer::Tracks>(std::move(tracks))};
}

}  // namespace

extern "C" {

const char* ms_version(void) { return MS_INFER_VERSION; }

const char* ms_last_error(void) { return last_error; }

const char* ms_status_name(ms_status status) {
  switch (status) {
    case MS_OK: return "ok";
    case MS_ERROR_CONFIG: return "config";
    case MS_ERROR_BUNDLE: return "bundle";
    case MS_ERROR_ENGINE: return "engine";
    case MS_ERROR_MISSING: return "missing";
    case MS_ERROR_DEVICE: return "device";
    case MS_ERROR_STATE: return "state";
    case MS_ERROR_MEMORY: return "memory";
    case MS_ERROR_INTERNAL: return "internal";
  }
  return "unknown";
}

ms_status ms_stream_default_params(ms_stream_params* params, size_t size) {
  return guarded([&] { set_defaults(params, size, "params"); });
}

ms_status ms_start_default_params(ms_start_params* params, size_t size) {
  return guarded([&] { set_defaults(params, size, "params"); });
}

ms_status ms_prompt_default(ms_prompt* prompt, size_t size) {
  return guarded([&] { set_defaults(prompt, size, "prompt"); });
}

ms_status ms_stream_create(const ms_stream_params* params, ms_stream** stream) {
  return guarded([&] {
    *given(stream, "stream") = nullptr;
    const ms_stream_params& from = sized(params, "params");
    given(from.bundle, "params.bundle");
    require(from.threads >= 0, MS_ERROR_CONFIG, "params.threads is ", from.threads, "; expected 0 or more");
    const ms_infer::RunnerOptions options{text_or(from.engine, "auto"), text_or(from.precision, ""), from.threads,
                                          from.device};
    auto made = std::make_unique<ms_stream>();
    made->stream = std::make_unique<ms_infer::Stream>(from.bundle, options);
    *stream = made.release();
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
    ms_stream_info& to = sized(info, "info");
    to.model = config.model.c_str();
    to.engine = from.engine_label().c_str();
    to.fps = config.fps;
    to.width = config.width, to.height = config.height;
    to.first_rgb_frames = static_cast<int32_t>(ms_infer::rgb_frames(config.context.opening_frames, true));
    to.rgb_frames = static_cast<int32_t>(ms_infer::rgb_frames(config.context.chunk_frames, false));
    to.max_tracks = config.max_tracks;
    to.text_tokens = config.text.tokens, to.text_dim = config.text.dim;
  });
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
    ms_chunk& to = sized(chunk, "chunk");
    const ms_infer::Chunk made = from.step();
    to.index = made.index;
    to.first_rgb_frame = made.first_rgb_frame;
    to.control_id = made.control_id;
    to.frames = made.frames.data();
    to.rgb_frames = made.rgb_frames;
    to.height = from.config().height, to.width = from.config().width;
    to.begin_ms = made.times.begin_ms, to.denoise_ms = made.times.denoise_ms, to.decode_ms = made.times.decode_ms;
    to.write_cache_ms = made.times.write_cache_ms, to.chunk_ms = made.times.chunk_ms;
  });
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

void ms_state_destroy(ms_state* state) { delete state; }

ms_status ms_tracks_create(const float* points, const uint8_t* visible, const int64_t* ids, int32_t count,
                           int32_t frames, int32_t width, int32_t height, double fps, ms_tracks** tracks) {
  return guarded([&] {
    *given(tracks, "tracks") = nullptr;
    require(count >= 0 && frames >= 1 && std::int64_t{count} * frames <= std::int64_t{1} << 25, MS_ERROR_CONFIG, count,
            " tracks over ", frames, " RGB frames; expected 0 or more tracks, 1 or more frames, at most 2^25 positions");
    const std::size_t places = static_cast<std::size_t>(count) * static_cast<std::size_t>(frames);
    if (places) given(points, "points");
    std::vector<std::uint8_t> seen(places, 1);
    std::vector<std::int64_t> names(static_cast<std::size_t>(count));
    for (std::size_t i = 0; i < names.size(); ++i) names[i] = ids ? ids[i] : static_cast<std::int64_t>(i);
    for (std::size_t i = 0; visible && i < places; ++i) {
      require(visible[i] <= 1, MS_ERROR_CONFIG, "visible must hold only 0 and 1, not ", int(visible[i]));
      seen[i] = visible[i];
    }
    hand_out(tracks, ms_infer::Tracks::make({points, points + 2 * places}, std::move(seen), std::move(names), frames,
                                            picture_size(width, height), fps));
  });
}

ms_status ms_tracks_grid(int32_t rows, int32_t columns, int32_t width, int32_t height, double fps,
                         ms_tracks** tracks) {
  return guarded([&] {
    *given(tracks, "tracks") = nullptr;
    hand_out(tracks, ms_infer::Tracks::grid(rows, columns, picture_size(width, height), fps));
  });
}

ms_status ms_tracks_drag(const ms_tracks* tracks, double x, double y, double to_x, double to_y, double seconds,
                         double radius, double start, ms_tracks** moved) {
  const double corners[] = {x, y, to_x, to_y};
  return ms_tracks_path(tracks, corners, 2, seconds, radius, start, 1, moved);
}

ms_status ms_tracks_path(const ms_tracks* tracks, const double* corners, int32_t count, double seconds, double radius,
                         double start, int32_t smooth, ms_tracks** moved) {
  return guarded([&] {
    *given(moved, "moved") = nullptr;
    given(tracks, "tracks"), given(corners, "corners");
    std::vector<ms_infer::Point> places;
    for (int32_t i = 0; i < count; ++i) places.push_back({corners[2 * i], corners[2 * i + 1]});
    hand_out(moved, tracks->tracks->path(places, seconds, radius, start, smooth != 0));
  });
}

ms_status ms_tracks_resample(const ms_tracks* tracks, double fps, ms_tracks** resampled) {
  return guarded([&] {
    *given(resampled, "resampled") = nullptr;
    hand_out(resampled, given(tracks, "tracks")->tracks->resample(fps));
  });
}

ms_status ms_tracks_size(const ms_tracks* tracks, int32_t* count, int32_t* frames) {
  return guarded([&] {
    given(tracks, "tracks");
    *given(count, "count") = tracks->tracks->count();
    *given(frames, "frames") = tracks->tracks->frames;
  });
}

ms_status ms_tracks_read(const ms_tracks* tracks, float* points, uint8_t* visible, int64_t* ids) {
  return guarded([&] {
    const ms_infer::Tracks& from = *given(tracks, "tracks")->tracks;
    if (points) std::copy(from.points.begin(), from.points.end(), points);
    if (visible) std::copy(from.visible.begin(), from.visible.end(), visible);
    if (ids) std::copy(from.ids.begin(), from.ids.end(), ids);
  });
}

void ms_tracks_destroy(ms_tracks* tracks) { delete tracks; }

}  // extern "C"
