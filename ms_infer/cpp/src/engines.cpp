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

using Open = std::unique_ptr<ChunkRunner> (*)(const Manifest&, const EngineSpec&, HostArrays&, const RunnerOptions&);

using Choose = const EngineSpec* (*)(const Manifest&, const std::string& kind, const RunnerOptions&);

struct Known {
  const char* kind;
  Open open;         // nullptr: not in this build
  Choose choose;     // among the bundle's engines of this kind; nullptr when there are none
  bool (*usable)();  // whether "auto" may take it on this machine
};

[[maybe_unused]] bool always() { return true; }

const EngineSpec* first(const Manifest& manifest, const std::string& kind, const RunnerOptions&) {
  return manifest.engine(kind);
}

constexpr Known kEngines[] = {
#if defined(MS_INFER_WITH_TENSORRT)
    {"tensorrt", open_tensorrt, choose_tensorrt, tensorrt_usable},
#else
    {"tensorrt", nullptr, first, nullptr},
#endif
#if defined(MS_INFER_WITH_OPENVINO)
    {"openvino", open_openvino, first, always},
#else
    {"openvino", nullptr, first, nullptr},
#endif
#if defined(MS_INFER_WITH_STAND_IN)
    {"stand_in", open_stand_in, first, always},
    {"stand_in_whole", open_whole_stand_in, first, always},
#endif
};

std::string bundle_kinds(const Manifest& manifest) {
  std::string kinds;
  for (const auto& engine : manifest.engines) kinds += (kinds.empty() ? "" : ", ") + engine.kind;
  return kinds.empty() ? "only ONNX graphs" : kinds;
}

OpenedEngine open_known(const Known& known, const EngineSpec& engine, const Manifest& manifest,
                        const RunnerOptions& options) {
  const auto& graphs = engine.graphs;
  const auto specs = manifest.stages.find(graphs);
  require(specs != manifest.stages.end(), MS_ERROR_BUNDLE, "the manifest does not describe the ", graphs,
          " stages of the engine ", engine.name, "; export again");
  OpenedEngine opened;
  opened.arrays = std::make_unique<HostArrays>(specs->second);
  opened.runner = known.open(manifest, engine, *opened.arrays, options);
  return opened;
}

OpenedEngine open_best(const Manifest& manifest, const RunnerOptions& options) {
  for (const Known& known : kEngines) {
    if (!known.open || !known.usable()) continue;
    if (const EngineSpec* engine = known.choose(manifest, known.kind, options))
      return open_known(known, *engine, manifest, options);
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
    const EngineSpec* engine = known.choose(manifest, known.kind, options);
    require(engine != nullptr, MS_ERROR_ENGINE, "the bundle ", manifest.folder.string(), " holds no ", known.kind,
            " stages (", bundle_kinds(manifest), "); add them with ms-export --target");
    return open_known(known, *engine, manifest, options);
  }
  fail(MS_ERROR_CONFIG, "engine '", options.engine, "' is not one of auto, openvino, tensorrt");
}

}  // namespace ms_infer
