#include "bundle/manifest.hpp"

#include <algorithm>

#include "bundle/sha256.hpp"

namespace ms_infer {

namespace {

constexpr int kFormat = 4;  // since 4 the layer network is a stage of its own
constexpr std::size_t kMaxManifest = std::size_t{16} << 20;
constexpr std::size_t kMaxFile = std::size_t{1} << 40;

std::vector<TensorSpec> read_tensors(const Json& json) {
  std::vector<TensorSpec> tensors;
  for (const auto& entry : json.array()) {
    TensorSpec& spec = tensors.emplace_back();
    spec.name = entry.at("name").string();
    spec.dtype = dtype_of(entry.at("dtype").string());
    spec.role = role_of(entry.at("role").string());
    for (const auto& length : entry.at("shape").array()) spec.shape.push_back(length.integer());
    const bool positive = std::all_of(spec.shape.begin(), spec.shape.end(), [](auto n) { return n > 0; });
    require(positive && !spec.shape.empty() && spec.elements() > 0, MS_ERROR_BUNDLE,
            "the manifest describes an impossible tensor: ", spec.name, " ", shape_text(spec.shape));
  }
  return tensors;
}

NamePairs read_pairs(const Json& json, const StageSpec& stage, Role role) {
  NamePairs pairs;
  for (const auto& entry : json.array()) {
    const auto& names = entry.array();
    require(names.size() == 2, MS_ERROR_BUNDLE, "the manifest holds a pair of ", names.size(), " names");
    const auto *from = stage.find(names[0].string()), *to = stage.find(names[1].string());
    const bool alike = from && to && from->shape == to->shape && from->dtype == to->dtype;
    require(alike && from->role == role && to->role == role, MS_ERROR_BUNDLE, "the manifest pairs ",
            names[0].string(), " and ", names[1].string(), " of the stage ", stage.name, ", which do not fit");
    pairs.emplace_back(names[0].string(), names[1].string());
  }
  return pairs;
}

StageSpec read_stage(const Json& json) {
  StageSpec stage;
  stage.name = json.at("name").string();
  stage.inputs = read_tensors(json.at("inputs"));
  stage.outputs = read_tensors(json.at("outputs"));
  stage.aliases = read_pairs(json.at("aliases"), stage, Role::cache);
  stage.states = read_pairs(json.at("states"), stage, Role::state);
  stage.precise = json.at("precise").boolean();
  return stage;
}

EngineSpec read_engine(const std::string& name, const Json& json) {
  EngineSpec engine{name, json.at("kind").string(), json.at("arch").string(), json.at("version").string(),
                    json.at("dtype").string(), {}, json.at("dtype").string(), {}};
  const Json& options = json.at("options");
  if (const Json* graphs = options.find("graphs")) engine.graphs = graphs->string();
  if (const Json* library = options.find("library")) engine.library = library->string();
  for (const auto& [stage, file] : json.at("stages").object()) engine.stages[stage] = file.string();
  return engine;
}

void read_all(Manifest& manifest, const Json& json) {
  manifest.config = StreamConfig::read(json.at("config"));
  if (const Json* digest = json.at("checkpoint").find("sha256")) manifest.weights = digest->string();
  const auto& writes = json.at("writes").string();
  require(writes == "chunk" || writes == "frame", MS_ERROR_BUNDLE, "the manifest names the writes '", writes,
          "'; expected chunk or frame");
  manifest.writes_per_frame = writes == "frame";
  for (const auto& [dtype, stages] : json.at("stages").object())
    for (const auto& [name, stage] : stages.object()) manifest.stages[dtype][name] = read_stage(stage);
  for (const auto& [name, file] : json.at("files").object())
    manifest.files[name] = {file.at("bytes").integer(), file.at("sha256").string()};
  for (const auto& [name, engine] : json.at("engines").object()) {
    const auto& added = manifest.engines.emplace_back(read_engine(name, engine));
    for (const auto& [stage, file] : added.stages)
      require(manifest.files.contains(file), MS_ERROR_BUNDLE, "the manifest names the file ", file,
              " without a digest; export again");
  }
}

// Whether a path of the manifest stays in the folder by its own words.
bool stays_inside(const std::string& name) {
  const std::filesystem::path path(name);
  if (name.empty() || path.is_absolute() || name.find_first_of("\\:") != std::string::npos) return false;
  return std::none_of(path.begin(), path.end(), [](const auto& part) { return part == ".."; });
}

// Whether a path below a folder is there after all links are followed.
bool resolves_inside(const std::filesystem::path& path, const std::filesystem::path& root) {
  const auto resolved = std::filesystem::weakly_canonical(path);
  return std::mismatch(root.begin(), root.end(), resolved.begin(), resolved.end()).first == root.end();
}

// Where the files of a bundle may lie: in its folder, or among the blobs of the hub cache that holds it
// (models--ORG--NAME/snapshots/REVISION, whose files are links to ../../blobs/DIGEST).
std::filesystem::path content_root(const std::filesystem::path& folder) {
  auto inner = std::filesystem::absolute(folder).lexically_normal();
  for (auto outer = inner.parent_path(); outer != inner; inner = outer, outer = inner.parent_path())
    if (outer.filename() == "snapshots" && outer.parent_path().filename().string().starts_with("models--") &&
        std::filesystem::is_directory(outer.parent_path() / "blobs"))
      return std::filesystem::canonical(outer.parent_path());
  return std::filesystem::canonical(folder);
}

}  // namespace

const TensorSpec* StageSpec::find(const std::string& tensor) const {
  for (const auto* specs : {&inputs, &outputs})
    for (const auto& spec : *specs)
      if (spec.name == tensor) return &spec;
  return nullptr;
}

Manifest Manifest::load(const std::filesystem::path& folder) {
  const auto path = folder / "manifest.json";
  require(std::filesystem::is_regular_file(path), MS_ERROR_BUNDLE, folder.string(),
          " holds no manifest.json: make a bundle with ms-export");
  const Bytes text = read_file(path, kMaxManifest, MS_ERROR_BUNDLE);
  Manifest manifest;
  manifest.folder = folder;
  try {
    const Json json = Json::parse({reinterpret_cast<const char*>(text.data()), text.size()});
    const auto format = json.at("format").integer();
    require(format <= kFormat, MS_ERROR_BUNDLE, "it is of format ", format, ", this library reads ", kFormat,
            "; update ms_infer");
    require(format == kFormat, MS_ERROR_BUNDLE, "it is of the older format ", format, ", this library reads ", kFormat,
            "; run the same ms-export command into this folder again");
    read_all(manifest, json);
  } catch (const Error& error) {
    fail(MS_ERROR_BUNDLE, path.string(), " cannot be used: ", error.what());
  }
  manifest.check_files();
  return manifest;
}

void Manifest::check_files() const {
  const auto root = content_root(folder);
  for (const auto& [name, spec] : files) {
    require(stays_inside(name) && resolves_inside(folder / name, root), MS_ERROR_BUNDLE,
            "the manifest names the path '", name, "', which leaves the bundle; do not use this bundle");
    const auto path = folder / name;
    require(std::filesystem::is_regular_file(path), MS_ERROR_BUNDLE, path.string(),
            " is missing; the bundle is incomplete: copy it again or run ms-export");
    const auto size = std::filesystem::file_size(path);
    require(static_cast<std::int64_t>(size) == spec.bytes, MS_ERROR_BUNDLE, path.string(), " has ", size,
            " bytes, the manifest says ", spec.bytes, "; copy the bundle again");
  }
}

Bytes Manifest::read(const std::string& file) const {
  const auto spec = files.find(file);
  require(spec != files.end(), MS_ERROR_BUNDLE, "the manifest has no digest of the file ", file, "; export again");
  Bytes content = read_file(folder / file, kMaxFile, MS_ERROR_BUNDLE);
  const auto digest = sha256(content);
  require(digest == spec->second.sha256, MS_ERROR_BUNDLE, (folder / file).string(),
          " was changed after the export (sha256 ", digest.substr(0, 12), "..., manifest ",
          spec->second.sha256.substr(0, 12), "...); copy the bundle again or run ms-export --force");
  return content;
}

const EngineSpec* Manifest::engine(const std::string& kind) const {
  for (const auto& engine : engines)
    if (engine.kind == kind) return &engine;
  return nullptr;
}

}  // namespace ms_infer
