#include "engines/open.hpp"

#include <algorithm>

#if defined(MS_INFER_WITH_STAND_IN)
#include "stand_in.hpp"
#endif

namespace ms_infer {

namespace {

// Engines that are linked into this library: those of the tests.
const EngineLibrary* built_in([[maybe_unused]] const std::string& name) {
#if defined(MS_INFER_WITH_STAND_IN)
  if (name == "stand_in") return &stand_in_library;
  if (name == "stand_in_whole") return &whole_stand_in_library;
#endif
  return nullptr;
}

const EngineLibrary& library_of(const std::string& name) {
  const EngineLibrary* own = built_in(name);
  return own ? *own : load_engine_library(name);
}

// The same for a name that a user gave.
const EngineLibrary& known_library(const std::string& name) {
  require(std::ranges::find(engine_names(), name) != engine_names().end(), MS_ERROR_CONFIG, "engine '", name,
          "' is not one of auto, openvino, tensorrt");
  return library_of(name);
}

std::string bundle_kinds(const Manifest& manifest) {
  std::string kinds;
  for (const auto& engine : manifest.engines) kinds += (kinds.empty() ? "" : ", ") + engine.kind;
  return kinds.empty() ? "only ONNX graphs" : kinds;
}

ChosenEngine open_chosen(const EngineLibrary& library, const EngineSpec& spec, const Manifest& manifest,
                         const EngineOptions& options) {
  require(manifest.stages.contains(spec.graphs), MS_ERROR_BUNDLE, "the manifest does not describe the ", spec.graphs,
          " stages of the engine ", spec.name, "; export again");
  return {&spec, library.open(manifest, spec, options)};
}

// The first engine that the bundle holds and that runs here; the words of those that do not are kept.
ChosenEngine open_best(const Manifest& manifest, const EngineOptions& options) {
  std::string refusals;
  for (const auto& name : engine_names()) {
    if (!manifest.engine(name)) continue;
    try {
      const EngineLibrary& library = library_of(name);
      library.check();
      if (const EngineSpec* spec = library.choose(manifest, name, options))
        return open_chosen(library, *spec, manifest, options);
    } catch (const Error& error) {
      if (error.status != MS_ERROR_MISSING && error.status != MS_ERROR_DEVICE) throw;
      refusals += std::string("; ") + error.what();
    }
  }
  fail(MS_ERROR_MISSING, "no engine here runs the bundle ", manifest.folder.string(), ", which holds ",
       bundle_kinds(manifest), refusals.empty() ? "; add OpenVINO stages with ms-export --target cpu" : refusals);
}

}  // namespace

const std::vector<std::string>& engine_names() {
  static const std::vector<std::string> names {
    "tensorrt", "openvino",
#if defined(MS_INFER_WITH_STAND_IN)
        "stand_in", "stand_in_whole"
#endif
  };
  return names;
}

void check_engine(const std::string& name) { known_library(name).check(); }

ChosenEngine open_engine(const Manifest& manifest, const EngineOptions& options) {
  if (options.engine == "auto") return open_best(manifest, options);
  const EngineLibrary& library = known_library(options.engine);
  const EngineSpec* spec = library.choose(manifest, options.engine, options);
  require(spec != nullptr, MS_ERROR_ENGINE, "the bundle ", manifest.folder.string(), " holds no ", options.engine,
          " stages (", bundle_kinds(manifest), "); add them with ms-export --target");
  library.check();
  return open_chosen(library, *spec, manifest, options);
}

}  // namespace ms_infer
