// The C interface with the stand-in engine: every error one by one.
#include <thread>

#include "api.hpp"

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
  expect(ms_stream_create(nullptr, nullptr, &none), MS_ERROR_CONFIG, "model is NULL");
  expect(ms_model_open(nullptr, nullptr), MS_ERROR_CONFIG, "model is NULL");
  expect(ms_engine_check(nullptr), MS_ERROR_CONFIG, "engine is NULL");
  expect(ms_stream_open(nullptr, nullptr, &none), MS_ERROR_CONFIG, "params is NULL");
  auto params = params_of("x");
  expect(ms_stream_open(&params, nullptr, nullptr), MS_ERROR_CONFIG, "stream is NULL");
  params.bundle = nullptr;
  expect(ms_stream_open(&params, nullptr, &none), MS_ERROR_CONFIG, "bundle is NULL");
  for (const auto status : {ms_stream_close(nullptr), ms_stream_start(nullptr, nullptr), ms_stream_pause(nullptr),
                            ms_stream_resume(nullptr), ms_stream_reset(nullptr), ms_stream_cancel(nullptr), ms_stream_warm_up(nullptr), ms_stream_get_info(nullptr, nullptr),
                            ms_stream_snapshot(nullptr, "x"), ms_stream_restore(nullptr, "x"),
                            ms_stream_set_tracks(nullptr, nullptr, nullptr), ms_stream_set_prompt(nullptr, nullptr, nullptr)})
    expect(status, MS_ERROR_CONFIG, "stream is NULL");
  expect(ms_stream_step(holder.stream, nullptr), MS_ERROR_CONFIG, "chunk is NULL");
  expect(ms_stream_set_prompt(holder.stream, nullptr, nullptr), MS_ERROR_CONFIG, "prompt is NULL");
  expect(ms_stream_snapshot(holder.stream, nullptr), MS_ERROR_CONFIG, "path is NULL");
  expect(ms_tracks_create(nullptr, nullptr, nullptr, 1, 1, 0, 0, 16, &tracks), MS_ERROR_CONFIG, "points is NULL");
  expect(ms_tracks_grid(1, 1, 0, 0, 16, nullptr), MS_ERROR_CONFIG, "tracks is NULL");
  expect(ms_tracks_grab(nullptr, 0, 0, 1, 1, 1, 0, 0, &tracks), MS_ERROR_CONFIG, "tracks is NULL");
  expect(ms_tracks_size(nullptr, &number, &number), MS_ERROR_CONFIG, "tracks is NULL");
  ms_stream_destroy(nullptr), ms_tracks_destroy(nullptr), ms_state_destroy(nullptr), ms_model_close(nullptr);
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
  expect(ms_stream_open(&params, nullptr, &none), MS_ERROR_CONFIG, "params.struct_size is 3");
  ms_start_params start = {};
  expect(ms_stream_start(holder.stream, &start), MS_ERROR_CONFIG, "params.struct_size is 0");
  ms_stream_info info = {};
  expect(ms_stream_get_info(holder.stream, &info), MS_ERROR_CONFIG, "info.struct_size is 0");
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
  ms_start_params start = {};
  start.struct_size = sizeof start;
  start.image = pixel, start.image_width = 1, start.image_height = 0;
  expect(ms_stream_start(holder.stream, &start), MS_ERROR_CONFIG, "the image is 1 x 0");
  start.image_width = 1 << 20, start.image_height = 1 << 20;
  expect(ms_stream_start(holder.stream, &start), MS_ERROR_CONFIG, "pixels");
  TracksHolder many, grid, none;
  must(ms_tracks_grid(5, 5, 0, 0, 16, &many.tracks));
  expect(ms_stream_set_tracks(holder.stream, many.tracks, nullptr), MS_ERROR_CONFIG, "at most 24");
  must(ms_tracks_grid(2, 2, 0, 0, 16, &grid.tracks));
  expect(ms_tracks_grab(grid.tracks, NAN, 0, 1, 1, 1, 0, 0, &none.tracks), MS_ERROR_CONFIG, "finite");
  expect(ms_tracks_grab(grid.tracks, 0, 0, 1, 1, 0, 0.1, 0, &none.tracks), MS_ERROR_CONFIG, "seconds");
  expect(ms_tracks_grab(grid.tracks, 0, 0, 1, 1, 1, -1, 0, &none.tracks), MS_ERROR_CONFIG, "radius");
  expect(ms_tracks_grab(grid.tracks, 0, 0, 1, 1, 1e12, 0.1, 0, &none.tracks), MS_ERROR_CONFIG, "too many positions");
  expect(ms_tracks_grid(1, 1, 5, 0, 16, &none.tracks), MS_ERROR_CONFIG, "both positive");
  expect(ms_tracks_resample(grid.tracks, -1, &none.tracks), MS_ERROR_CONFIG, "fps");
}

TEST(a_bundle_that_is_none_is_refused) {
  refused(scratch / "absent", MS_ERROR_BUNDLE, "ms-export");
  refused(changed_bundle("{", "["), MS_ERROR_BUNDLE, "no JSON");
  refused(changed_bundle("\"format\": 4", "\"format\": 5"), MS_ERROR_BUNDLE, "update ms_infer");
  refused(changed_bundle("\"format\": 4", "\"format\": 3"), MS_ERROR_BUNDLE, "older format 3");
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
  CHECK(ms_stream_open(&params, nullptr, &stream) == MS_OK);
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
  expect(ms_stream_open(&params, nullptr, &none), MS_ERROR_CONFIG, "abacus");
  params.engine = "openvino";
  const auto status = ms_stream_open(&params, nullptr, &none);
  CHECK(status == MS_ERROR_ENGINE || status == MS_ERROR_MISSING);
  auto copy = changed_bundle("\"kind\": \"stand_in\"", "\"kind\": \"unknown\"");
  std::string text = read_text(copy / "manifest.json");
  const std::string other = "\"kind\": \"stand_in_whole\"";
  text.replace(text.find(other), other.size(), "\"kind\": \"other\"");
  std::ofstream(copy / "manifest.json", std::ios::binary) << text;
  refused(copy, MS_ERROR_MISSING, "unknown, other");
}

int main(int count, char** arguments) { return api_main(count, arguments, "refusals"); }
