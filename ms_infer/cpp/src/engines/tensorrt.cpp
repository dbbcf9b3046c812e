#include "tensorrt.hpp"

#include <NvInferRuntime.h>

#include <algorithm>
#include <cstring>
#include <mutex>
#include <set>
#include <string>

#include "device_memory.hpp"

namespace ms_infer {

namespace {

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

nvinfer1::DataType data_type(Dtype dtype) {
  switch (dtype) {
    case Dtype::float32: return nvinfer1::DataType::kFLOAT;
    case Dtype::float16: return nvinfer1::DataType::kHALF;
    case Dtype::bfloat16: return nvinfer1::DataType::kBF16;
    case Dtype::boolean: return nvinfer1::DataType::kBOOL;
    case Dtype::int64: return nvinfer1::DataType::kINT64;
    case Dtype::uint8: return nvinfer1::DataType::kUINT8;
    case Dtype::uint16: break;
  }
  fail(MS_ERROR_INTERNAL, "a type without a name");
}

// Stages that may run at the same time have scratch memory of their own: text, chunk, decode.
constexpr std::size_t kLanes = 3;
std::size_t lane_of(Stage stage) {
  if (stage == Stage::text) return 0;
  return stage_name(stage).starts_with("decode") ? 2 : 1;
}

// One plan with a context whose memory and addresses are given once.
struct Loaded {
  std::unique_ptr<nvinfer1::ICudaEngine> engine;
  std::unique_ptr<nvinfer1::IExecutionContext> context;
};

// What a stage takes and gives outside of the loop, on the host's side.
const std::set<std::string> kDeviceOnly{"track_ids", "moved", "validity", "moved_valid", "layers"};
bool on_host(const std::string& name) {
  return !kDeviceOnly.contains(name) && !name.starts_with("cross_") && !name.starts_with("encoder_") &&
         !name.starts_with("decoder_");
}

class TensorRtRunner final : public StageRunner {
 public:
  TensorRtRunner(const Manifest& manifest, const EngineSpec& engine, HostArrays& arrays, const RunnerOptions& options)
      : manifest_(manifest), engine_(engine), arrays_(arrays), device_(options.device) {}

  ~TensorRtRunner() override {
    for (const auto* lane : {&main_, &decode_, &text_}) cudaStreamSynchronize(lane->get());
    if (graph_) cudaGraphExecDestroy(graph_);
  }

  std::string name() const override { return "tensorrt"; }
  std::string precision() const override { return engine_.dtype; }

  void prepare() override {
    runtime_.reset(nvinfer1::createInferRuntime(logger_));
    require(runtime_ != nullptr, MS_ERROR_DEVICE, "TensorRT cannot start its runtime: ", logger_.newest());
    std::array<std::size_t, kLanes> scratch{};
    for (std::size_t i = 0; i < kStageNames.size(); ++i) {
      const Stage stage = static_cast<Stage>(i);
      const auto file = engine_.stages.find(std::string(stage_name(stage)));
      if (!arrays_.has(stage) || file == engine_.stages.end()) continue;
      load(stage, file->second);
      auto& needed = scratch[lane_of(stage)];
      needed = std::max(needed, static_cast<std::size_t>(loaded(stage).engine->getDeviceMemorySizeV2()));
    }
    for (std::size_t lane = 0; lane < kLanes; ++lane)
      scratch_[lane] = DeviceBuffer(std::max<std::size_t>(scratch[lane], 256));
    bind(Stage::denoise);  // first: other stages lie in its inputs
    for (std::size_t i = 0; i < kStageNames.size(); ++i)
      if (static_cast<Stage>(i) != Stage::denoise && loaded_[i].engine) bind(static_cast<Stage>(i));
  }

  // Outside of the loop: upload, run, fetch what the host reads, wait.
  void run(Stage stage, int) override {
    use_device();
    const cudaStream_t lane = stream_of(stage);
    const StageSpec& spec = *arrays_.spec(stage);
    for (const auto& input : spec.inputs)
      if (on_host(input.name) && !caches_.contains(input.name)) upload(stage, input.name, lane);
    enqueue(stage, lane);
    for (const auto& output : spec.outputs)
      if (on_host(output.name) && output.name != "track" && !aliased(spec, output.name))
        download(stage, output.name, lane);
    check_cuda(cudaStreamSynchronize(lane), "waiting for a stage");
  }

  bool takes_whole_chunks() const override { return true; }

  // Opening chunks and the first steady one run as they come, which warms every stage up; the next is captured.
  void start_chunk(bool opening, std::span<const PassInputs> passes) override {
    use_device();
    if (opening || !warm_) {
      enqueue_chunk(opening, passes, false);
      warm_ = warm_ || !opening;
      return;
    }
    if (!graph_) capture(passes);
    check_cuda(cudaGraphLaunch(graph_, main_.get()), "launching a chunk");
  }

  void finish_frames() override { check_cuda(cudaEventSynchronize(frames_ready_.get()), "waiting for the frames"); }
  void finish_chunk() override { check_cuda(cudaStreamSynchronize(main_.get()), "waiting for a chunk"); }

  bool keeps_states() const override { return true; }

  void commit_states(bool encoder, bool decoder) override {
    for (const Stage stage : {Stage::tracks, Stage::decode}) {
      if (!arrays_.has(stage) || !(stage == Stage::tracks ? encoder : decoder)) continue;
      for (const auto& [input, output] : arrays_.spec(stage)->states) {
        const auto to = arrays_.bytes(stage, input, 0), from = arrays_.bytes(stage, output, 0);
        check_cuda(cudaMemcpyAsync(memory_.at(to), memory_.at(from), to.size(), cudaMemcpyDeviceToDevice, main_.get()),
                   "keeping a state");
      }
    }
  }

  void fetch_states() override { move_states(false); }
  void put_states() override { move_states(true); }

  Caches read_caches() override {
    Caches caches;
    for (const auto& [name, buffer] : caches_) {
      const TensorSpec& spec = arrays_.tensor(Stage::denoise, name);
      HostTensor& copy = caches[name] = {spec.dtype, spec.shape, Bytes(spec.bytes())};
      check_cuda(cudaMemcpy(copy.data.data(), buffer.get(), spec.bytes(), cudaMemcpyDeviceToHost), "reading a cache");
    }
    return caches;
  }

  void write_caches(const std::map<std::string, TensorView>& caches) override {
    for (const auto& [name, buffer] : caches_) {
      const auto& data = caches.at(name).data;
      check_cuda(cudaMemcpy(buffer.get(), data.data(), data.size(), cudaMemcpyHostToDevice), "writing a cache");
    }
  }

  void reset_caches() override {
    for (const auto& [name, buffer] : caches_)
      check_cuda(cudaMemsetAsync(buffer.get(), 0, buffer.size(), main_.get()), "clearing a cache");
    finish_chunk();
  }

 private:
  Loaded& loaded(Stage stage) { return loaded_[static_cast<std::size_t>(stage)]; }
  cudaStream_t stream_of(Stage stage) { return (stage == Stage::text ? text_ : main_).get(); }
  // CUDA's current device belongs to a thread, and any thread may come.
  void use_device() const { check_cuda(cudaSetDevice(device_), "choosing the device"); }

  static bool aliased(const StageSpec& spec, const std::string& output) {
    for (const auto& [input, name] : spec.aliases)
      if (name == output) return true;
    return false;
  }

  void load(Stage stage, const std::string& file) {
    const Bytes plan = manifest_.read(file);
    auto& target = loaded(stage);
    target.engine.reset(runtime_->deserializeCudaEngine(plan.data(), plan.size()));
    require(target.engine != nullptr, MS_ERROR_ENGINE, "TensorRT refuses ", file, " (", logger_.newest(),
            "); build it again on this machine: ms-export ... --target trt or rtx");
    const StageSpec& spec = *arrays_.spec(stage);
    for (const auto* tensors : {&spec.inputs, &spec.outputs})
      for (const auto& tensor : *tensors) check_tensor(stage, *target.engine, tensor);
    for (const auto& [input, output] : spec.aliases) {
      const char* written = target.engine->getAliasedInputTensor(output.c_str());
      require(written && input == written, MS_ERROR_ENGINE, "the plan of ", spec.name, " does not write ", input,
              " in place; run ms-export again");
    }
    constexpr auto kOurs = nvinfer1::ExecutionContextAllocationStrategy::kUSER_MANAGED;
    target.context.reset(target.engine->createExecutionContext(kOurs));
    require(target.context != nullptr, MS_ERROR_DEVICE, "TensorRT cannot make a context for ", spec.name, ": ",
            logger_.newest());
  }

  void check_tensor(Stage stage, nvinfer1::ICudaEngine& engine, const TensorSpec& tensor) {
    const auto have = engine.getTensorShape(tensor.name.c_str());
    bool fits = have.nbDims == static_cast<int>(tensor.shape.size()) &&
                engine.getTensorDataType(tensor.name.c_str()) == data_type(tensor.dtype);
    for (int i = 0; fits && i < have.nbDims; ++i) fits = have.d[i] == tensor.shape[static_cast<std::size_t>(i)];
    require(fits, MS_ERROR_ENGINE, "the plan of ", stage_name(stage), " has another ", tensor.name,
            " than the manifest; run ms-export again");
  }

  // Gives a stage all its addresses; an aliased output gets that of its input.
  void bind(Stage stage) {
    const StageSpec& spec = *arrays_.spec(stage);
    auto& context = *loaded(stage).context;
    const auto& scratch = scratch_[lane_of(stage)];
    context.setDeviceMemoryV2(scratch.get(), static_cast<int64_t>(scratch.size()));
    std::map<std::string, std::string> inputs;
    for (const auto& [input, output] : spec.aliases) inputs[input] = input, inputs[output] = input;
    for (const auto* tensors : {&spec.inputs, &spec.outputs})
      for (const auto& tensor : *tensors) {
        const auto alias = inputs.find(tensor.name);
        const bool cached = alias != inputs.end() || tensor.name.starts_with("sink_k_");
        void* address = cached ? cache(alias != inputs.end() ? alias->second : tensor.name)
                               : memory_.at(arrays_.bytes(stage, tensor, 0));
        require(context.setTensorAddress(tensor.name.c_str(), address), MS_ERROR_ENGINE,
                "TensorRT refuses an address for ", spec.name, ".", tensor.name);
      }
  }

  void* cache(const std::string& name) {
    auto& buffer = caches_[name];
    if (!buffer.get()) buffer = DeviceBuffer(arrays_.tensor(Stage::denoise, name).bytes());
    return buffer.get();
  }

  void upload(Stage stage, const std::string& name, cudaStream_t lane) {
    memory_.upload(arrays_.bytes(stage, name, 0), lane);
  }
  void download(Stage stage, const std::string& name, cudaStream_t lane) {
    memory_.download(arrays_.bytes(stage, name, 0), lane);
  }

  void enqueue(Stage stage, cudaStream_t lane) {
    if (!loaded(stage).context) return;
    if (!loaded(stage).context->enqueueV3(lane))
      fail(MS_ERROR_DEVICE, "TensorRT failed to start ", stage_name(stage), ": ", logger_.newest());
  }

  // The work of a chunk in stream order; the decoder runs beside the clean pass.
  void enqueue_chunk(bool opening, std::span<const PassInputs> passes, bool captured) {
    const cudaStream_t main = main_.get(), side = decode_.get();
    const Stage points = opening ? Stage::points_first : Stage::points;
    const Stage tracks = opening ? Stage::tracks_first : Stage::tracks;
    const Stage decode = opening ? Stage::decode_first : Stage::decode;
    upload_chunk(points, main);
    enqueue(Stage::roll, main), enqueue(points, main), enqueue(tracks, main);
    const auto x = arrays_.bytes(Stage::denoise, "x"), x_next = arrays_.bytes(Stage::denoise, "x_next");
    for (const auto& pass : passes.first(passes.size() - 1)) {
      enqueue_pass(pass, main);
      check_cuda(cudaMemcpyAsync(memory_.at(x), memory_.at(x_next), x.size(), cudaMemcpyDeviceToDevice, main),
                 "handing a pass on");
    }
    latents_ready_.record(main);
    check_cuda(cudaStreamWaitEvent(side, latents_ready_.get(), 0), "waiting for latents");
    enqueue(decode, side);
    download(decode, "frames", side);
    frames_ready_.record(side, captured);
    decoded_.record(side);
    memory_.download(x, main);
    if (arrays_.has(tracks)) download(Stage::denoise, "track", main);
    enqueue_pass(passes.back(), main);
    check_cuda(cudaStreamWaitEvent(main, decoded_.get(), 0), "waiting for the decoder");
  }

  void upload_chunk(Stage points, cudaStream_t main) {
    static constexpr std::array kPerPass{"time", "sigma", "next_sigma", "noise"};
    for (const Stage stage : {Stage::roll, points, Stage::denoise}) {
      if (!arrays_.has(stage)) continue;
      for (const auto& input : arrays_.spec(stage)->inputs) {
        const bool made_here = input.name == "track" && arrays_.has(Stage::tracks);
        const bool per_pass = std::ranges::find(kPerPass, input.name) != kPerPass.end();
        const bool once = input.name == "image" && stage == points;
        if (on_host(input.name) && !caches_.contains(input.name) && !made_here && !per_pass && !once)
          upload(stage, input.name, main);
      }
    }
  }

  void enqueue_pass(const PassInputs& pass, cudaStream_t main) {
    const auto put = [&](const char* name, std::span<const float> values) {
      memory_.upload_from(arrays_.bytes(Stage::denoise, name), std::as_bytes(values), main);
    };
    put("time", pass.time), put("sigma", pass.sigma), put("next_sigma", pass.next_sigma), put("noise", pass.noise);
    enqueue(Stage::denoise, main);
  }

  void capture(std::span<const PassInputs> passes) {
    cudaGraph_t graph = nullptr;
    finish_chunk();
    check_cuda(cudaStreamBeginCapture(main_.get(), cudaStreamCaptureModeThreadLocal), "beginning a capture");
    try {
      enqueue_chunk(false, passes, true);
    } catch (...) {
      if (cudaStreamEndCapture(main_.get(), &graph) == cudaSuccess) cudaGraphDestroy(graph);
      throw;
    }
    check_cuda(cudaStreamEndCapture(main_.get(), &graph), "ending a capture");
    const cudaError_t made = cudaGraphInstantiate(&graph_, graph, 0);
    cudaGraphDestroy(graph);
    check_cuda(made, "making a graph of a chunk");
  }

  void move_states(bool up) {
    for (const Stage stage : {Stage::tracks, Stage::decode}) {
      if (!arrays_.has(stage)) continue;
      for (const auto& [input, output] : arrays_.spec(stage)->states) {
        if (up) upload(stage, input, main_.get());
        else download(stage, input, main_.get());
      }
    }
    finish_chunk();
  }

  const Manifest& manifest_;
  const EngineSpec& engine_;
  HostArrays& arrays_;
  Logger logger_;
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  int device_ = 0;
  CudaStream main_, decode_, text_;
  CudaEvent latents_ready_, frames_ready_, decoded_;
  std::array<DeviceBuffer, kLanes> scratch_;
  std::map<std::string, DeviceBuffer> caches_;
  DeviceMemory memory_;
  std::array<Loaded, kStageNames.size()> loaded_;
  cudaGraphExec_t graph_ = nullptr;
  bool warm_ = false;
};

std::string this_device(int device) {
  cudaDeviceProp properties{};
  check_cuda(cudaGetDeviceProperties(&properties, device), "asking for the device");
  return "sm_" + std::to_string(properties.major) + std::to_string(properties.minor);
}

std::string this_version() { return std::to_string(NV_TENSORRT_MAJOR) + "." + std::to_string(NV_TENSORRT_MINOR); }

// "11.4.0.106" begins with the release "11.4".
bool same_release(const std::string& version) {
  return version == this_version() || version.starts_with(this_version() + ".");
}

// "sm_80+sm_90" names a device; "any" names all.
bool runs_on(const std::string& arch, const std::string& device) {
  return arch == "any" || ("+" + arch + "+").find("+" + device + "+") != std::string::npos;
}

}  // namespace

bool tensorrt_usable() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
}

const EngineSpec* choose_tensorrt(const Manifest& manifest, const std::string& kind, const RunnerOptions& options) {
  if (!manifest.engine(kind)) return nullptr;
  require(tensorrt_usable(), MS_ERROR_DEVICE, "the engine 'tensorrt' needs a CUDA device, and there is none");
  const std::string device = this_device(options.device);
  std::string have;
  for (const auto& engine : manifest.engines) {
    if (engine.kind != kind) continue;
    have += (have.empty() ? "" : "; ") + engine.library + " " + engine.version + " " + engine.arch + " " + engine.dtype;
    const bool precise = options.precision.empty() || options.precision == engine.dtype;
    const bool ours = engine.library == MS_INFER_TENSORRT_LIBRARY && same_release(engine.version);
    if (ours && runs_on(engine.arch, device) && precise) return &engine;
  }
  const std::string asked = options.precision.empty() ? "" : ", asked for is " + options.precision;
  fail(MS_ERROR_ENGINE, manifest.folder.string(), " holds engines for ", have,
       "; here is " MS_INFER_TENSORRT_LIBRARY " ", this_version(), " on ", device, asked,
       "; build others with ms-export --target");
}

std::unique_ptr<StageRunner> open_tensorrt(const Manifest& manifest, const EngineSpec& engine, HostArrays& arrays,
                                           const RunnerOptions& options) {
  check_cuda(cudaSetDevice(options.device), "choosing the device");
  return std::make_unique<TensorRtRunner>(manifest, engine, arrays, options);
}

}  // namespace ms_infer
