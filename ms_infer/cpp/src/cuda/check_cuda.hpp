// CUDA's errors as ours.
#pragma once

#include <cuda_runtime_api.h>

#include "error.hpp"

namespace ms_infer {

// Throws MS_ERROR_DEVICE with what was tried and CUDA's own word.
inline void check_cuda(cudaError_t result, const char* what) {
  require(result == cudaSuccess, MS_ERROR_DEVICE, what, " failed: ", cudaGetErrorName(result), " (",
          cudaGetErrorString(result), ")");
}

}  // namespace ms_infer
