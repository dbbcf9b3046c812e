// Which of a bundle's plans run here: those of this library, its release, the device and the precision.
#include <NvInferRuntime.h>

#include <string>

#include "cuda/check_cuda.hpp"
#include "engines/tensorrt/tensorrt.hpp"

namespace ms_infer {

namespace {

std::string this_device(int device) {
  cudaDeviceProp properties{};
  check_cuda(cudaGetDeviceProperties(&properties, device), "asking for the device");
  return "sm_" + std::to_string(properties.major) + std::to_string(properties.minor);
}

// Of the library that is loaded: headers of TensorRT say their own version also where TensorRT-RTX is linked.
std::string this_version() { return release_of(getInferLibVersion()); }

// "11.4.0.106" begins with the release "11.4".
bool same_release(const std::string& version) {
  return version == this_version() || version.starts_with(this_version() + ".");
}

// "sm_80+sm_90" names a device; "any" names all.
bool runs_on(const std::string& arch, const std::string& device) {
  return arch == "any" || ("+" + arch + "+").find("+" + device + "+") != std::string::npos;
}

}  // namespace

std::string release_of(std::int32_t version) {
  return std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100);
}

bool tensorrt_usable() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
}

void check_tensorrt() {
  require(tensorrt_usable(), MS_ERROR_DEVICE, "the engine 'tensorrt' needs a CUDA device, and there is none");
}

const EngineSpec* choose_tensorrt(const Manifest& manifest, const std::string& kind, const EngineOptions& options) {
  if (!manifest.engine(kind)) return nullptr;
  check_tensorrt();
  const std::string device = this_device(options.device);
  std::string have;
  for (const auto& engine : manifest.engines) {
    if (engine.kind != kind) continue;
    have += (have.empty() ? "" : "; ") + engine.library + " " + engine.version + " " + engine.arch + " " + engine.dtype;
    const bool precise = options.precision.empty() || options.precision == engine.dtype;
    const bool ours = engine.library == MS_INFER_TENSORRT_LIBRARY && same_release(engine.version);
    if (ours && runs_on(engine.arch, device) && precise) return &engine;
  }
  const std::string asked = options.precision.empty() ? "" : ", asked for is " + options.precision;
  fail(MS_ERROR_ENGINE, manifest.folder.string(), " holds engines for ", have,
       "; here is " MS_INFER_TENSORRT_LIBRARY " ", this_version(), " on ", device, asked,
       "; build others with ms-export --target");
}

}  // namespace ms_infer
