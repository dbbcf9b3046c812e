// The C interface with the stand-in engine: the loop, snapshots, failures, threads, and every error one by one.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <new>
#include <numeric>
#include <string>
#include <thread>

#include "check.hpp"
#include "ms_infer/ms_infer.h"
#include "stand_in.hpp"

namespace fs = std::filesystem;

namespace {

std::atomic<long> allocations{0};
thread_local bool counting = false;
fs::path bundle, scratch;

struct StreamHolder {
  ms_stream* stream = nullptr;
  ~StreamHolder() { ms_stream_destroy(stream); }
};

struct TracksHolder {
  ms_tracks* tracks = nullptr;
  ~TracksHolder() { ms_tracks_destroy(tracks); }
};

ms_stream_params params_of(const std::string& folder) {
  ms_stream_params params;
  CHECK_EQUAL(ms_stream_default_params(&params, sizeof params), MS_OK);
  params.bundle = folder.c_str();
  return params;
}

ms_status open(const fs::path& folder, StreamHolder& holder) {
  const std::string name = folder.string();
  const auto params = params_of(name);
  return ms_stream_create(&params, &holder.stream);
}

void must(ms_status status) {
  if (status != MS_OK) throw std::runtime_error(std::string(ms_status_name(status)) + ": " + ms_last_error());
}

ms_chunk new_chunk() {
  ms_chunk chunk = {};
  chunk.struct_size = sizeof chunk;
  return chunk;
}

ms_chunk step(ms_stream* stream) {
  ms_chunk chunk = new_chunk();
  must(ms_stream_step(stream, &chunk));
  return chunk;
}

std::string frames_of(const ms_chunk& chunk) {
  const auto size = std::size_t(chunk.rgb_frames) * std::size_t(chunk.height) * std::size_t(chunk.width) * 3;
  return {reinterpret_cast<const char*>(chunk.frames), size};
}

// Frames of the next chunks, joined.
std::string run(ms_stream* stream, int chunks) {
  std::string all;
  for (int i = 0; i < chunks; ++i) all += frames_of(step(stream));
  return all;
}

void start_with_image(ms_stream* stream, std::uint64_t seed) {
  std::vector<std::uint8_t> image(3 * 40 * 30);
  for (std::size_t i = 0; i < image.size(); ++i) image[i] = static_cast<std::uint8_t>(i * 7);
  TracksHolder grid, dragged;
  must(ms_tracks_grid(2, 3, 0, 0, 16.0, &grid.tracks));
  must(ms_tracks_drag(grid.tracks, 0.5, 0.5, 0.8, 0.5, 1.0, 0.3, 0.0, &dragged.tracks));
  ms_prompt prompt;
  must(ms_prompt_default(&prompt, sizeof prompt));
  prompt.text = "a cat";
  ms_start_params params;
  must(ms_start_default_params(&params, sizeof params));
  params.image = image.data(), params.image_width = 40, params.image_height = 30;
  params.prompt = &prompt, params.tracks = dragged.tracks, params.seed = seed;
  must(ms_stream_start(stream, &params));
}

void expect(ms_status status, ms_status wanted, const std::string& words) {
  CHECK_EQUAL(ms_status_name(status), std::string(ms_status_name(wanted)));
  CHECK_CONTAINS(ms_last_error(), words);
}

std::string read_text(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// A copy of the bundle whose manifest had `from` replaced by `to`.
fs::path changed_bundle(const std::string& from, const std::string& to) {
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

void refused(const fs::path& folder, ms_status wanted, const std::string& words) {
  StreamHolder holder;
  expect(open(folder, holder), wanted, words);
  CHECK(holder.stream == nullptr);
}

}  // namespace

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"  // malloc and free are a pair, inlined or not
#endif
// Counts what this library allocates while a test asks for it.
void* operator new(std::size_t size) {
  if (counting) ++allocations;
  if (void* memory = std::malloc(size ? size : 1)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

TEST(a_stream_counts_its_chunks) {
  StreamHolder holder;
  must(open(bundle, holder));
  const auto first = step(holder.stream);
  CHECK_EQUAL(first.index, 0);
  CHECK_EQUAL(first.rgb_frames, 9);
  const auto second = step(holder.stream);
  CHECK_EQUAL(second.index, 1);
  CHECK_EQUAL(second.first_rgb_frame, 9);
  CHECK_EQUAL(second.rgb_frames, 12);
  ms_stream_info info = {};
  info.struct_size = sizeof info;
  must(ms_stream_get_info(holder.stream, &info));
  CHECK_EQUAL(std::string(info.engine), "stand_in fp32");
  CHECK_EQUAL(info.rgb_frames, second.rgb_frames);
  CHECK_EQUAL(info.width, second.width);
  CHECK_EQUAL(info.max_tracks, 24);
}

TEST(seeds_and_controls_decide_the_frames) {
  StreamHolder a, b;
  must(open(bundle, a)), must(open(bundle, b));
  start_with_image(a.stream, 5), start_with_image(b.stream, 5);
  CHECK(run(a.stream, 4) == run(b.stream, 4));
  must(ms_stream_set_tracks(b.stream, nullptr, nullptr));
  CHECK(run(a.stream, 1) != run(b.stream, 1));
  start_with_image(a.stream, 5), start_with_image(b.stream, 6);
  CHECK(run(a.stream, 1) != run(b.stream, 1));
}

TEST(reset_starts_over) {
  StreamHolder holder;
  must(open(bundle, holder));
  start_with_image(holder.stream, 5);
  const auto frames = run(holder.stream, 3);
  must(ms_stream_reset(holder.stream));
  CHECK(run(holder.stream, 3) == frames);
}

TEST(controls_take_effect_at_the_next_chunk_and_newest_wins) {
  StreamHolder a, b;
  must(open(bundle, a)), must(open(bundle, b));
  run(a.stream, 2), run(b.stream, 2);
  TracksHolder grid;
  must(ms_tracks_grid(2, 2, 48, 32, 16.0, &grid.tracks));
  int64_t id = 0;
  must(ms_stream_set_tracks(a.stream, nullptr, &id));
  must(ms_stream_set_tracks(a.stream, grid.tracks, &id));
  must(ms_stream_set_tracks(b.stream, grid.tracks, nullptr));
  CHECK_EQUAL(id, 2);
  const auto made = step(a.stream);
  CHECK_EQUAL(made.control_id, 2);
  CHECK(frames_of(made) == frames_of(step(b.stream)));
}

TEST(a_failed_step_changes_nothing) {
  StreamHolder a, b;
  must(open(bundle, a)), must(open(bundle, b));
  start_with_image(a.stream, 5), start_with_image(b.stream, 5);
  run(a.stream, 2), run(b.stream, 2);
  for (int stage = 1; stage <= 7; ++stage) {  // points, tracks, three passes, decode, clean pass
    ms_infer::fail_stand_in_after(stage);
    ms_chunk chunk = new_chunk();
    expect(ms_stream_step(a.stream, &chunk), MS_ERROR_DEVICE, "told to fail");
  }
  CHECK(run(a.stream, 6) == run(b.stream, 6));
}

TEST(a_stream_from_nothing_forgets_the_picture_before_it) {
  StreamHolder a, b;
  must(open(bundle, a));
  const std::string folder = bundle.string();
  auto params = params_of(folder);
  params.engine = "stand_in_whole";
  must(ms_stream_create(&params, &b.stream));
  start_with_image(b.stream, 5), run(b.stream, 1);
  for (auto* stream : {a.stream, b.stream}) must(ms_stream_start(stream, nullptr));
  CHECK(run(a.stream, 3) == run(b.stream, 3));
}

TEST(the_times_of_stages_are_those_of_whoever_runs_them) {
  StreamHolder host, whole;
  must(open(bundle, host));
  const std::string folder = bundle.string();
  auto params = params_of(folder);
  params.engine = "stand_in_whole";
  must(ms_stream_create(&params, &whole.stream));
  const ms_chunk told = step(whole.stream), measured = step(host.stream);
  CHECK(told.begin_ms == 1 && told.denoise_ms == 2 && told.decode_ms == 3 && told.write_cache_ms == 4);
  CHECK(told.chunk_ms > 0);
  const float parts[] = {measured.begin_ms, measured.denoise_ms, measured.decode_ms, measured.write_cache_ms};
  CHECK(*std::min_element(parts, parts + 4) > 0);
  CHECK(std::accumulate(parts, parts + 4, 0.0f) <= measured.chunk_ms);
}

TEST(an_engine_that_takes_whole_chunks_makes_the_same_frames) {
  StreamHolder a, b, c;
  must(open(bundle, a));
  const std::string folder = bundle.string(), path = (scratch / "whole.snapshot").string();
  auto params = params_of(folder);
  params.engine = "stand_in_whole";
  must(ms_stream_create(&params, &b.stream));
  must(ms_stream_create(&params, &c.stream));
  ms_prompt prompt;
  must(ms_prompt_default(&prompt, sizeof prompt));
  prompt.text = "a dog", prompt.recache = 1;
  for (auto* stream : {a.stream, b.stream}) start_with_image(stream, 5), run(stream, 2);
  ms_infer::fail_stand_in_after(5);
  ms_chunk chunk = new_chunk();
  expect(ms_stream_step(b.stream, &chunk), MS_ERROR_DEVICE, "told to fail");
  for (auto* stream : {a.stream, b.stream}) must(ms_stream_set_prompt(stream, &prompt, nullptr));
  CHECK(run(a.stream, 6) == run(b.stream, 6));
  must(ms_stream_snapshot(b.stream, path.c_str()));
  must(ms_stream_restore(c.stream, path.c_str()));
  CHECK(run(c.stream, 3) == run(a.stream, 3));
}

TEST(a_snapshot_goes_on_where_it_stood) {
  StreamHolder a, b;
  must(open(bundle, a)), must(open(bundle, b));
  start_with_image(a.stream, 5);
  run(a.stream, 5);
  const std::string path = (scratch / "one.snapshot").string();
  must(ms_stream_snapshot(a.stream, path.c_str()));
  run(b.stream, 1);
  must(ms_stream_restore(b.stream, path.c_str()));
  CHECK(run(a.stream, 4) == run(b.stream, 4));
}

TEST(reset_after_restore_starts_what_the_snapshot_holds) {
  StreamHolder a, b;
  must(open(bundle, a)), must(open(bundle, b));
  start_with_image(a.stream, 5);
  run(a.stream, 2);
  const std::string path = (scratch / "again.snapshot").string();
  must(ms_stream_snapshot(a.stream, path.c_str()));
  must(ms_stream_restore(b.stream, path.c_str()));
  run(b.stream, 1);
  must(ms_stream_reset(a.stream)), must(ms_stream_reset(b.stream));
  CHECK(run(a.stream, 3) == run(b.stream, 3));
}

TEST(a_damaged_snapshot_leaves_the_stream_as_it_was) {
  StreamHolder a, b;
  must(open(bundle, a)), must(open(bundle, b));
  start_with_image(a.stream, 5), start_with_image(b.stream, 5);
  const fs::path path = scratch / "two.snapshot";
  must(ms_stream_snapshot(a.stream, path.string().c_str()));
  std::string text = read_text(path);
  const auto digest = text.find("\"digest\":\"");
  text[digest + 12] = text[digest + 12] == 'a' ? 'b' : 'a';
  std::ofstream(path, std::ios::binary) << text;
  expect(ms_stream_restore(a.stream, path.string().c_str()), MS_ERROR_CONFIG, "other settings or another engine");
  fs::resize_file(path, 1000);
  expect(ms_stream_restore(a.stream, path.string().c_str()), MS_ERROR_CONFIG, "not a readable snapshot");
  expect(ms_stream_restore(a.stream, "/nowhere/at/all"), MS_ERROR_CONFIG, "cannot read");
  expect(ms_stream_snapshot(a.stream, "/nowhere/at/all"), MS_ERROR_CONFIG, "cannot write");
  CHECK(run(a.stream, 2) == run(b.stream, 2));
}

TEST(prompts_come_as_words_embeddings_and_files) {
  StreamHolder a, b;
  must(open(bundle, a)), must(open(bundle, b));
  run(a.stream, 1), run(b.stream, 1);
  std::vector<float> values(2 * 8);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = float(i) / 4;
  const fs::path path = scratch / "prompt.npy";
  std::string header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 8), }";
  header.resize(117, ' ');
  const std::string magic = std::string("\x93NUMPY\x01\x00", 8) + char(118) + '\0' + header + '\n';
  std::ofstream(path, std::ios::binary) << magic << std::string(reinterpret_cast<char*>(values.data()), 64);
  const std::string name = path.string();
  ms_prompt prompt;
  must(ms_prompt_default(&prompt, sizeof prompt));
  prompt.embedding = values.data(), prompt.embedding_tokens = 2, prompt.recache = 1;
  must(ms_stream_set_prompt(a.stream, &prompt, nullptr));
  prompt.embedding = nullptr, prompt.embedding_file = name.c_str();
  must(ms_stream_set_prompt(b.stream, &prompt, nullptr));
  CHECK(run(a.stream, 2) == run(b.stream, 2));
  prompt.embedding_file = nullptr, prompt.text = "night";
  must(ms_stream_set_prompt(b.stream, &prompt, nullptr));
  CHECK(run(a.stream, 1) != run(b.stream, 1));
  prompt.embedding = values.data(), prompt.embedding_tokens = 7;
  expect(ms_stream_set_prompt(a.stream, &prompt, nullptr), MS_ERROR_CONFIG, "expected 0..6");
}

TEST(a_paused_stream_refuses_steps_and_takes_controls) {
  StreamHolder holder;
  must(open(bundle, holder));
  must(ms_stream_pause(holder.stream));
  ms_chunk chunk = new_chunk();
  expect(ms_stream_step(holder.stream, &chunk), MS_ERROR_STATE, "paused");
  must(ms_stream_set_tracks(holder.stream, nullptr, nullptr));
  must(ms_stream_resume(holder.stream));
  must(ms_stream_step(holder.stream, &chunk));
}

TEST(the_loop_allocates_nothing) {
  StreamHolder holder;
  must(open(bundle, holder));
  start_with_image(holder.stream, 5);
  run(holder.stream, 4);
  allocations = 0;
  counting = true;
  for (int i = 0; i < 100; ++i) {
    ms_chunk chunk = new_chunk();
    if (ms_stream_step(holder.stream, &chunk) != MS_OK) allocations = -1'000'000;
  }
  counting = false;
  CHECK_EQUAL(allocations.load(), 0);
}

TEST(two_streams_in_two_threads_and_controls_from_a_third) {
  StreamHolder alone, a, b;
  must(open(bundle, alone)), must(open(bundle, a)), must(open(bundle, b));
  start_with_image(alone.stream, 5), start_with_image(a.stream, 5);
  std::string wanted = run(alone.stream, 40), made;
  std::atomic<bool> over{false};
  std::thread first([&] { made = run(a.stream, 40); });
  std::thread second([&] { run(b.stream, 40), over = true; });
  std::thread third([&] {
    TracksHolder grid;
    must(ms_tracks_grid(2, 2, 0, 0, 16.0, &grid.tracks));
    ms_prompt prompt;
    must(ms_prompt_default(&prompt, sizeof prompt));
    prompt.text = "a dog";
    while (!over) {
      must(ms_stream_set_tracks(b.stream, grid.tracks, nullptr));
      must(ms_stream_set_prompt(b.stream, &prompt, nullptr));
    }
  });
  first.join(), second.join(), third.join();
  CHECK(made == wanted);
}

TEST(errors_are_kept_per_thread) {
  expect(ms_stream_step(nullptr, nullptr), MS_ERROR_CONFIG, "stream is NULL");
  std::string other = "?";
  std::thread([&] { other = ms_last_error(); }).join();
  CHECK_EQUAL(other, "");
}

TEST(null_pointers_are_refused) {
  StreamHolder holder;
  must(open(bundle, holder));
  ms_stream* none = nullptr;
  ms_tracks* tracks = nullptr;
  int32_t number = 0;
  expect(ms_stream_default_params(nullptr, 0), MS_ERROR_CONFIG, "NULL");
  expect(ms_stream_create(nullptr, &none), MS_ERROR_CONFIG, "params is NULL");
  auto params = params_of("x");
  expect(ms_stream_create(&params, nullptr), MS_ERROR_CONFIG, "stream is NULL");
  params.bundle = nullptr;
  expect(ms_stream_create(&params, &none), MS_ERROR_CONFIG, "bundle is NULL");
  for (const auto status : {ms_stream_close(nullptr), ms_stream_start(nullptr, nullptr), ms_stream_pause(nullptr),
                            ms_stream_resume(nullptr), ms_stream_reset(nullptr), ms_stream_get_info(nullptr, nullptr),
                            ms_stream_snapshot(nullptr, "x"), ms_stream_restore(nullptr, "x"),
                            ms_stream_set_tracks(nullptr, nullptr, nullptr), ms_stream_set_prompt(nullptr, nullptr, nullptr)})
    expect(status, MS_ERROR_CONFIG, "stream is NULL");
  expect(ms_stream_step(holder.stream, nullptr), MS_ERROR_CONFIG, "chunk is NULL");
  expect(ms_stream_set_prompt(holder.stream, nullptr, nullptr), MS_ERROR_CONFIG, "prompt is NULL");
  expect(ms_stream_snapshot(holder.stream, nullptr), MS_ERROR_CONFIG, "path is NULL");
  expect(ms_tracks_create(nullptr, nullptr, nullptr, 1, 1, 0, 0, 16, &tracks), MS_ERROR_CONFIG, "points is NULL");
  expect(ms_tracks_grid(1, 1, 0, 0, 16, nullptr), MS_ERROR_CONFIG, "tracks is NULL");
  expect(ms_tracks_drag(nullptr, 0, 0, 1, 1, 1, 0, 0, &tracks), MS_ERROR_CONFIG, "tracks is NULL");
  expect(ms_tracks_size(nullptr, &number, &number), MS_ERROR_CONFIG, "tracks is NULL");
  ms_stream_destroy(nullptr), ms_tracks_destroy(nullptr);
}

TEST(a_wrong_struct_size_is_refused) {
  StreamHolder holder;
  must(open(bundle, holder));
  ms_chunk chunk = {};
  expect(ms_stream_step(holder.stream, &chunk), MS_ERROR_CONFIG, "chunk.struct_size is 0");
  chunk.struct_size = sizeof chunk + 8;
  expect(ms_stream_step(holder.stream, &chunk), MS_ERROR_CONFIG, "expects");
  const std::string folder = bundle.string();
  auto params = params_of(folder);
  params.struct_size = 3;
  ms_stream* none = nullptr;
  expect(ms_stream_create(&params, &none), MS_ERROR_CONFIG, "params.struct_size is 3");
  ms_start_params start = {};
  expect(ms_stream_start(holder.stream, &start), MS_ERROR_CONFIG, "params.struct_size is 0");
  ms_stream_info info = {};
  expect(ms_stream_get_info(holder.stream, &info), MS_ERROR_CONFIG, "info.struct_size is 0");
  expect(ms_stream_default_params(&params, 1), MS_ERROR_CONFIG, "has 1 bytes");
}

TEST(a_closed_stream_refuses_everything) {
  StreamHolder holder;
  must(open(bundle, holder));
  step(holder.stream);
  must(ms_stream_close(holder.stream));
  must(ms_stream_close(holder.stream));
  ms_chunk chunk = new_chunk();
  expect(ms_stream_step(holder.stream, &chunk), MS_ERROR_STATE, "closed");
  for (const auto status : {ms_stream_start(holder.stream, nullptr), ms_stream_set_tracks(holder.stream, nullptr, nullptr),
                            ms_stream_reset(holder.stream), ms_stream_snapshot(holder.stream, "x"),
                            ms_stream_restore(holder.stream, "x")})
    CHECK_EQUAL(status, MS_ERROR_STATE);
}

TEST(inputs_that_cannot_work_are_refused) {
  StreamHolder holder;
  must(open(bundle, holder));
  std::uint8_t pixel[3] = {};
  ms_start_params start;
  must(ms_start_default_params(&start, sizeof start));
  start.image = pixel, start.image_width = 1, start.image_height = 0;
  expect(ms_stream_start(holder.stream, &start), MS_ERROR_CONFIG, "the image is 1 x 0");
  start.image_width = 1 << 20, start.image_height = 1 << 20;
  expect(ms_stream_start(holder.stream, &start), MS_ERROR_CONFIG, "pixels");
  TracksHolder many, grid, none;
  must(ms_tracks_grid(5, 5, 0, 0, 16, &many.tracks));
  expect(ms_stream_set_tracks(holder.stream, many.tracks, nullptr), MS_ERROR_CONFIG, "at most 24");
  must(ms_tracks_grid(2, 2, 0, 0, 16, &grid.tracks));
  expect(ms_tracks_drag(grid.tracks, NAN, 0, 1, 1, 1, 0, 0, &none.tracks), MS_ERROR_CONFIG, "finite");
  expect(ms_tracks_drag(grid.tracks, 0, 0, 1, 1, 0, 0, 0, &none.tracks), MS_ERROR_CONFIG, "seconds");
  expect(ms_tracks_drag(grid.tracks, 0, 0, 1, 1, 1, -1, 0, &none.tracks), MS_ERROR_CONFIG, "radius");
  expect(ms_tracks_drag(grid.tracks, 0, 0, 1, 1, 1e12, 0, 0, &none.tracks), MS_ERROR_CONFIG, "too many positions");
  expect(ms_tracks_grid(1, 1, 5, 0, 16, &none.tracks), MS_ERROR_CONFIG, "both positive");
  expect(ms_tracks_resample(grid.tracks, -1, &none.tracks), MS_ERROR_CONFIG, "fps");
}

TEST(a_bundle_that_is_none_is_refused) {
  refused(scratch / "absent", MS_ERROR_BUNDLE, "ms-export");
  refused(changed_bundle("{", "["), MS_ERROR_BUNDLE, "no JSON");
  refused(changed_bundle("\"format\": 2", "\"format\": 3"), MS_ERROR_BUNDLE, "update ms_infer");
  refused(changed_bundle("\"format\": 2", "\"format\": 1"), MS_ERROR_BUNDLE, "older format 1");
  refused(changed_bundle("\"role\": \"pass\"", "\"role\": \"pas\""), MS_ERROR_BUNDLE, "the role 'pas'");
  refused(changed_bundle("\"role\": \"cache\"", "\"role\": \"state\""), MS_ERROR_BUNDLE, "which do not fit");
  refused(changed_bundle("\"writes\"", "\"reads\""), MS_ERROR_BUNDLE, "lacks the field 'writes'");
  refused(changed_bundle("\"heads\": 2", "\"heads\": 5"), MS_ERROR_BUNDLE, "heads");
  refused(changed_bundle("\"chunk_frames\": 3", "\"chunk_frames\": 99999999999"), MS_ERROR_BUNDLE, "chunk_frames");
  refused(changed_bundle("\"dtype\": \"float32\"", "\"dtype\": \"float31\""), MS_ERROR_BUNDLE, "float31");
}

TEST(a_bundle_that_was_changed_is_refused) {
  refused(changed_bundle("\"weights.bin\": {", "\"../weights.bin\": {"), MS_ERROR_BUNDLE, "digest");
  refused(changed_bundle("\"files\": {", "\"files\": {\"/etc/passwd\": {\"bytes\": 1, \"sha256\": \"\"},"),
          MS_ERROR_BUNDLE, "leaves the bundle");
  refused(changed_bundle("\"files\": {", "\"files\": {\"a/../../b\": {\"bytes\": 1, \"sha256\": \"\"},"),
          MS_ERROR_BUNDLE, "leaves the bundle");
  const auto copy = changed_bundle("{", "{");
  std::fstream(copy / "weights.bin", std::ios::in | std::ios::out | std::ios::binary) << "tampered";
  refused(copy, MS_ERROR_BUNDLE, "changed after the export");
  fs::resize_file(copy / "weights.bin", 5);
  refused(copy, MS_ERROR_BUNDLE, "has 5 bytes");
  fs::remove(copy / "weights.bin");
  refused(copy, MS_ERROR_BUNDLE, "is missing");
  fs::create_symlink(bundle / "weights.bin", copy / "weights.bin");
  refused(copy, MS_ERROR_BUNDLE, "leaves the bundle");
}

TEST(a_bundle_in_a_hub_cache_opens) {
  const auto root = scratch / "hub" / "models--someone--bundle";
  const auto snapshot = root / "snapshots" / "0123";
  fs::create_directories(root / "blobs");
  fs::create_directories(snapshot);
  for (const auto& entry : fs::directory_iterator(bundle)) {
    fs::copy_file(entry.path(), root / "blobs" / entry.path().filename());
    fs::create_symlink(fs::path("../../blobs") / entry.path().filename(), snapshot / entry.path().filename());
  }
  const std::string folder = snapshot.string();
  auto params = params_of(folder);
  ms_stream* stream = nullptr;
  CHECK(ms_stream_create(&params, &stream) == MS_OK);
  ms_stream_destroy(stream);
  std::fstream(root / "blobs" / "weights.bin", std::ios::in | std::ios::out | std::ios::binary) << "tampered";
  refused(snapshot, MS_ERROR_BUNDLE, "changed after the export");
  fs::remove(snapshot / "weights.bin");
  fs::create_symlink(bundle / "weights.bin", snapshot / "weights.bin");
  refused(snapshot, MS_ERROR_BUNDLE, "leaves the bundle");
}

TEST(an_engine_that_cannot_be_is_refused) {
  const std::string folder = bundle.string();
  auto params = params_of(folder);
  ms_stream* none = nullptr;
  params.engine = "abacus";
  expect(ms_stream_create(&params, &none), MS_ERROR_CONFIG, "abacus");
  params.engine = "openvino";
  const auto status = ms_stream_create(&params, &none);
  CHECK(status == MS_ERROR_ENGINE || status == MS_ERROR_MISSING);
  auto copy = changed_bundle("\"kind\": \"stand_in\"", "\"kind\": \"unknown\"");
  std::string text = read_text(copy / "manifest.json");
  const std::string other = "\"kind\": \"stand_in_whole\"";
  text.replace(text.find(other), other.size(), "\"kind\": \"other\"");
  std::ofstream(copy / "manifest.json", std::ios::binary) << text;
  refused(copy, MS_ERROR_MISSING, "unknown, other");
}

int main(int count, char** arguments) {
  if (count < 2 || !fs::exists(fs::path(arguments[1]) / "manifest.json")) {
    std::puts("skipped: no stand-in bundle; it needs a Python with numpy (-DPython_EXECUTABLE)");
    return 77;
  }
  bundle = fs::absolute(arguments[1]);
  scratch = fs::temp_directory_path() / ("ms_infer_api_" + std::to_string(std::hash<std::thread::id>{}(std::this_thread::get_id())));
  fs::create_directories(scratch);
  const int result = check::main(count - 1, arguments + 1);
  fs::remove_all(scratch);
  return result;
}
