// Declarations of the few TensorRT 11 interfaces that src/engines/tensorrt/ calls, so that it is compiled and linked where
// the vendor's headers are not installed. Never shipped; it makes nothing: every factory gives nullptr. Names and numbers
// are held against the vendor's library by tests/engines/test_tensorrt_parts.py.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#define NV_TENSORRT_MAJOR 11
#define NV_TENSORRT_MINOR 4

namespace nvinfer1 {

enum class DataType : int32_t { kFLOAT, kHALF, kINT8, kINT32, kBOOL, kUINT8, kFP8, kBF16, kINT64 };
enum class ExecutionContextAllocationStrategy : int32_t { kSTATIC, kON_PROFILE_CHANGE, kUSER_MANAGED };

struct Dims64 {
  int32_t nbDims;
  int64_t d[8];
};

class ILogger {
 public:
  enum class Severity : int32_t { kINTERNAL_ERROR, kERROR, kWARNING, kINFO, kVERBOSE };
  virtual void log(Severity severity, const char* message) noexcept = 0;
  virtual ~ILogger() = default;
};

class IExecutionContext {
 public:
  virtual ~IExecutionContext() = default;
  bool setTensorAddress(const char*, void*) noexcept { return false; }
  void setDeviceMemoryV2(void*, int64_t) noexcept {}
  bool enqueueV3(cudaStream_t) noexcept { return false; }
};

class ICudaEngine {
 public:
  virtual ~ICudaEngine() = default;
  Dims64 getTensorShape(const char*) const noexcept { return {}; }
  DataType getTensorDataType(const char*) const noexcept { return DataType::kFLOAT; }
  const char* getAliasedInputTensor(const char*) const noexcept { return nullptr; }
  int64_t getDeviceMemorySizeV2() const noexcept { return 0; }
  IExecutionContext* createExecutionContext(ExecutionContextAllocationStrategy) noexcept { return nullptr; }
};

class IRuntime {
 public:
  virtual ~IRuntime() = default;
  ICudaEngine* deserializeCudaEngine(const void*, std::size_t) noexcept { return nullptr; }
};

inline IRuntime* createInferRuntime(ILogger&) noexcept { return nullptr; }

}  // namespace nvinfer1

// As NVIDIA's: of the library, whatever the headers say.
extern "C" inline int32_t getInferLibVersion() noexcept { return 110400; }
