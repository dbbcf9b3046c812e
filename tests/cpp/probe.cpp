// Host logic for test_library.py, which compares it with Python's through ctypes. Never installed.
#include <cstring>

#include "blend.hpp"
#include "bundle/manifest.hpp"
#include "bundle/sha256.hpp"
#include "media/picture.hpp"
#include "numerics/angles.hpp"
#include "numerics/noise.hpp"
#include "numerics/schedule.hpp"
#include "tracks/tracks.hpp"
#include "words.hpp"

#define PROBE extern "C" __attribute__((visibility("default")))

using namespace ms_infer;

PROBE void ms_probe_normal(std::uint64_t seed, std::uint64_t chunk, std::uint32_t denoise_pass, float* values,
                           std::size_t count) {
  fill_normal({values, count}, seed, chunk, denoise_pass);
}

PROBE void ms_probe_tables(std::int64_t position, int frames, int rows, int columns, int head_dim, float* cos,
                           float* sin) {
  const auto size = std::size_t(frames) * std::size_t(rows) * std::size_t(columns) * std::size_t(head_dim / 2);
  RotationTables({cos, size}, {sin, size}, rows, columns, head_dim).move_to(position);
}

PROBE void ms_probe_sinusoids(double timestep, float* values, std::size_t count) {
  fill_timestep_sinusoids(timestep, {values, count});
}

// steps [count, 3]: timestep, sigma, next sigma.
PROBE void ms_probe_schedule(const double* timesteps, std::size_t count, int warp, double shift, int twice,
                             double* steps) {
  const ScheduleConfig config{
      .timesteps = {timesteps, timesteps + count}, .warp = warp != 0, .shift = shift, .shifted_twice = twice != 0};
  for (const auto& step : denoise_steps(config)) {
    *steps++ = step.timestep, *steps++ = step.sigma, *steps++ = step.next_sigma;
  }
}

// context: chunk, sink, window, opening, relative. Fills the slots; returns how many, valid and sink position in `out`.
PROBE int ms_probe_place(const int* context, std::int64_t start, int frames, std::int64_t sink_start, int* slots,
                         std::int64_t* out) {
  const ContextConfig config{context[0], context[1], context[2], context[3], context[4] != 0};
  const Placement placement = config.place(start, frames, sink_start);
  for (int i = 0; i < placement.written(); ++i) slots[i] = config.slot(placement.first_written + i - sink_start);
  out[0] = placement.valid_frames, out[1] = placement.sink_position;
  return placement.written();
}

PROBE void ms_probe_picture(const std::uint8_t* rgb, int height, int width, std::uint8_t* out, int to_height,
                            int to_width) {
  const auto fitted = fit_picture({rgb, std::size_t(3 * height * width)}, {height, width}, {to_height, to_width});
  std::memcpy(out, fitted.data(), fitted.size());
}

PROBE void ms_probe_words(const char* const* vocabulary, std::size_t words, const char* prompt, std::int64_t* rows,
                          std::size_t count) {
  TextConfig text;
  text.vocabulary.assign(vocabulary, vocabulary + words);
  Tokenizer(text).fill(prompt, {rows, count});
}

PROBE void ms_probe_blend(int chunks, int slerp, int chunk, std::size_t size, std::size_t dim, const float* old,
                          const float* next, float* made) {
  const auto embedding = [&](const float* from) { return std::make_shared<const std::vector<float>>(from, from + size); };
  const auto blended = Blend{chunks, slerp != 0}.between(embedding(old), embedding(next), dim, chunk);
  std::copy(blended->begin(), blended->end(), made);
}

// The config of a bundle as Python's json.dumps(..., sort_keys=True) writes it; returns its length.
PROBE std::size_t ms_probe_config(const char* folder, char* text, std::size_t size) {
  const auto sorted = Manifest::load(folder).config.sorted_json;
  std::strncpy(text, sorted.c_str(), size);
  return sorted.size();
}

PROBE TrackPlayer* ms_probe_player(int height, int width, double fps, int max_tracks, int hide_outside) {
  return new TrackPlayer({height, width}, fps, max_tracks, hide_outside != 0);
}

PROBE void ms_probe_player_set(TrackPlayer* player, const float* points, const std::uint8_t* visible,
                               const std::int64_t* ids, int count, int frames, int height, int width, double fps,
                               std::int64_t at_frame) {
  const auto places = std::size_t(count) * std::size_t(frames);
  const auto size = height ? std::optional(PictureSize{height, width}) : std::nullopt;
  const auto tracks = Tracks::make({points, points + 2 * places}, {visible, visible + places}, {ids, ids + count},
                                   frames, size, fps);
  player->set(&tracks, at_frame);
}

PROBE void ms_probe_player_fill(const TrackPlayer* player, std::int64_t first_frame, int count, int max_tracks,
                                float* points, std::uint8_t* visible, std::int64_t* ids, float* anchors) {
  const auto tracks = std::size_t(max_tracks), places = tracks * std::size_t(count);
  player->fill(first_frame, count, {points, 2 * places}, {visible, places}, {ids, tracks}, {anchors, 2 * tracks});
}

PROBE void ms_probe_player_free(TrackPlayer* player) { delete player; }
