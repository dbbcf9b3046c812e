// The loader of ahead-of-time compiled kernels: fatbins are checked everywhere, launched where there is a device.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "check.hpp"
#include "cuda/kernels.hpp"

namespace fs = std::filesystem;
using namespace ms_infer;

namespace {

fs::path folder;

// A value of the device that is freed when it goes out of scope.
template <class Value>
struct DeviceArray {
  Value* data = nullptr;
  explicit DeviceArray(std::size_t count) {
    check_cuda(cudaMalloc(reinterpret_cast<void**>(&data), count * sizeof(Value)), "allocating");
  }
  ~DeviceArray() { cudaFree(data); }
};

std::uint16_t to_bf16(float value) {  // the values of the test are exact in bf16
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return static_cast<std::uint16_t>(bits >> 16);
}

}  // namespace

TEST(every_fatbin_is_what_the_manifest_says) {
  const KernelLibrary library(folder);
  CHECK(!library.names().empty());
  for (const auto& name : library.names()) CHECK(library.image(name).size() > 1000);
}

TEST(a_changed_fatbin_is_refused) {
  const fs::path copy = fs::temp_directory_path() / "ms_infer_changed_kernels";
  fs::remove_all(copy);
  fs::copy(folder, copy);
  const auto name = KernelLibrary(copy).names().front();
  std::ofstream(copy / (name + ".fatbin"), std::ios::app) << "tampered";
  CHECK_CONTAINS(CHECK_THROWS(MS_ERROR_BUNDLE, KernelLibrary(copy).image(name)), "changed");
  CHECK_THROWS(MS_ERROR_BUNDLE, KernelLibrary(copy).image("no_such_kernel"));
  fs::remove_all(copy);
  CHECK_THROWS(MS_ERROR_BUNDLE, KernelLibrary{copy});
}

TEST(code_of_one_architecture_is_offered_to_no_other) {
  const Json kernel = Json::parse(R"({"architectures": {"80": {"target": "sm_80"}, "90": {"target": "sm_90a"},
      "100": {"target": "sm_100a"}, "120": {"target": "sm_120a"}}})");
  const auto target = [&](int major, int minor) {
    const Json* found = matching_entry(kernel, major, minor);
    return found ? found->at("target").string() : std::string("none");
  };
  CHECK_EQUAL(target(8, 6), "sm_80");
  CHECK_EQUAL(target(9, 0), "sm_90a");
  CHECK_EQUAL(target(10, 0), "sm_100a");
  CHECK_EQUAL(target(10, 3), "none");
  CHECK_EQUAL(target(12, 0), "sm_120a");
  CHECK_EQUAL(target(12, 1), "none");
}

TEST(frames_become_bytes_on_the_device) {
  if (cuda_devices() == 0) return;
  const Kernel kernel = KernelLibrary(folder).load("frames_to_uint8", 0);
  constexpr int kFrames = 2, kPixels = 1000, kCount = kFrames * kPixels * 3;
  std::vector<std::uint16_t> frames(kCount);  // [frames, channels, pixels]
  for (int i = 0; i < kCount; ++i) frames[std::size_t(i)] = to_bf16(float(i % 17) / 16);
  DeviceArray<std::uint16_t> input(kCount);
  DeviceArray<std::uint8_t> output(kCount);
  check_cuda(cudaMemcpy(input.data, frames.data(), kCount * 2, cudaMemcpyHostToDevice), "copying");
  int pixels = kPixels, stride_frame = 3 * kPixels, stride_channel = kPixels;
  const auto blocks = static_cast<unsigned>((3 * kPixels + kernel.constant("BLOCK") - 1) / kernel.constant("BLOCK"));
  kernel.launch(dim3(blocks, kFrames), {&input.data, &pixels, &stride_frame, &stride_channel, &output.data}, nullptr);
  std::vector<std::uint8_t> made(kCount);
  check_cuda(cudaMemcpy(made.data(), output.data, kCount, cudaMemcpyDeviceToHost), "copying back");
  for (int frame = 0; frame < kFrames; ++frame)
    for (int pixel = 0; pixel < kPixels; ++pixel)
      for (int channel = 0; channel < 3; ++channel) {
        const int from = (frame * 3 + channel) * kPixels + pixel, to = (frame * kPixels + pixel) * 3 + channel;
        CHECK_EQUAL(int(made[std::size_t(to)]), int(std::nearbyint(255.0 * (from % 17) / 16)));
      }
}

int main(int count, char** arguments) {
  if (count < 2 || !fs::exists(fs::path(arguments[1]) / "manifest.json")) {
    std::puts("skipped: no compiled kernels; they need a Python with triton and fatbinary of the CUDA toolkit");
    return 77;
  }
  folder = arguments[1];
  if (const int failed = check::main(count - 1, arguments + 1)) return failed;
  std::string why;
  if (cuda_devices(&why) > 0) return 0;
  std::printf("skipped: nothing was launched, there is no CUDA device (%s)\n", why.c_str());
  return 77;
}
