// A bundle that is open: settings, weights and compiled stages, which any number of streams share.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "engines/open.hpp"

namespace ms_infer {

// Immutable but for stages that are compiled when a stream needs them first. Safe from any thread.
class Model {
 public:
  // Checks the bundle and its engine's files, loads and compiles. MS_ERROR_CANCELLED when `progress` asks for it.
  static std::shared_ptr<Model> open(const std::filesystem::path& bundle, const EngineOptions& options,
                                     const Progress& progress = [](std::string_view, double) {});

  const std::shared_ptr<const Manifest>& manifest() const { return manifest_; }
  const StreamConfig& config() const { return manifest_->config; }
  const std::map<std::string, StageSpec>& stages() const { return manifest_->stages.at(spec_->graphs); }
  EngineModel& engine() { return *engine_; }
  // "openvino fp32"
  const std::string& label() const { return label_; }
  // Of what two streams must share so that one can go on with the state of the other.
  const std::string& digest() const { return digest_; }

 private:
  std::shared_ptr<const Manifest> manifest_;
  const EngineSpec* spec_ = nullptr;
  std::unique_ptr<EngineModel> engine_;
  std::string label_, digest_;
};

}  // namespace ms_infer
