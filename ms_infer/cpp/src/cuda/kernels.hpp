// Loads what `python -m ms_kernels.aot -o DIR` wrote: one fatbin per kernel, launched through the CUDA runtime.
//
// Uses the library interface of the static CUDA runtime, so neither libcuda nor a stub of it is linked.
#pragma once

#include <cuda_runtime.h>

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "cuda/check_cuda.hpp"
#include "files/json.hpp"

namespace ms_infer {

// CUDA devices that can be used; 0 without a driver or a device. `why` gets the runtime's word for it.
int cuda_devices(std::string* why = nullptr);

// What a kernel's entry of the manifest has for a compute capability: its own architecture, else an older one of the
// same generation whose code is not bound to it; nullptr for none.
const Json* matching_entry(const Json& kernel, int major, int minor);

// One kernel, loaded for the current device.
class Kernel {
 public:
  // `arguments`: pointers to the values of the manifest's parameters without the last two, which are always null.
  void launch(dim3 grid, const std::vector<void*>& arguments, cudaStream_t cuda_stream) const;
  // A constant that the kernel was compiled with, such as BLOCK.
  int constant(const std::string& name) const;
  std::size_t parameters() const { return parameters_; }

 private:
  friend class KernelLibrary;
  struct Unload {
    void operator()(cudaLibrary_t library) const noexcept { cudaLibraryUnload(library); }
  };

  std::vector<unsigned char> image_;
  std::unique_ptr<std::remove_pointer_t<cudaLibrary_t>, Unload> library_;
  cudaKernel_t kernel_ = nullptr;
  unsigned threads_ = 0, shared_bytes_ = 0;
  std::size_t parameters_ = 0;
  std::map<std::string, int> constants_;
};

// A folder of kernels. Opening reads and checks the manifest alone; a fatbin is hashed before it is loaded.
class KernelLibrary {
 public:
  explicit KernelLibrary(const std::filesystem::path& folder);

  std::vector<std::string> names() const;
  // Content of a kernel's fatbin, as the manifest promises; needs no device.
  std::vector<unsigned char> image(const std::string& name) const;
  // MS_ERROR_ENGINE when the kernel was not compiled for the device.
  Kernel load(const std::string& name, int device) const;

 private:
  const Json& kernel(const std::string& name) const;

  std::filesystem::path folder_;
  Json manifest_;
};

}  // namespace ms_infer
