// Models that streams share, how they load, and what a stream hands out: with the stand-in engine, through the C
// interface.
#include <atomic>
#include <cstddef>
#include <cstring>
#include <thread>
#include <tuple>

#include "api.hpp"
#include "ms_infer/ms_infer.hpp"

namespace {

void open_model(ModelHolder& holder) {
  const std::string folder = bundle.string();
  const auto params = params_of(folder);
  must(ms_model_open(&params, &holder.model));
}

ms_stream* stream_of(ms_model* model, ms_format format = MS_RGB24, int keep = 0) {
  ms_stream_params params = {};
  params.struct_size = sizeof params;
  params.format = format, params.keep = keep;
  ms_stream* stream = nullptr;
  must(ms_stream_create(model, &params, &stream));
  return stream;
}

std::atomic<int> stages_run{0};

}  // namespace

TEST(streams_of_one_model_are_independent_and_load_it_once) {
  const int before = ms_infer::stand_in_loads();
  ModelHolder model;
  open_model(model);
  StreamHolder a{stream_of(model.model)}, b{stream_of(model.model)}, alone;
  CHECK_EQUAL(ms_infer::stand_in_loads(), before + 1);
  must(open(bundle, alone));
  start_with_image(alone.stream, 5), start_with_image(a.stream, 5);
  const std::string wanted = run(alone.stream, 20);
  std::string made;
  std::thread first([&] { made = run(a.stream, 20); }), second([&] { run(b.stream, 20); });
  first.join(), second.join();
  CHECK(made == wanted);
}

TEST(an_opening_chunk_has_no_memory_of_its_own) {
  using ms_infer::Stage;
  const auto manifest = ms_infer::Manifest::load(bundle);
  ms_infer::HostArrays arrays(manifest.stages.at("fp32"));
  for (const char* name : {"track_ids", "moved", "validity"}) {
    const auto first = arrays.bytes(Stage::tracks_first, name), later = arrays.bytes(Stage::tracks, name);
    CHECK(first.data() == later.data() && first.size() <= later.size());
    CHECK_EQUAL(first.size(), arrays.tensor(Stage::tracks_first, name).bytes());
  }
  CHECK(arrays.bytes(Stage::compose, "image").data() == arrays.bytes(Stage::encode, "image").data());
  for (const int side : {0, 1})
    CHECK(arrays.bytes(Stage::decode_first, "frames", side).data() == arrays.bytes(Stage::decode, "frames").data());
}

TEST(streams_keep_their_model) {
  StreamHolder stream;
  {
    ModelHolder model;
    open_model(model);
    stream.stream = stream_of(model.model);
  }
  CHECK(!run(stream.stream, 3).empty());
}

TEST(a_load_tells_its_parts_and_can_be_cancelled) {
  static std::string told;
  const std::string folder = bundle.string();
  auto params = params_of(folder);
  params.user = &told;
  params.progress = [](void* user, const char* what, double done) {
    *static_cast<std::string*>(user) += what + std::string(" ") + (done < 1 ? "" : "all ");
    return 0;
  };
  ModelHolder model;
  must(ms_model_open(&params, &model.model));
  CHECK_EQUAL(told, "manifest denoise done all ");
  params.progress = [](void*, const char* what, double) { return int(std::string(what) == "denoise"); };
  ms_model* none = nullptr;
  expect(ms_model_open(&params, &none), MS_ERROR_CANCELLED, "cancelled");
  CHECK(none == nullptr);
}

TEST(a_log_hears_what_happens_until_it_is_taken_away) {
  static std::string heard;
  heard.clear();
  ms_set_log([](void*, int level, const char* words) { heard += std::to_string(level) + " " + words + "\n"; }, nullptr);
  ModelHolder model, quiet;
  open_model(model);
  ms_set_log(nullptr, nullptr);
  CHECK_CONTAINS(heard, "0 loading denoise\n1 opened ");
  const auto length = heard.size();
  open_model(quiet);
  CHECK_EQUAL(heard.size(), length);
}

TEST(a_warm_up_runs_every_stage_and_changes_nothing) {
  ModelHolder model;
  open_model(model);
  StreamHolder cold{stream_of(model.model)}, warm{stream_of(model.model)};
  for (auto* stream : {cold.stream, warm.stream}) must(ms_stream_set_tracks(stream, nullptr, nullptr));
  stages_run = 0;
  ms_infer::watch_stand_in([] { ++stages_run; });
  must(ms_stream_warm_up(warm.stream));
  ms_infer::watch_stand_in(nullptr);
  CHECK(stages_run > 20);
  CHECK(run(cold.stream, 3) == run(warm.stream, 3));
  stages_run = 0;
  must(ms_stream_warm_up(warm.stream));
  CHECK_EQUAL(stages_run.load(), 0);
  CHECK(run(cold.stream, 2) == run(warm.stream, 2));
}

TEST(a_cancelled_step_changes_nothing) {
  ModelHolder model;
  open_model(model);
  static ms_stream* target = nullptr;
  StreamHolder a{stream_of(model.model)}, b{stream_of(model.model)};
  start_with_image(a.stream, 5), start_with_image(b.stream, 5);
  must(ms_stream_cancel(a.stream));  // nothing is under way: the next step is made
  CHECK(run(a.stream, 2) == run(b.stream, 2));
  target = a.stream;
  ms_infer::watch_stand_in([] {
    if (++stages_run == 4) ms_stream_cancel(target);
  });
  for (int stage = 0; stage < 3; ++stage) {
    stages_run = stage;
    ms_chunk chunk = new_chunk();
    expect(ms_stream_step(a.stream, &chunk), MS_ERROR_CANCELLED, "cancelled");
  }
  stages_run = -3;  // far enough: in the clean pass
  ms_chunk chunk = new_chunk();
  const auto status = ms_stream_step(a.stream, &chunk);
  ms_infer::watch_stand_in(nullptr);
  CHECK(status == MS_OK || status == MS_ERROR_CANCELLED);
  if (status == MS_OK) CHECK(frames_of(chunk) == frames_of(step(b.stream)));
  CHECK(run(a.stream, 4) == run(b.stream, 4));
}

TEST(a_fork_goes_on_from_where_its_stream_stands) {
  ModelHolder model;
  open_model(model);
  StreamHolder stream{stream_of(model.model)}, fork;
  start_with_image(stream.stream, 5);
  run(stream.stream, 3);
  const int before = ms_infer::stand_in_loads();
  must(ms_stream_fork(stream.stream, &fork.stream));
  CHECK_EQUAL(ms_infer::stand_in_loads(), before);
  CHECK(run(stream.stream, 3) == run(fork.stream, 3));
  must(ms_stream_close(stream.stream));
  ms_stream* none = nullptr;
  expect(ms_stream_fork(stream.stream, &none), MS_ERROR_STATE, "closed");
}

TEST(frames_of_kept_chunks_stay) {
  ModelHolder model;
  open_model(model);
  StreamHolder stream{stream_of(model.model, MS_RGB24, 0)};  // three, where nothing is said
  const ms_chunk first = step(stream.stream);
  const std::string wanted = frames_of(first);
  step(stream.stream), step(stream.stream);
  CHECK(frames_of(first) == wanted);
  step(stream.stream);
  CHECK(frames_of(first) != wanted);  // the ring has come round

  ms::Stream other(ms::Model(bundle.string(), {.engine = "stand_in"}));
  std::vector<ms::Chunk> kept;
  std::vector<std::string> copies;
  for (int i = 0; i < 12; ++i) {
    kept.push_back(other.step());
    copies.emplace_back(kept.back().frames.begin(), kept.back().frames.end());
  }
  for (std::size_t i = 0; i < kept.size(); ++i) CHECK(std::string(kept[i].frames.begin(), kept[i].frames.end()) == copies[i]);
}

TEST(frames_land_in_the_callers_memory_row_by_row) {
  ModelHolder model;
  open_model(model);
  StreamHolder plain{stream_of(model.model)}, given{stream_of(model.model)};
  const ms_chunk expected = step(plain.stream);
  CHECK_EQUAL(expected.row_stride, std::size_t(expected.width) * 3);
  const std::size_t stride = expected.row_stride + 16;
  std::vector<std::uint8_t> memory(stride * 32 * 9, 77);
  ms_chunk chunk = new_chunk();
  chunk.buffer = memory.data(), chunk.buffer_bytes = memory.size(), chunk.row_stride = stride;
  expect(ms_stream_step(given.stream, &chunk), MS_ERROR_CONFIG, "a chunk of 12 frames needs");  // the longest must fit
  memory.resize(stride * 32 * 12, 77);
  chunk.buffer = memory.data(), chunk.buffer_bytes = memory.size();
  chunk.row_stride = 10;
  expect(ms_stream_step(given.stream, &chunk), MS_ERROR_CONFIG, "row_stride is 10");
  chunk.row_stride = stride;
  must(ms_stream_step(given.stream, &chunk));
  CHECK(chunk.frames == memory.data() && chunk.frame_stride == stride * 32);
  for (int frame = 0; frame < chunk.rgb_frames; ++frame)
    for (int y = 0; y < chunk.height; ++y) {
      const auto* row = chunk.frames + std::size_t(frame) * chunk.frame_stride + std::size_t(y) * stride;
      const auto* wanted = expected.frames + std::size_t(frame) * expected.frame_stride + std::size_t(y) * expected.row_stride;
      CHECK(std::memcmp(row, wanted, expected.row_stride) == 0);
      CHECK_EQUAL(int(row[expected.row_stride]), 77);
    }
}

TEST(frames_come_as_bgra_and_nv12) {
  ModelHolder model;
  open_model(model);
  StreamHolder rgb{stream_of(model.model)}, bgra{stream_of(model.model, MS_BGRA)}, nv12{stream_of(model.model, MS_NV12)};
  const ms_chunk a = step(rgb.stream), b = step(bgra.stream), c = step(nv12.stream);
  CHECK_EQUAL(b.frame_stride, std::size_t(b.width * b.height * 4));
  CHECK_EQUAL(c.frame_stride, std::size_t(c.width * c.height * 3 / 2));
  for (int i = 0; i < a.width * a.height * a.rgb_frames; ++i) {
    const auto *from = a.frames + 3 * i, *to = b.frames + 4 * i;
    CHECK(to[0] == from[2] && to[1] == from[1] && to[2] == from[0] && to[3] == 255);
  }
  const auto near = [](double wanted, int got) { return std::abs(wanted - got) <= 1; };
  for (int y = 0; y < a.height; y += 2)
    for (int x = 0; x < a.width; x += 2) {
      double mean[3] = {};
      for (int k = 0; k < 4; ++k) {
        const auto* pixel = a.frames + 3 * ((y + k / 2) * a.width + x + k % 2);
        const double luma = 16 + (65.481 * pixel[0] + 128.553 * pixel[1] + 24.966 * pixel[2]) / 255;
        CHECK(near(luma, c.frames[(y + k / 2) * a.width + x + k % 2]));
        for (int channel = 0; channel < 3; ++channel) mean[channel] += pixel[channel] / 4.0;
      }
      const auto* colour = c.frames + a.width * a.height + y / 2 * a.width + x;
      CHECK(near(128 + (-37.797 * mean[0] - 74.203 * mean[1] + 112.0 * mean[2]) / 255, colour[0]));
      CHECK(near(128 + (112.0 * mean[0] - 93.786 * mean[1] - 18.214 * mean[2]) / 255, colour[1]));
    }
  ms_stream_params params = {};
  params.struct_size = sizeof params;
  ms_stream* none = nullptr;
  params.format = 9;
  expect(ms_stream_create(model.model, &params, &none), MS_ERROR_CONFIG, "params.format is 9");
  params.format = MS_RGB24, params.keep = -1;
  expect(ms_stream_create(model.model, &params, &none), MS_ERROR_CONFIG, "not of -1");
  params.keep = 2, params.on_device = 1;
  expect(ms_stream_create(model.model, &params, &none), MS_ERROR_CONFIG, "only with the engine tensorrt");
}

TEST(structs_of_an_older_header_are_accepted) {
  ModelHolder model;
  open_model(model);
  StreamHolder stream{stream_of(model.model)}, other{stream_of(model.model)};
  ms_chunk chunk;
  std::memset(static_cast<void*>(&chunk), 0xEE, sizeof chunk);
  chunk.struct_size = offsetof(ms_chunk, buffer);  // the first version ended here
  must(ms_stream_step(stream.stream, &chunk));
  CHECK_EQUAL(chunk.struct_size, offsetof(ms_chunk, buffer));
  CHECK_EQUAL(frames_of(chunk) == frames_of(step(other.stream)), true);
  CHECK_EQUAL(reinterpret_cast<std::uintptr_t>(chunk.buffer), std::uintptr_t(0xEEEEEEEEEEEEEEEEu));
  ms_stream_info info;
  std::memset(static_cast<void*>(&info), 0xEE, sizeof info);
  info.struct_size = offsetof(ms_stream_info, chunk_bytes);
  must(ms_stream_get_info(stream.stream, &info));
  CHECK_EQUAL(info.next_rgb_frames, 12);
  CHECK_EQUAL(info.chunk_bytes, std::int64_t(0xEEEEEEEEEEEEEEEEu));
  chunk.struct_size = offsetof(ms_chunk, buffer) - 4;
  expect(ms_stream_step(stream.stream, &chunk), MS_ERROR_CONFIG, "chunk.struct_size is 68");
}

TEST(the_header_and_the_library_are_of_one_version) {
  const std::string header = std::to_string(MS_VERSION_MAJOR) + "." + std::to_string(MS_VERSION_MINOR) + "." +
                             std::to_string(MS_VERSION_PATCH);
  CHECK_EQUAL(header, ms_version());
}

TEST(engines_are_listed_and_say_what_they_miss) {
  std::string names;
  for (int32_t i = 0; ms_engine_name(i); ++i) names += ms_engine_name(i) + std::string(" ");
  CHECK_EQUAL(names, "tensorrt openvino stand_in stand_in_whole ");
  CHECK(ms_engine_name(-1) == nullptr);
  must(ms_engine_check("stand_in"));
  expect(ms_engine_check("abacus"), MS_ERROR_CONFIG, "abacus");
  const auto status = ms_engine_check("tensorrt");
  CHECK(status == MS_ERROR_MISSING || status == MS_ERROR_DEVICE || status == MS_OK);
}

int main(int count, char** arguments) { return api_main(count, arguments, "model"); }
