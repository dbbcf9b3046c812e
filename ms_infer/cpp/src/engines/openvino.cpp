// The CPU engine: exported stages in OpenVINO; a library of its own.
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
constexpr std::array kLazy{Stage::text,         Stage::encode,  Stage::points,        Stage::points_first,
                           Stage::layers,       Stage::compose, Stage::compose_first, Stage::tracks,
                           Stage::tracks_first, Stage::decode,  Stage::decode_given,  Stage::encode_grey,
                           Stage::look};

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

// float32 values to the nearest bfloat16, halves to even; as ms_infer/engines/saved.py does.
void round_to_bf16(unsigned char* values, std::size_t bytes) {
  for (std::size_t at = 0; at < bytes; at += 4) {
    std::uint32_t bits;
    std::memcpy(&bits, values + at, 4);
    bits = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000;
    std::memcpy(values + at, &bits, 4);
  }
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
        (is_first(static_cast<Stage>(i)) ? first : later).push_back(static_cast<Stage>(i));
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

// The requests of one stream, bound to its host arrays.
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

  void keep_pass() override {
    const bool rounds = model_.precision() == "bf16";  // what is computed with them is no finer, and states are smaller
    for (const Written& one : written_) {
      const std::size_t rows = one.rows.get_shape()[2], part = rows / one.places.size();
      const auto* from = static_cast<const unsigned char*>(one.rows.data());
      for (std::size_t head = 0; head < one.heads; ++head)
        for (const std::int64_t place : one.places) {
          const auto at = static_cast<std::size_t>(place);
          require(at + part <= one.tokens, MS_ERROR_INTERNAL, "rows from ", place, " on are outside of a cache");
          unsigned char* to = &one.cache[(head * one.tokens + at) * one.row_bytes];
          std::memcpy(to, from, part * one.row_bytes);
          if (rounds) round_to_bf16(to, part * one.row_bytes);
          from += part * one.row_bytes;
        }
    }
  }

 private:
  struct Requests {
    std::array<ov::InferRequest, 2> of;  // the two sides
    std::mutex making;
  };

  // Rows that a pass made of a cache, and where they belong.
  struct Written {
    ov::Tensor rows;  // [1, heads, chunk_tokens, head_dim]
    std::span<unsigned char> cache;
    std::size_t heads = 0, tokens = 0, row_bytes = 0;
    std::span<const std::int64_t> places;  // the first of each part
  };

  // The request of a stage and side, bound to the host arrays. `text` may be asked for beside another stage.
  ov::InferRequest& request(Stage stage, int side) {
    Requests& requests = requests_[static_cast<std::size_t>(stage)];
    const std::lock_guard lock(requests.making);
    ov::InferRequest& known = requests.of[static_cast<std::size_t>(side)];
    if (!known) {
      ov::InferRequest made = model_.compiled(stage).create_infer_request();
      bind(stage, side, made);
      known = std::move(made);
    }
    return known;
  }

  void bind(Stage stage, int side, ov::InferRequest& request) {
    const StageSpec& spec = *arrays_.spec(stage);
    try {
      for (const auto* tensors : {&spec.inputs, &spec.outputs})
        for (const auto& tensor : *tensors)
          if (tensor.role != Role::cache)
            request.set_tensor(tensor.name, wrap(tensor, arrays_.bytes(stage, tensor, side)));
      if (stage != Stage::denoise) return;
      if (arrays_.has(Stage::roll))  // the first part of this model
        for (const auto& tensor : arrays_.spec(Stage::roll)->inputs)
          if (tensor.role == Role::host)
            request.set_tensor(tensor.name, wrap(tensor, arrays_.bytes(Stage::roll, tensor)));
      written_.clear();
      for (const auto& [tensor, cache] : arrays_.caches()) bind_cache(*tensor, cache, request);
    } catch (const ov::Exception& error) {
      fail(MS_ERROR_BUNDLE, "the manifest does not fit the stage '", stage_name(stage), "': ", error.what(),
           "; export again");
    }
  }

  // The model reads a cache and returns the rows that belong into it: one copy of it is enough.
  void bind_cache(const TensorSpec& tensor, std::span<unsigned char> cache, ov::InferRequest& request) {
    request.set_tensor(tensor.name, wrap(tensor, cache));
    const ov::Tensor rows = request.get_tensor(tensor.name + "_rows");
    ov::Shape shape(tensor.shape.begin(), tensor.shape.end());
    shape[2] = static_cast<std::size_t>(arrays_.tensor(Stage::denoise, "cos").shape[1]);
    require(rows.get_shape() == shape && rows.get_element_type() == element_type(tensor.dtype), MS_ERROR_BUNDLE,
            "OpenVINO returns rows of ", tensor.name, " that do not fit it; export again");
    const auto places = arrays_.values<std::int64_t>(
        Stage::denoise, is_rolling_cache(tensor.name) ? "write_index" : "sink_index");
    written_.push_back({rows, cache, shape[0] * shape[1], static_cast<std::size_t>(tensor.shape[2]),
                        shape[3] * item_bytes(tensor.dtype), places});
  }

  OpenVinoModel& model_;
  HostArrays& arrays_;
  std::array<Requests, kStageNames.size()> requests_;
  std::vector<Written> written_;
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
