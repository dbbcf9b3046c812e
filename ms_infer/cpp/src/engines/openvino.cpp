#include "openvino.hpp"

#include "../host_runner.hpp"

#include <algorithm>
#include <cstring>
#include <openvino/openvino.hpp>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

namespace ms_infer {

namespace {

// Stages that the first frame does not need, or not always: compiled when they run first.
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
  }
  fail(MS_ERROR_INTERNAL, "a type without a name");
}

ov::Tensor wrap(const TensorSpec& spec, std::span<unsigned char> bytes) {
  return ov::Tensor(element_type(spec.dtype), ov::Shape(spec.shape.begin(), spec.shape.end()), bytes.data());
}

class OpenVinoStages final : public StageCaller {
 public:
  OpenVinoStages(const Manifest& manifest, const EngineSpec& engine, HostArrays& arrays, const RunnerOptions& options)
      : manifest_(manifest), engine_(engine), arrays_(arrays), precision_(options.precision) {
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

  void load() override {
    for (std::size_t i = 0; i < kStageNames.size(); ++i) {
      const Stage stage = static_cast<Stage>(i);
      if (engine_.stages.contains(std::string(stage_name(stage))) && std::ranges::find(kLazy, stage) == kLazy.end())
        request(stage, 0);
    }
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
  struct Loaded {
    ov::CompiledModel model;
    std::array<ov::InferRequest, 2> requests;  // of the two sides
    std::array<bool, 2> made{};
    std::mutex loading;
  };

  bool has_bf16() {
    const auto capabilities = core_.get_property("CPU", ov::device::capabilities);
    return std::find(capabilities.begin(), capabilities.end(), ov::device::capability::BF16) != capabilities.end();
  }

  // The request of a stage and side, bound to the host arrays. `text` may be asked for beside another stage: whoever
  // comes first loads, the other waits.
  ov::InferRequest& request(Stage stage, int side) {
    Loaded& loaded = loaded_[static_cast<std::size_t>(stage)];
    const std::lock_guard lock(loaded.loading);
    const auto at = static_cast<std::size_t>(side);
    if (!loaded.made[at]) {
      if (!loaded.model) loaded.model = compile(stage);
      loaded.requests[at] = loaded.model.create_infer_request();
      bind(stage, side, loaded.requests[at]);
      loaded.made[at] = true;
    }
    return loaded.requests[at];
  }

  ov::CompiledModel compile(Stage stage) {
    const auto file = engine_.stages.find(std::string(stage_name(stage)));
    require(file != engine_.stages.end(), MS_ERROR_BUNDLE, "the bundle holds no OpenVINO stage '", stage_name(stage),
            "'; export again");
    const Bytes graph = manifest_.read(file->second);
    const Bytes weights = manifest_.read(std::filesystem::path(file->second).replace_extension(".bin").generic_string());
    ov::Tensor constants(ov::element::u8, {weights.size()});
    std::memcpy(constants.data(), weights.data(), weights.size());
    const bool precise = arrays_.spec(stage)->precise || precision_ == "fp32";
    try {
      const auto model = core_.read_model(std::string(graph.begin(), graph.end()), constants);
      return core_.compile_model(model, "CPU",
                                 ov::hint::inference_precision(precise ? ov::element::f32 : ov::element::bf16),
                                 ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY),
                                 ov::inference_num_threads(threads_));
    } catch (const ov::Exception& error) {
      fail(MS_ERROR_ENGINE, "OpenVINO cannot load the stage '", stage_name(stage), "': ", error.what());
    }
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

  const Manifest& manifest_;
  const EngineSpec& engine_;
  HostArrays& arrays_;
  std::string precision_;
  int threads_ = 1;
  ov::Core core_;
  std::array<Loaded, kStageNames.size()> loaded_;
};

}  // namespace

std::unique_ptr<ChunkRunner> open_openvino(const Manifest& manifest, const EngineSpec& engine, HostArrays& arrays,
                                           const RunnerOptions& options) {
  return std::make_unique<HostRunner>(arrays, std::make_unique<OpenVinoStages>(manifest, engine, arrays, options));
}

}  // namespace ms_infer
