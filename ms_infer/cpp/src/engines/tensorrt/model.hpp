// Plans of a bundle in TensorRT, and which of them fit this machine. Only for the library of this engine.
#pragma once

#include <NvInferRuntime.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <mutex>
#include <string>

#include "engines/tensorrt/device_memory.hpp"
#include "engines/tensorrt/tensorrt.hpp"

namespace ms_infer {

// The newest error of the library, in its own words; TensorRT calls it from the thread that works.
class Logger final : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* message) noexcept override {
    if (severity > Severity::kERROR) return;
    const std::lock_guard lock(lock_);
    newest_.assign(message, std::min<std::size_t>(std::strlen(message), 500));
  }
  std::string newest() {
    const std::lock_guard lock(lock_);
    return newest_.empty() ? "it gives no reason" : newest_;
  }

 private:
  std::mutex lock_;
  std::string newest_;
};

// CUDA's current device belongs to a thread, and any thread may come.
inline void use_device(int device) { check_cuda(cudaSetDevice(device), "choosing the device"); }

// The plans of a bundle with their weights: one of each for all streams.
class TensorRtModel final : public EngineModel {
 public:
  TensorRtModel(const Manifest& manifest, const EngineSpec& engine, const EngineOptions& options)
      : manifest_(manifest), engine_(engine), stages_(manifest.stages.at(engine.graphs)), device_(options.device) {}

  std::string name() const override { return "tensorrt"; }
  std::string precision() const override { return engine_.dtype; }
  bool on_device() const override { return true; }

  void load(const Progress& progress) override;
  std::unique_ptr<ChunkRunner> runner(HostArrays& arrays, const RunnerSettings& settings) override;

  // nullptr: the bundle has no such plan.
  nvinfer1::ICudaEngine* plan(Stage stage) const { return plans_[static_cast<std::size_t>(stage)].get(); }
  Logger& logger() { return logger_; }
  int device() const { return device_; }

 private:
  void load(std::unique_ptr<nvinfer1::ICudaEngine>& target, const StageSpec& spec, const std::string& file);

  const Manifest& manifest_;
  const EngineSpec& engine_;
  const std::map<std::string, StageSpec>& stages_;
  int device_ = 0;
  Logger logger_;
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::array<std::unique_ptr<nvinfer1::ICudaEngine>, kStageNames.size()> plans_;
};

}  // namespace ms_infer
