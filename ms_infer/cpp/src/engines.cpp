// Which engines this build has, and which of them a bundle is opened with.
#include "runner.hpp"

#if defined(MS_INFER_WITH_OPENVINO)
#include "engines/openvino.hpp"
#endif
#if defined(MS_INFER_WITH_TENSORRT)
#include "engines/tensorrt.hpp"
#endif
#if defined(MS_INFER_WITH_STAND_IN)
#include "stand_in.hpp"
#endif

namespace ms_infer {

namespace {

using Open = std::unique_ptr<StageRunner> (*)(const Manifest&, const EngineSpec&, HostArrays&, const RunnerOptions&);

struct Known {
  const char* kind;
  Open open;             // nullptr: not in this build
  bool (*usable)();      // whether "auto" may take it on this machine
};

[[maybe_unused]] bool always() { return true; }

constexpr Known kEngines[] = {
#if defined(MS_INFER_WITH_TENSORRT)
    {"tensorrt", open_tensorrt, tensorrt_usable},
#else
    {"tensorrt", nullptr, nullptr},
#endif
#if defined(MS_INFER_WITH_OPENVINO)
    {"openvino", open_openvino, always},
#else
    {"openvino", nullptr, nullptr},
#endif
#if defined(MS_INFER_WITH_STAND_IN)
    {"stand_in", open_stand_in, always},
#endif
};

std::string bundle_kinds(const Manifest& manifest) {
  std::string kinds;
  for (const auto& engine : manifest.engines) kinds += (kinds.empty() ? "" : ", ") + engine.kind;
  return kinds.empty() ? "only ONNX graphs" : kinds;
}

OpenedEngine open_known(const Known& known, const EngineSpec& engine, const Manifest& manifest,
                        const RunnerOptions& options) {
  const auto specs = manifest.stages.find(engine.dtype);
  require(specs != manifest.stages.end(), MS_ERROR_BUNDLE, "the manifest does not describe the ", engine.dtype,
          " stages of the engine ", engine.name, "; export again");
  OpenedEngine opened;
  opened.arrays = std::make_unique<HostArrays>(specs->second);
  opened.runner = known.open(manifest, engine, *opened.arrays, options);
  return opened;
}

OpenedEngine open_best(const Manifest& manifest, const RunnerOptions& options) {
  for (const Known& known : kEngines) {
    const EngineSpec* engine = manifest.engine(known.kind);
    if (engine && known.open && known.usable()) return open_known(known, *engine, manifest, options);
  }
  fail(MS_ERROR_MISSING, "no engine of this build runs the bundle ", manifest.folder.string(), ", which holds ",
       bundle_kinds(manifest), "; add OpenVINO stages with ms-export --target cpu, or build ms_infer with OpenVINO");
}

}  // namespace

OpenedEngine open_engine(const Manifest& manifest, const RunnerOptions& options) {
  if (options.engine == "auto") return open_best(manifest, options);
  for (const Known& known : kEngines) {
    if (options.engine != known.kind) continue;
    require(known.open != nullptr, MS_ERROR_MISSING, "this ms_infer was built without the engine '", known.kind,
            "'; configure it again where the library is found (MS_INFER_WITH_...)");
    const EngineSpec* engine = manifest.engine(known.kind);
    require(engine != nullptr, MS_ERROR_ENGINE, "the bundle ", manifest.folder.string(), " holds no ", known.kind,
            " stages (", bundle_kinds(manifest), "); add them with ms-export --target");
    return open_known(known, *engine, manifest, options);
  }
  fail(MS_ERROR_CONFIG, "engine '", options.engine, "' is not one of auto, openvino, tensorrt");
}

}  // namespace ms_infer
