// CUDA's streams, events and memory as objects that free themselves, and the device twin of the host's arrays.
#pragma once

#include <algorithm>
#include <cstddef>
#include <map>
#include <mutex>
#include <set>
#include <span>
#include <utility>

#include "cuda/check_cuda.hpp"

namespace ms_infer {

class CudaStream {
 public:
  CudaStream() { check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a CUDA stream"); }
  CudaStream(const CudaStream&) = delete;
  ~CudaStream() { cudaStreamDestroy(stream_); }
  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

class CudaEvent {
 public:
  explicit CudaEvent(bool timed = false) {
    const unsigned flags = timed ? cudaEventDefault : cudaEventDisableTiming;
    check_cuda(cudaEventCreateWithFlags(&event_, flags), "making a CUDA event");
  }
  CudaEvent(const CudaEvent&) = delete;
  ~CudaEvent() { cudaEventDestroy(event_); }
  cudaEvent_t get() const { return event_; }
  // `external`: recorded inside a capture, but waited for outside of the graph.
  void record(cudaStream_t stream, bool external = false) {
    check_cuda(cudaEventRecordWithFlags(event_, stream, external ? cudaEventRecordExternal : cudaEventRecordDefault),
               "recording a CUDA event");
  }
  // Between two timed events that the device has passed.
  float milliseconds_to(const CudaEvent& later) const {
    float milliseconds = 0;
    check_cuda(cudaEventElapsedTime(&milliseconds, event_, later.event_), "timing a stage");
    return milliseconds;
  }

 private:
  cudaEvent_t event_ = nullptr;
};

// Zeroed device memory.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  explicit DeviceBuffer(std::size_t size) : size_(size) {
    check_cuda(cudaMalloc(&data_, size), "allocating device memory");
    check_cuda(cudaMemset(data_, 0, size), "clearing device memory");
  }
  DeviceBuffer(DeviceBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(data_, other.data_), std::swap(size_, other.size_);
    return *this;
  }
  ~DeviceBuffer() { cudaFree(data_); }
  void* get() const { return data_; }
  std::size_t size() const { return size_; }

 private:
  void* data_ = nullptr;
  std::size_t size_ = 0;
};

// The device twin of every host array, found by the array's address: what shares memory on the host shares it on the
// device. Host arrays that are copied are page-locked when they are copied first. Safe from any thread.
class DeviceMemory {
 public:
  DeviceMemory() = default;
  DeviceMemory(const DeviceMemory&) = delete;
  ~DeviceMemory() {
    for (const void* locked : locked_) cudaHostUnregister(const_cast<void*>(locked));
  }

  void* at(std::span<const unsigned char> host) {
    const std::lock_guard lock(lock_);
    DeviceBuffer& twin = twins_[host.data()];
    if (!twin.get()) twin = DeviceBuffer(host.size());
    require(host.size() <= twin.size(), MS_ERROR_INTERNAL, "a larger array begins where a smaller one does");
    return twin.get();
  }

  void upload(std::span<unsigned char> host, cudaStream_t stream) {
    upload_from(host, std::as_bytes(host), stream);
  }

  // From other host memory that stays where it is.
  void upload_from(std::span<const unsigned char> twin, std::span<const std::byte> host, cudaStream_t stream) {
    page_lock(host.data(), host.size());
    check_cuda(cudaMemcpyAsync(at(twin), host.data(), host.size(), cudaMemcpyHostToDevice, stream), "uploading");
  }

  void download(std::span<unsigned char> host, cudaStream_t stream) {
    page_lock(host.data(), host.size());
    check_cuda(cudaMemcpyAsync(host.data(), at(host), host.size(), cudaMemcpyDeviceToHost, stream), "downloading");
  }

 private:
  // Page-locking only makes copies asynchronous; what cannot be locked is copied all the same. The whole array at once:
  // opening chunks copy its beginning, later ones all of it, and no copy may run over the end of what is locked.
  void page_lock(const void* data, std::size_t size) {
    const std::lock_guard lock(lock_);
    if (!seen_.insert(data).second) return;
    if (const auto twin = twins_.find(data); twin != twins_.end()) size = std::max(size, twin->second.size());
    if (cudaHostRegister(const_cast<void*>(data), size, cudaHostRegisterDefault) == cudaSuccess) {
      locked_.insert(data);
    } else {
      cudaGetLastError();  // forget it: it must not fail the next launch
    }
  }

  std::mutex lock_;
  std::map<const void*, DeviceBuffer> twins_;
  std::set<const void*> seen_, locked_;
};

}  // namespace ms_infer
