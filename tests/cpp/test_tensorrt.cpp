// The TensorRT engine where there is neither TensorRT nor a device: it compiles, links, and says what is missing.
#include "engines/tensorrt/tensorrt.hpp"

#include <filesystem>

#include "check.hpp"

using namespace ms_infer;

namespace {

Manifest manifest;

}  // namespace

TEST(a_bundle_without_plans_has_no_engine_to_choose) {
  CHECK(choose_tensorrt(manifest, "tensorrt", {}) == nullptr);
}

TEST(releases_are_those_of_the_library) {
  CHECK_EQUAL(release_of(110400), "11.4");
  CHECK_EQUAL(release_of(111203), "11.12");
  CHECK_EQUAL(release_of(10701), "1.7");
}

TEST(plans_need_a_device_and_fit_it) {
  Manifest other = manifest;
  other.engines.push_back({"a", "tensorrt", "sm_1", "11.4.0.1", "bf16", {}, "fp32", "tensorrt"});
  const int wanted = tensorrt_usable() ? MS_ERROR_ENGINE : MS_ERROR_DEVICE;
  CHECK_CONTAINS(CHECK_THROWS(wanted, choose_tensorrt(other, "tensorrt", {})), tensorrt_usable() ? "sm_1" : "CUDA device");
}

TEST(opening_without_a_runtime_is_refused) {
  const EngineSpec engine{"a", "tensorrt", "any", "11.4.0.1", "bf16", {}, "fp32", "tensorrt"};
  CHECK_THROWS(MS_ERROR_DEVICE, open_tensorrt(manifest, engine, {})->load([](auto, double) {}));
}

int main(int count, char** arguments) {
  if (count < 2 || !std::filesystem::exists(std::filesystem::path(arguments[1]) / "manifest.json")) {
    std::puts("skipped: no stand-in bundle");
    return 77;
  }
  manifest = Manifest::load(arguments[1]);
  return check::main(count - 1, arguments + 1);
}
