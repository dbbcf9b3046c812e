// The library as users link it, on an OpenVINO bundle: threads, memory, snapshots, tampering; through ms_infer.hpp.
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include "check.hpp"
#include "ms_infer/ms_infer.hpp"

namespace fs = std::filesystem;

namespace {

fs::path bundle, scratch;

ms::Stream open(const char* precision = "fp32") {
  return ms::Stream(bundle.string(), {.engine = "openvino", .precision = precision, .threads = 1});
}

std::string run(ms::Stream& stream, int chunks) {
  std::string all;
  for (int i = 0; i < chunks; ++i) {
    const ms::Chunk chunk = stream.step();
    all.append(reinterpret_cast<const char*>(chunk.frames.data()), chunk.frames.size());
  }
  return all;
}

void start(ms::Stream& stream, std::uint64_t seed) {
  const auto info = stream.info();
  std::vector<std::uint8_t> image(std::size_t(info.width * info.height * 3));
  for (std::size_t i = 0; i < image.size(); ++i) image[i] = static_cast<std::uint8_t>(i % 251);
  ms::Start from;
  from.image = {image, info.width, info.height};
  from.prompt.text = "a cat";
  from.tracks = ms::Tracks::grid(3, 3).drag({0.5, 0.5}, {0.7, 0.5}, {.radius = 0.3});
  from.seed = seed;
  stream.start(from);
}

// Bytes in use on the heap, 0 where this C library does not tell.
std::size_t heap_bytes() {
#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__)
  const auto info = mallinfo2();
  return info.uordblks + info.hblkhd;
#else
  return 0;
#endif
}

}  // namespace

TEST(frames_are_pictures_and_repeat_with_the_seed) {
  auto a = open(), b = open();
  start(a, 3), start(b, 3);
  const auto frames = run(a, 4);
  CHECK(frames == run(b, 4));
  CHECK(frames.find_first_not_of(frames[0]) != std::string::npos);
  start(b, 4);
  CHECK(run(b, 1) != frames.substr(0, frames.size() / 45 * 9));
}

TEST(a_snapshot_is_bit_equal) {
  auto a = open(), b = open();
  start(a, 3);
  run(a, 5);
  a.snapshot((scratch / "stream.snapshot").string());
  b.restore((scratch / "stream.snapshot").string());
  CHECK(run(a, 4) == run(b, 4));
}

TEST(two_streams_run_in_two_threads) {
  auto alone = open(), a = open(), b = open();
  for (auto* stream : {&alone, &a, &b}) start(*stream, 3);
  const auto wanted = run(alone, 12);
  std::string from_a, from_b;
  std::thread first([&] { from_a = run(a, 12); }), second([&] { from_b = run(b, 12); });
  first.join(), second.join();
  CHECK(from_a == wanted && from_b == wanted);
}

TEST(the_heap_does_not_grow_over_500_chunks) {
  auto stream = open();
  start(stream, 3);
  for (int i = 0; i < 50; ++i) stream.step();
  const auto before = heap_bytes();
  for (int i = 0; i < 500; ++i) stream.step();
  const auto after = heap_bytes();
  std::printf("        heap before %zu, after 500 more chunks %zu bytes\n", before, after);
  CHECK(after <= before + 64 * 1024);
}

TEST(bf16_runs_or_is_close) {
  auto stream = open("bf16");
  start(stream, 3);
  CHECK(!run(stream, 2).empty());
}

TEST(a_changed_graph_is_refused) {
  const fs::path copy = scratch / "changed";
  fs::copy(bundle, copy, fs::copy_options::recursive);
  for (const auto& entry : fs::recursive_directory_iterator(copy)) {
    if (entry.path().filename() != "denoise.bin") continue;
    std::fstream(entry.path(), std::ios::in | std::ios::out | std::ios::binary) << "tampered";
  }
  try {
    ms::Stream(copy.string());
    CHECK(false);
  } catch (const ms::Error& error) {
    CHECK_EQUAL(error.status(), MS_ERROR_BUNDLE);
    CHECK_CONTAINS(error.what(), "changed after the export");
  }
}

TEST(errors_of_the_wrapper_have_status_and_words) {
  auto stream = open();
  stream.close();
  try {
    stream.step();
    CHECK(false);
  } catch (const ms::Error& error) {
    CHECK_EQUAL(error.status(), MS_ERROR_STATE);
    CHECK_CONTAINS(error.what(), "closed");
  }
}

int main(int count, char** arguments) {
  if (count < 2 || !fs::exists(fs::path(arguments[1]) / "manifest.json")) {
    std::puts("skipped: no OpenVINO bundle; it needs a Python with torch, onnx and openvino (-DPython_EXECUTABLE)");
    return 77;
  }
  bundle = fs::absolute(arguments[1]);
  scratch = fs::temp_directory_path() / ("ms_infer_bundle_" + std::to_string(std::hash<std::string>{}(bundle.string())));
  fs::remove_all(scratch);
  fs::create_directories(scratch);
  const int result = check::main(count - 1, arguments + 1);
  fs::remove_all(scratch);
  return result;
}
