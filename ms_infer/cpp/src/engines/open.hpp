// Which engines there are, and which of them a bundle is opened with. OpenVINO and TensorRT are libraries of their own
// beside this one, loaded when they are asked for: a program starts without them.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engines/runner.hpp"

namespace ms_infer {

struct EngineOptions {
  std::string engine = "auto";
  std::string precision;  // "": the best of the device
  int threads = 0;        // 0: all that this process may use
  int device = 0;
};

// What the library of an engine hands over; see `MS_INFER_ENGINE`.
struct EngineLibrary {
  const char* version;  // of ms_infer; both sides must be the same build
  std::unique_ptr<EngineModel> (*open)(const Manifest&, const EngineSpec&, const EngineOptions&);
  // Among the bundle's engines of this kind; nullptr when there are none, MS_ERROR_ENGINE when none fits.
  const EngineSpec* (*choose)(const Manifest&, const std::string& kind, const EngineOptions&);
  void (*check)();  // MS_ERROR_MISSING or MS_ERROR_DEVICE with words when it cannot run on this machine
};

// The engines that this library knows by name, the fastest first.
const std::vector<std::string>& engine_names();
// Throws what keeps an engine from running here: MS_ERROR_MISSING names the library that is not found.
void check_engine(const std::string& name);

struct ChosenEngine {
  const EngineSpec* spec = nullptr;
  std::unique_ptr<EngineModel> model;
};

// The engine that is asked for, or the fastest that runs the bundle here.
ChosenEngine open_engine(const Manifest& manifest, const EngineOptions& options);

// The library of the engine `name`, loaded once; MS_ERROR_MISSING with the name of what is not found.
const EngineLibrary& load_engine_library(const std::string& name);

}  // namespace ms_infer

// What stands in the library of an engine, libms_infer_NAME: its one exported function.
#if defined(_WIN32)
#define MS_INFER_ENGINE extern "C" __declspec(dllexport) const ms_infer::EngineLibrary* ms_infer_engine()
#else
#define MS_INFER_ENGINE extern "C" __attribute__((visibility("default"))) const ms_infer::EngineLibrary* ms_infer_engine()
#endif
