#include "cuda/kernels.hpp"

#include "files/files.hpp"
#include "bundle/sha256.hpp"

namespace ms_infer {

namespace {

constexpr std::size_t kMaxManifest = std::size_t{4} << 20, kMaxFatbin = std::size_t{256} << 20;
constexpr unsigned kPlainShared = 48 * 1024;  // more shared memory than this a kernel must ask for

int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  check_cuda(cudaDeviceGetAttribute(&value, which, device), "reading an attribute of the device");
  return value;
}

// The entry for the device.
const Json& entry_for(const Json& kernel, const std::string& name, int device) {
  const int major = attribute(cudaDevAttrComputeCapabilityMajor, device);
  const int minor = attribute(cudaDevAttrComputeCapabilityMinor, device);
  if (const Json* found = matching_entry(kernel, major, minor)) return *found;
  fail(MS_ERROR_ENGINE, "the kernel ", name, " was not compiled for sm_", major, minor,
       "; compile it: python -m ms_kernels.aot");
}

}  // namespace

const Json* matching_entry(const Json& kernel, int major, int minor) {
  for (int older = minor; older >= 0; --older) {
    const Json* found = kernel.at("architectures").find(std::to_string(10 * major + older));
    // "sm_100a" holds instructions of 10.0 alone: such code loads on no later minor version.
    if (found && (older == minor || !found->at("target").string().ends_with("a"))) return found;
  }
  return nullptr;
}

int cuda_devices(std::string* why) {
  int count = 0;
  const cudaError_t result = cudaGetDeviceCount(&count);
  if (why) *why = result == cudaSuccess ? "no device" : cudaGetErrorName(result);
  return result == cudaSuccess ? count : 0;
}

void Kernel::launch(dim3 grid, const std::vector<void*>& arguments, cudaStream_t cuda_stream) const {
  require(arguments.size() + 2 == parameters_, MS_ERROR_INTERNAL, "a kernel of ", parameters_ - 2, " parameters got ",
          arguments.size());
  void *global_scratch = nullptr, *profile_scratch = nullptr;  // Triton's two hidden pointers
  std::vector<void*> all(arguments);
  all.push_back(&global_scratch), all.push_back(&profile_scratch);
  const void* function = reinterpret_cast<const void*>(kernel_);
  check_cuda(cudaLaunchKernel(function, grid, dim3(threads_), all.data(), shared_bytes_, cuda_stream),
             "launching a kernel");
}

int Kernel::constant(const std::string& name) const {
  const auto found = constants_.find(name);
  require(found != constants_.end(), MS_ERROR_INTERNAL, "the kernel has no constant ", name);
  return found->second;
}

KernelLibrary::KernelLibrary(const std::filesystem::path& folder) : folder_(folder) {
  const Bytes text = read_file(folder / "manifest.json", kMaxManifest, MS_ERROR_BUNDLE);
  manifest_ = Json::parse({reinterpret_cast<const char*>(text.data()), text.size()});
  const auto version = manifest_.at("version").integer();
  require(version == 1, MS_ERROR_BUNDLE, folder.string(), " holds kernels of version ", version,
          ", this library reads 1; compile them again: python -m ms_kernels.aot");
}

std::vector<std::string> KernelLibrary::names() const {
  std::vector<std::string> names;
  for (const auto& [name, kernel] : manifest_.at("kernels").object()) names.push_back(name);
  return names;
}

const Json& KernelLibrary::kernel(const std::string& name) const {
  const Json* found = manifest_.at("kernels").find(name);
  require(found != nullptr, MS_ERROR_BUNDLE, folder_.string(), " holds no kernel ", name);
  return *found;
}

std::vector<unsigned char> KernelLibrary::image(const std::string& name) const {
  const Json& fatbin = kernel(name).at("fatbin");
  const auto& file = fatbin.at("file").string();
  require(file.find_first_of("/\\:") == std::string::npos && file != "..", MS_ERROR_BUNDLE, "the kernel ", name,
          " names the file ", file, ", which leaves the folder");
  Bytes image = read_file(folder_ / file, kMaxFatbin, MS_ERROR_BUNDLE);
  require(sha256(image) == fatbin.at("sha256").string(), MS_ERROR_BUNDLE, (folder_ / file).string(),
          " was changed after it was compiled; compile it again: python -m ms_kernels.aot");
  return image;
}

Kernel KernelLibrary::load(const std::string& name, int device) const {
  Kernel loaded;
  loaded.image_ = image(name);
  const Json& entry = entry_for(kernel(name), name, device);
  loaded.threads_ = static_cast<unsigned>(entry.at("threads").integer());
  loaded.shared_bytes_ = static_cast<unsigned>(entry.at("shared_bytes").integer());
  loaded.parameters_ = kernel(name).at("parameters").array().size();
  for (const auto& [constant, value] : entry.at("constants").object())
    if (constant.find("BLOCK") != std::string::npos) loaded.constants_[constant] = static_cast<int>(value.integer());
  cudaLibrary_t library = nullptr;
  check_cuda(cudaLibraryLoadData(&library, loaded.image_.data(), nullptr, nullptr, 0, nullptr, nullptr, 0),
             "loading a fatbin");
  loaded.library_.reset(library);
  check_cuda(cudaLibraryGetKernel(&loaded.kernel_, library, entry.at("symbol").string().c_str()), "finding a kernel");
  if (loaded.shared_bytes_ > kPlainShared)
    check_cuda(cudaKernelSetAttributeForDevice(loaded.kernel_, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                               static_cast<int>(loaded.shared_bytes_), device),
               "asking for shared memory");
  return loaded;
}

}  // namespace ms_infer
