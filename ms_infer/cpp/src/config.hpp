// Settings of a stream, as far as the host needs them, and where a chunk goes in the context: config/ in C++.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "files/json.hpp"

namespace ms_infer {

constexpr int kRgbPerLatentFrame = 4;

// RGB frames that latent frames decode to; `first` when they open the stream.
constexpr std::int64_t rgb_frames(std::int64_t latent_frames, bool first) {
  return latent_frames * kRgbPerLatentFrame - (first ? kRgbPerLatentFrame - 1 : 0);
}

// Where one pass reads and writes the cache; see `Placement` of config/context.py. Holds no heap memory.
struct Placement {
  std::int64_t start = 0;
  int frames = 0;
  std::int64_t first_written = 0;  // cache slots are those of the latent frames [first_written, start + frames)
  int valid_frames = 0;
  std::int64_t sink_position = 0;

  int written() const { return start + frames > first_written ? static_cast<int>(start + frames - first_written) : 0; }
};

struct ContextConfig {
  int chunk_frames = 3, sink_frames = 3, window_frames = 3, opening_frames = 3;
  bool relative = true;
  bool recompute = false;  // the window is encoded again before every chunk, by itself

  int ring_frames() const { return window_frames + chunk_frames; }
  int cache_frames() const { return sink_frames + ring_frames(); }
  // Newest latent frames that are encoded again where the context is.
  int reencoded_frames() const { return recompute ? window_frames : cache_frames(); }
  // Latent frames of a chunk, and where it begins; `given` latent frames came before the first one.
  int frames_of_chunk(std::int64_t index, std::int64_t given = 0) const {
    return index == 0 && !given ? opening_frames : chunk_frames;
  }
  std::int64_t start_of_chunk(std::int64_t index, std::int64_t given = 0) const {
    if (given) return given + index * chunk_frames;
    return index == 0 ? 0 : opening_frames + (index - 1) * chunk_frames;
  }
  // The latent frames [start, start + frames); MS_ERROR_CONFIG when they do not fit.
  Placement place(std::int64_t start, int frames, std::int64_t sink_start = 0) const;
  // Cache slot of a latent frame: the sink, then the ring, in whose first slot `ring_start` lies; unless it is given,
  // the frame after the sink.
  int slot(std::int64_t frame, std::int64_t sink_start = 0, std::optional<std::int64_t> ring_start = {}) const;
};

struct ScheduleConfig {
  std::vector<double> timesteps;
  bool warp = true;
  double shift = 6.0;
  bool shifted_twice = false;
  double context_timestep = 0.0;
  bool fresh_noise = true;
};

struct TextConfig {
  bool words = false;
  int tokens = 0, dim = 0;
  std::vector<std::string> vocabulary;
};

enum class ImageInput { slot, prefill, pin };
// What the image slot holds after the latent frame 0: zeros, the first frame, or four grey frames after it.
enum class ImageAt { first, every, grey };
// Latent frames after which every autoencoder has forgotten a first frame that only grey ones follow.
constexpr std::int64_t kGreyLatentFrames = 32;

struct StreamConfig {
  std::string model;
  int heads = 0, head_dim = 0, layers = 0, freq_dim = 0;
  std::vector<std::pair<std::string, int>> layout;  // (slot, channels)
  ImageAt image_at = ImageAt::first;
  ImageInput image_input = ImageInput::slot;
  int max_tracks = 0;  // 0: no track head
  bool hides_outside = true;  // points outside the picture are invisible
  TextConfig text;
  ContextConfig context;
  ScheduleConfig schedule;
  int height = 0, width = 0;
  double fps = 16.0;
  int spatial_stride = 8;
  std::string sorted_json;  // what a snapshot's digest covers

  // From the manifest's "config"; MS_ERROR_BUNDLE for what cannot work.
  static StreamConfig read(const Json& json);

  int latent_height() const { return height / spatial_stride; }
  int latent_width() const { return width / spatial_stride; }
  int token_rows() const { return latent_height() / 2; }
  int token_columns() const { return latent_width() / 2; }
  int tokens_per_frame() const { return token_rows() * token_columns(); }
  int in_channels() const;
  // RGB frames of the longest chunk.
  std::int64_t most_rgb_frames() const {
    return std::max(rgb_frames(context.opening_frames, true), rgb_frames(context.chunk_frames, false));
  }
  bool has_track_head() const { return max_tracks > 0; }
  // Whether the sink is re-rotated while the stream goes on.
  bool rolls() const { return context.relative && context.sink_frames > 0; }
};

}  // namespace ms_infer
