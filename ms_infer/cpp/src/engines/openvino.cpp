// The CPU engine: exported stages in OpenVINO, attention caches inside it as states; a library of its own.
#include "engines/open.hpp"
#include "engines/host_runner.hpp"

#include <algorithm>
#include <cstring>
#include <future>
#include <openvino/frontend/manager.hpp>
#include <openvino/openvino.hpp>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

namespace ms_infer {

namespace {

// Stages that the first frame does not need, or not always: compiled when the first stream asks for them.
constexpr std::array kLazy{Stage::text,   Stage::encode, Stage::points,       Stage::points_first, Stage::tracks,
                           Stage::tracks_first, Stage::decode, Stage::decode_given, Stage::encode_grey, Stage::look};

int usable_cores() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

// (2026, 4) of "2026.4.1-22982-...".
std::pair<int, int> release(const std::string& version) {
  int year = 0, number = 0;
  std::sscanf(version.c_str(), "%d.%d", &year, &number);
  return {year, number};
}

ov::element::Type element_type(Dtype dtype) {
  switch (dtype) {
    case Dtype::float32: return ov::element::f32;
    case Dtype::float16: return ov::element::f16;
    case Dtype::bfloat16: return ov::element::bf16;
    case Dtype::boolean: return ov::element::boolean;
    case Dtype::int64: return ov::element::i64;
    case Dtype::uint8: return ov::element::u8;
    case Dtype::uint16: return ov::element::u16;
    case Dtype::float64: return ov::element::f64;
  }
  fail(MS_ERROR_INTERNAL, "a type without a name");
}

ov::Tensor wrap(const TensorSpec& spec, std::span<unsigned char> bytes) {
  return ov::Tensor(element_type(spec.dtype), ov::Shape(spec.shape.begin(), spec.shape.end()), bytes.data());
}

// One for the process: it keeps the device's library loaded. Never destroyed: streams may end after static objects.
ov::Core& core() {
  static ov::Core* made = new ov::Core;
  return *made;
}

// Every stage, compiled once.
class OpenVinoModel final : public EngineModel {
 public:
  OpenVinoModel(const Manifest& manifest, const EngineSpec& engine, const EngineOptions& options)
      : manifest_(manifest), engine_(engine), stages_(manifest.stages.at(engine.graphs)), precision_(options.precision) {
    const std::string installed = ov::get_openvino_version().buildNumber;
    require(release(engine.version) <= release(installed), MS_ERROR_ENGINE, manifest.folder.string(),
            " was exported with OpenVINO ", engine.version, ", this library runs ", installed,
            "; update OpenVINO or run ms-export again");
    if (precision_.empty()) precision_ = has_bf16() ? "bf16" : "fp32";
    require(precision_ == "fp32" || precision_ == "bf16", MS_ERROR_CONFIG, "precision '", precision_,
            "' is not one of fp32, bf16 for the openvino engine");
    threads_ = options.threads > 0 ? options.threads : usable_cores();
  }

  std::string name() const override { return "openvino"; }
  std::string precision() const override { return precision_; }

  // Files that are not compiled yet are hashed meanwhile, so that a changed one is found now and not in a chunk.
  void load(const Progress& progress) override {
    std::vector<Stage> first, later;
    for (std::size_t i = 0; i < kStageNames.size(); ++i)
      if (engine_.stages.contains(std::string(kStageNames[i])))
        (std::ranges::find(kLazy, static_cast<Stage>(i)) == kLazy.end() ? first : later).push_back(static_cast<Stage>(i));
    std::atomic<bool> stopped{false};
    auto checked = std::async(std::launch::async, [&] {
      for (const Stage stage : later)
        for (const auto& file : files_of(stage))
          if (!stopped) manifest_.read(file);
    });
    try {
      for (std::size_t i = 0; i < first.size(); ++i) {
        progress(stage_name(first[i]), double(i) / double(first.size()));
        compiled(first[i]);
      }
    } catch (...) {
      stopped = true;
      throw;
    }
    checked.get();
  }

  std::unique_ptr<ChunkRunner> runner(HostArrays& arrays, const RunnerSettings& settings) override;

  // Streams that ask for the same stage at once: whoever comes first compiles, the others wait.
  ov::CompiledModel& compiled(Stage stage) {
    Compiled& one = compiled_[static_cast<std::size_t>(stage)];
    const std::lock_guard lock(one.lock);
    if (!one.model) one.model = compile(stage);
    return one.model;
  }

  static bool is_first(Stage stage) { return std::ranges::find(kLazy, stage) == kLazy.end(); }
  bool has(Stage stage) const { return engine_.stages.contains(std::string(stage_name(stage))); }

 private:
  struct Compiled {
    std::mutex lock;
    ov::CompiledModel model;
  };

  bool has_bf16() {
    const auto capabilities = core().get_property("CPU", ov::device::capabilities);
    return std::find(capabilities.begin(), capabilities.end(), ov::device::capability::BF16) != capabilities.end();
  }

  // Graph and weights of a stage.
  std::array<std::string, 2> files_of(Stage stage) const {
    const auto file = engine_.stages.find(std::string(stage_name(stage)));
    require(file != engine_.stages.end(), MS_ERROR_BUNDLE, "the bundle holds no OpenVINO stage '", stage_name(stage),
            "'; export again");
    return {file->second, std::filesystem::path(file->second).replace_extension(".bin").generic_string()};
  }

  ov::CompiledModel compile(Stage stage) {
    const auto files = files_of(stage);
    const Bytes graph = manifest_.read(files[0]), weights = manifest_.read(files[1]);
    ov::Tensor constants(ov::element::u8, {weights.size()});
    std::memcpy(constants.data(), weights.data(), weights.size());
    const auto spec = stages_.find(std::string(stage_name(stage)));
    const bool precise = (spec != stages_.end() && spec->second.precise) || precision_ == "fp32";
    try {
      const auto model = core().read_model(std::string(graph.begin(), graph.end()), constants);
      return core().compile_model(model, "CPU",
                                 ov::hint::inference_precision(precise ? ov::element::f32 : ov::element::bf16),
                                 ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY),
                                 ov::inference_num_threads(threads_));
    } catch (const ov::Exception& error) {
      fail(MS_ERROR_ENGINE, "OpenVINO cannot load the stage '", stage_name(stage), "': ", error.what());
    }
  }

  const Manifest& manifest_;
  const EngineSpec& engine_;
  const std::map<std::string, StageSpec>& stages_;
  std::string precision_;
  int threads_ = 1;
  std::array<Compiled, kStageNames.size()> compiled_;
};

// The requests of one stream; its attention caches are states of that of `denoise`.
class OpenVinoStages final : public StageCaller {
 public:
  OpenVinoStages(OpenVinoModel& model, HostArrays& arrays) : model_(model), arrays_(arrays) {}

  void load() override {
    for (std::size_t i = 0; i < kStageNames.size(); ++i)
      if (const Stage stage = static_cast<Stage>(i); model_.has(stage) && OpenVinoModel::is_first(stage)) request(stage, 0);
  }

  void call(Stage stage, int side) override {
    if (stage == Stage::roll) return;  // the first part of `denoise`
    try {
      request(stage, side).infer();
    } catch (const ov::Exception& error) {
      fail(MS_ERROR_DEVICE, "OpenVINO failed in the stage '", stage_name(stage), "': ", error.what());
    }
  }

  Tensors read_caches() override {
    Tensors caches;
    for (auto& [name, state] : states()) {
      const ov::Tensor tensor = state.get_state();
      const TensorSpec& spec = arrays_.tensor(Stage::denoise, name);
      require(tensor.get_byte_size() == spec.bytes(), MS_ERROR_INTERNAL, "OpenVINO keeps ", name, " in another type");
      const auto* first = static_cast<const unsigned char*>(tensor.data());
      caches[name] = {spec.dtype, spec.shape, Bytes(first, first + tensor.get_byte_size())};
    }
    return caches;
  }

  void write_caches(const Tensors& caches) override {
    for (auto& [name, state] : states()) {
      const HostTensor& cache = caches.at(name);
      ov::Tensor copy(element_type(cache.dtype), ov::Shape(cache.shape.begin(), cache.shape.end()));
      std::memcpy(copy.data(), cache.data.data(), cache.data.size());
      state.set_state(copy);
    }
  }

  void reset_caches() override { request(Stage::denoise, 0).reset_state(); }

 private:
  struct Requests {
    std::array<ov::InferRequest, 2> of;  // the two sides
    std::array<bool, 2> made{};
    std::mutex making;
  };

  // The request of a stage and side, bound to the host arrays. `text` may be asked for beside another stage.
  ov::InferRequest& request(Stage stage, int side) {
    Requests& requests = requests_[static_cast<std::size_t>(stage)];
    const std::lock_guard lock(requests.making);
    const auto at = static_cast<std::size_t>(side);
    if (!requests.made[at]) {
      requests.of[at] = model_.compiled(stage).create_infer_request();
      bind(stage, side, requests.of[at]);
      requests.made[at] = true;
    }
    return requests.of[at];
  }

  void bind(Stage stage, int side, ov::InferRequest& request) {
    const StageSpec& spec = *arrays_.spec(stage);
    try {
      for (const auto* tensors : {&spec.inputs, &spec.outputs})
        for (const auto& tensor : *tensors)
          if (tensor.role != Role::cache)
            request.set_tensor(tensor.name, wrap(tensor, arrays_.bytes(stage, tensor, side)));
      if (stage == Stage::denoise && arrays_.has(Stage::roll))  // the roll is the first part of this model
        for (const auto& tensor : arrays_.spec(Stage::roll)->inputs)
          if (tensor.role == Role::host)
            request.set_tensor(tensor.name, wrap(tensor, arrays_.bytes(Stage::roll, tensor)));
    } catch (const ov::Exception& error) {
      fail(MS_ERROR_BUNDLE, "the manifest does not fit the stage '", stage_name(stage), "': ", error.what());
    }
  }

  // States of `denoise` by the name of their cache; OpenVINO joins the names of input and output.
  std::map<std::string, ov::VariableState> states() {
    std::map<std::string, std::string> names;
    for (const auto& [input, output] : arrays_.spec(Stage::denoise)->aliases) names[input + output] = input;
    std::map<std::string, ov::VariableState> found;
    for (auto& state : request(Stage::denoise, 0).query_state()) found.emplace(names.at(state.get_name()), state);
    return found;
  }

  OpenVinoModel& model_;
  HostArrays& arrays_;
  std::array<Requests, kStageNames.size()> requests_;
};

std::unique_ptr<ChunkRunner> OpenVinoModel::runner(HostArrays& arrays, const RunnerSettings& settings) {
  return std::make_unique<HostRunner>(arrays, std::make_unique<OpenVinoStages>(*this, arrays), settings);
}

std::unique_ptr<EngineModel> open_openvino(const Manifest& manifest, const EngineSpec& engine,
                                           const EngineOptions& options) {
  return std::make_unique<OpenVinoModel>(manifest, engine, options);
}

const EngineSpec* choose(const Manifest& manifest, const std::string& kind, const EngineOptions&) {
  return manifest.engine(kind);
}

// OpenVINO loads its device and the reader of its format at run time, by files beside libopenvino.
void check() {
  const auto needs = [](const char* library, auto&& work) {
    try {
      work();
    } catch (const std::exception& error) {
      fail(MS_ERROR_MISSING, "the engine 'openvino' needs ", library, " beside libopenvino (", error.what(),
           "); ship libopenvino, libopenvino_intel_cpu_plugin, libopenvino_ir_frontend and libtbb together");
    }
  };
  needs("libopenvino_intel_cpu_plugin", [] { core().get_property("CPU", ov::device::capabilities); });
  needs("libopenvino_ir_frontend", [] { ov::frontend::FrontEndManager().load_by_framework("ir"); });
}

constexpr EngineLibrary kLibrary{MS_INFER_VERSION, open_openvino, choose, check};

}  // namespace

}  // namespace ms_infer

MS_INFER_ENGINE { return &ms_infer::kLibrary; }
