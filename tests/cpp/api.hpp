// What the tests of the C interface share: handles that free themselves, a stream with the stand-in engine, refusals.
#pragma once

#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "check.hpp"
#include "ms_infer/ms_infer.h"
#include "stand_in.hpp"

namespace fs = std::filesystem;

inline fs::path bundle, scratch;

struct ModelHolder {
  ms_model* model = nullptr;
  ~ModelHolder() { ms_model_close(model); }
};

struct StreamHolder {
  ms_stream* stream = nullptr;
  ~StreamHolder() { ms_stream_destroy(stream); }
};

struct TracksHolder {
  ms_tracks* tracks = nullptr;
  ~TracksHolder() { ms_tracks_destroy(tracks); }
};

inline ms_model_params params_of(const std::string& folder) {
  ms_model_params params = {};
  params.struct_size = sizeof params;
  params.bundle = folder.c_str();
  return params;
}

inline ms_status open(const fs::path& folder, StreamHolder& holder) {
  const std::string name = folder.string();
  const auto params = params_of(name);
  return ms_stream_open(&params, nullptr, &holder.stream);
}

inline void must(ms_status status) {
  if (status != MS_OK) throw std::runtime_error(std::string(ms_status_name(status)) + ": " + ms_last_error());
}

inline ms_chunk new_chunk() {
  ms_chunk chunk = {};
  chunk.struct_size = sizeof chunk;
  return chunk;
}

inline ms_chunk step(ms_stream* stream) {
  ms_chunk chunk = new_chunk();
  must(ms_stream_step(stream, &chunk));
  return chunk;
}

inline std::string frames_of(const ms_chunk& chunk) {
  const auto size = std::size_t(chunk.rgb_frames) * std::size_t(chunk.height) * std::size_t(chunk.width) * 3;
  return {reinterpret_cast<const char*>(chunk.frames), size};
}

// Frames of the next chunks, joined.
inline std::string run(ms_stream* stream, int chunks) {
  std::string all;
  for (int i = 0; i < chunks; ++i) all += frames_of(step(stream));
  return all;
}

inline void start_with_image(ms_stream* stream, std::uint64_t seed) {
  std::vector<std::uint8_t> image(3 * 40 * 30);
  for (std::size_t i = 0; i < image.size(); ++i) image[i] = static_cast<std::uint8_t>(i * 7);
  TracksHolder grid, dragged;
  must(ms_tracks_grid(2, 3, 0, 0, 16.0, &grid.tracks));
  must(ms_tracks_grab(grid.tracks, 0.5, 0.5, 0.8, 0.5, 1.0, 0.3, 0.0, &dragged.tracks));
  ms_prompt prompt = {};
  prompt.struct_size = sizeof prompt;
  prompt.text = "a cat";
  ms_start_params params = {};
  params.struct_size = sizeof params;
  params.image = image.data(), params.image_width = 40, params.image_height = 30;
  params.prompt = &prompt, params.tracks = dragged.tracks, params.seed = seed;
  must(ms_stream_start(stream, &params));
}

inline void expect(ms_status status, ms_status wanted, const std::string& words) {
  CHECK_EQUAL(ms_status_name(status), std::string(ms_status_name(wanted)));
  CHECK_CONTAINS(ms_last_error(), words);
}

inline std::string read_text(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// A copy of the bundle whose manifest had `from` replaced by `to`.
inline fs::path changed_bundle(const std::string& from, const std::string& to) {
  const fs::path copy = scratch / "changed";
  fs::remove_all(copy);
  fs::copy(bundle, copy, fs::copy_options::recursive);
  std::string text = read_text(copy / "manifest.json");
  const auto place = text.find(from);
  CHECK(place != std::string::npos);
  text.replace(place, from.size(), to);
  std::ofstream(copy / "manifest.json", std::ios::binary) << text;
  return copy;
}

inline void refused(const fs::path& folder, ms_status wanted, const std::string& words) {
  StreamHolder holder;
  expect(open(folder, holder), wanted, words);
  CHECK(holder.stream == nullptr);
}

inline int api_main(int count, char** arguments, const char* name) {
  if (count < 2 || !fs::exists(fs::path(arguments[1]) / "manifest.json")) {
    std::puts("skipped: no stand-in bundle; it needs a Python with numpy (-DPython_EXECUTABLE)");
    return 77;
  }
  bundle = fs::absolute(arguments[1]);
  scratch = fs::temp_directory_path() / (std::string("ms_infer_") + name + std::to_string(std::hash<std::string>{}(bundle.string())));
  fs::remove_all(scratch);
  fs::create_directories(scratch);
  const int result = check::main(count - 1, arguments + 1);
  fs::remove_all(scratch);
  return result;
}
