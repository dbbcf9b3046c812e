// A chunk on the GPU: TensorRT plans in stream order, as one CUDA graph.
#include "engines/tensorrt/model.hpp"

namespace ms_infer {

namespace {

// Stages that may run at the same time have scratch memory of their own: text, chunk, decode.
constexpr std::size_t kLanes = 3;
std::size_t lane_of(Stage stage) {
  return stage == Stage::text ? 0 : is_decoder(stage) ? 2 : 1;
}

// Events of one chunk outside of the graph. Two chunks take turns: the clean pass of one is read with the next.
struct Turn {
  CudaEvent start{true}, end{true};
  float denoised = -1;  // milliseconds from `start` to the latents; below 0: not committed
};

// One stream: contexts whose memory and addresses are given once, caches, and the graph of a chunk.
class TensorRtRunner final : public ChunkRunner {
 public:
  TensorRtRunner(TensorRtModel& model, HostArrays& arrays, const RunnerSettings& settings)
      : model_(model), arrays_(arrays), settings_(settings) {}

  ~TensorRtRunner() override {
    for (const auto* lane : {&main_, &decode_, &text_}) cudaStreamSynchronize(lane->get());
    if (graph_) cudaGraphExecDestroy(graph_);
  }

  void load() override {
    use_device();
    std::array<std::size_t, kLanes> scratch{};
    for (std::size_t i = 0; i < kStageNames.size(); ++i) {
      const Stage stage = static_cast<Stage>(i);
      if (!arrays_.has(stage) || !model_.plan(stage)) continue;
      constexpr auto kOurs = nvinfer1::ExecutionContextAllocationStrategy::kUSER_MANAGED;
      contexts_[i].reset(model_.plan(stage)->createExecutionContext(kOurs));
      require(contexts_[i] != nullptr, MS_ERROR_DEVICE, "TensorRT cannot make a context for ", kStageNames[i], ": ",
              model_.logger().newest());
      auto& needed = scratch[lane_of(stage)];
      needed = std::max(needed, static_cast<std::size_t>(model_.plan(stage)->getDeviceMemorySizeV2()));
    }
    for (std::size_t lane = 0; lane < kLanes; ++lane)
      scratch_[lane] = DeviceBuffer(std::max<std::size_t>(scratch[lane], 256));
    bind(Stage::denoise);  // first: other stages lie in its inputs; then opening stages last: they lie in longer ones
    for (std::size_t i = kStageNames.size(); i-- > 0;)
      if (static_cast<Stage>(i) != Stage::denoise && contexts_[i]) bind(static_cast<Stage>(i));
  }

  // Upload, run, fetch what the host reads, wait.
  void run(Stage stage) override {
    use_device();
    const cudaStream_t lane = stream_of(stage);
    upload_inputs(stage, lane);
    enqueue(stage, lane);
    if (fills_image_slot(stage)) adopt(Stage::encode_grey);
    for (const auto& output : arrays_.spec(stage)->outputs)
      if (output.role == Role::host) memory_.download(arrays_.bytes(stage, output), lane);
    check_cuda(cudaStreamSynchronize(lane), "waiting for a stage");
  }

  void hand_over(Stage stage) override {
    use_device();
    upload_inputs(stage, main_.get());
    finish();
  }

  void prepare() override {
    use_device();
    if (in_flight_) finish();  // a failed chunk: its uploads may still read what is filled now
    turn_ ^= 1;
    turns_[turn_].denoised = -1;
    turns_[turn_].start.record(main_.get());
  }

  // In copies that do not overlap: no longer than the way they go.
  void move_rows(std::int64_t target, std::int64_t source, std::int64_t rows) override {
    const std::int64_t step = source - target;
    for (auto& [name, buffer] : caches_) {
      if (!is_rolling_cache(name)) continue;
      const Shape& shape = arrays_.tensor(Stage::denoise, name).shape;
      const auto heads = static_cast<std::size_t>(shape[0] * shape[1]);
      const std::size_t pitch = buffer.size() / heads, row = pitch / static_cast<std::size_t>(shape[2]);
      auto* first = static_cast<unsigned char*>(buffer.get());
      for (std::int64_t done = 0; done < rows; done += step)
        check_cuda(cudaMemcpy2DAsync(first + static_cast<std::size_t>(target + done) * row, pitch,
                                     first + static_cast<std::size_t>(source + done) * row, pitch,
                                     static_cast<std::size_t>(std::min(step, rows - done)) * row, heads,
                                     cudaMemcpyDeviceToDevice, main_.get()),
                   "moving the window");
    }
  }

  // Opening chunks and the first steady one run as they come, which warms every stage up; the next is captured.
  void start(bool opening, bool, std::span<const PassInputs> passes) override {
    opening_ = opening;
    in_flight_ = true;
    if (opening || !warm_) {
      enqueue_chunk(opening, passes, false);
      warm_ = warm_ || !opening;
    } else {
      stop_if(settings_.cancelled);
      if (!graph_) capture(passes);
      check_cuda(cudaGraphLaunch(graph_, main_.get()), "launching a chunk");
    }
    turns_[turn_].end.record(main_.get());
  }

  std::span<const std::uint8_t> frames() override {
    check_cuda(cudaEventSynchronize(frames_ready_.get()), "waiting for the frames");
    return arrays_.bytes(opening_ ? Stage::decode_first : Stage::decode, "frames");
  }

  DeviceFrames device_frames() override {
    return {memory_.at(arrays_.bytes(opening_ ? Stage::decode_first : Stage::decode, "frames")), frames_ready_.get()};
  }

  // The clean pass is under way since `start` and goes on; the host waits until nothing reads or writes its arrays.
  void commit() override {
    check_cuda(cudaEventSynchronize(host_free_.get()), "waiting for the latents");
    adopt(Stage::tracks), adopt(Stage::decode);
    in_flight_ = false;
    Turn &now = turns_[turn_], &before = turns_[turn_ ^ 1];
    const float begun = now.start.milliseconds_to(begun_);
    now.denoised = now.start.milliseconds_to(denoised_);
    const float decoded = settings_.on_device ? 0 : denoised_.milliseconds_to(frames_ready_);  // else nobody waited for it
    times_ = {begun, now.denoised - begun, decoded, times_.write_cache_ms};
    if (before.denoised >= 0) times_.write_cache_ms = before.start.milliseconds_to(before.end) - before.denoised;
  }

  StageTimes times() const override { return times_; }

  // The slot of tracks comes from the host here: it remembers what a stage made.
  void write(const PassInputs& pass) override {
    const cudaStream_t main = main_.get();
    upload_inputs(Stage::roll, main), upload_inputs(Stage::denoise, main);
    if (arrays_.has(Stage::tracks)) memory_.upload(arrays_.bytes(Stage::denoise, "track"), main);
    enqueue(Stage::roll, main);
    enqueue_pass(pass, main);
    finish();
  }

  void write_given(const PassInputs& pass) override {
    write(pass);
    enqueue(arrays_.has(Stage::decode_given) ? Stage::decode_given : Stage::decode_first, main_.get());
    adopt(Stage::decode);
    finish();
  }

  Tensors kept() override {
    use_device();
    finish();
    Tensors all;
    for (const auto& [tensor, address] : kept_places()) {
      HostTensor& copy = all[tensor->name] = {tensor->dtype, tensor->shape, Bytes(tensor->bytes())};
      check_cuda(cudaMemcpy(copy.data.data(), address, copy.data.size(), cudaMemcpyDeviceToHost), "reading a tensor");
    }
    return all;
  }

  void keep(const Tensors& tensors) override {
    use_device();
    finish();
    for (const auto& [tensor, address] : kept_places()) {
      const auto& data = tensors.at(tensor->name).data;
      check_cuda(cudaMemcpy(address, data.data(), data.size(), cudaMemcpyHostToDevice), "writing a tensor");
    }
  }

  void reset() override {
    use_device();
    for (const auto& [tensor, address] : kept_places())
      check_cuda(cudaMemsetAsync(address, 0, tensor->bytes(), main_.get()), "clearing a tensor");
    finish();
  }

 private:
  nvinfer1::IExecutionContext* context(Stage stage) { return contexts_[static_cast<std::size_t>(stage)].get(); }
  cudaStream_t stream_of(Stage stage) { return (stage == Stage::text ? text_ : main_).get(); }
  void use_device() const { ms_infer::use_device(model_.device()); }

  void finish() const { check_cuda(cudaStreamSynchronize(main_.get()), "waiting for a chunk"); }

  // What encoder or decoder wrote becomes what it reads.
  void adopt(Stage stage) {
    if (!arrays_.has(stage)) return;
    for (const auto& [input, output] : arrays_.spec(stage)->states) {
      const auto to = arrays_.bytes(stage, input), from = arrays_.bytes(stage, output);
      check_cuda(cudaMemcpyAsync(memory_.at(to), memory_.at(from), to.size(), cudaMemcpyDeviceToDevice, main_.get()),
                 "keeping a state");
    }
  }

  // Caches and states, and where they lie.
  std::vector<std::pair<const TensorSpec*, void*>> kept_places() {
    std::vector<std::pair<const TensorSpec*, void*>> found;
    for (const auto& [name, buffer] : caches_) found.emplace_back(&arrays_.tensor(Stage::denoise, name), buffer.get());
    for (const Stage stage : {Stage::tracks, Stage::decode}) {
      if (!arrays_.has(stage)) continue;
      for (const auto& [input, output] : arrays_.spec(stage)->states) {
        const TensorSpec& tensor = arrays_.tensor(stage, input);
        found.emplace_back(&tensor, memory_.at(arrays_.bytes(stage, tensor)));
      }
    }
    return found;
  }

  // Gives a stage all its addresses; an aliased output gets that of its input.
  void bind(Stage stage) {
    const StageSpec& spec = *arrays_.spec(stage);
    auto& context = *this->context(stage);
    const auto& scratch = scratch_[lane_of(stage)];
    context.setDeviceMemoryV2(scratch.get(), static_cast<int64_t>(scratch.size()));
    std::map<std::string, std::string> inputs;
    for (const auto& [input, output] : spec.aliases) inputs[output] = input;
    for (const auto* tensors : {&spec.inputs, &spec.outputs})
      for (const auto& tensor : *tensors) {
        const auto alias = inputs.find(tensor.name);
        void* address = tensor.role == Role::cache ? cache(alias != inputs.end() ? alias->second : tensor.name)
                                                   : memory_.at(arrays_.bytes(stage, tensor));
        require(context.setTensorAddress(tensor.name.c_str(), address), MS_ERROR_ENGINE,
                "TensorRT refuses an address for ", spec.name, ".", tensor.name);
      }
  }

  void* cache(const std::string& name) {
    auto& buffer = caches_[name];
    if (!buffer.get()) buffer = DeviceBuffer(arrays_.tensor(Stage::denoise, name).bytes());
    return buffer.get();
  }

  void upload_inputs(Stage stage, cudaStream_t lane) {
    if (!arrays_.has(stage)) return;
    for (const auto& input : arrays_.spec(stage)->inputs)
      if (input.role == Role::host) memory_.upload(arrays_.bytes(stage, input), lane);
  }

  void enqueue(Stage stage, cudaStream_t lane) {
    if (!context(stage)) return;
    if (!context(stage)->enqueueV3(lane))
      fail(MS_ERROR_DEVICE, "TensorRT failed to start ", stage_name(stage), ": ", model_.logger().newest());
  }

  // The work of a chunk in stream order; the decoder runs beside the clean pass.
  void enqueue_chunk(bool opening, std::span<const PassInputs> passes, bool captured) {
    const cudaStream_t main = main_.get(), side = decode_.get();
    const auto tracking = track_stages(opening);
    const Stage decode = opening ? Stage::decode_first : Stage::decode;
    for (const Stage stage : {Stage::roll, tracking.front(), Stage::denoise}) upload_inputs(stage, main);
    enqueue(Stage::roll, main);
    for (const Stage stage : tracking) enqueue(stage, main);
    begun_.record(main, captured);
    const auto x = arrays_.bytes(Stage::denoise, "x"), x_next = arrays_.bytes(Stage::denoise, "x_next");
    for (const auto& pass : passes.first(passes.size() - 1)) {
      enqueue_pass(pass, main);
      check_cuda(cudaMemcpyAsync(memory_.at(x), memory_.at(x_next), x.size(), cudaMemcpyDeviceToDevice, main),
                 "handing a pass on");
    }
    denoised_.record(main, captured);
    latents_ready_.record(main);
    check_cuda(cudaStreamWaitEvent(side, latents_ready_.get(), 0), "waiting for latents");
    enqueue(decode, side);
    if (!settings_.on_device) memory_.download(arrays_.bytes(decode, "frames"), side);
    frames_ready_.record(side, captured);
    decoded_.record(side);
    memory_.download(x, main);
    if (arrays_.has(tracking.back())) memory_.download(arrays_.bytes(Stage::denoise, "track"), main);
    upload_pass(passes.back(), main);
    host_free_.record(main, captured);
    enqueue(Stage::denoise, main);
    check_cuda(cudaStreamWaitEvent(main, decoded_.get(), 0), "waiting for the decoder");
  }

  void enqueue_pass(const PassInputs& pass, cudaStream_t main) {
    upload_pass(pass, main);
    enqueue(Stage::denoise, main);
  }

  void upload_pass(const PassInputs& pass, cudaStream_t main) {
    const auto put = [&](const char* name, std::span<const float> values) {
      memory_.upload_from(arrays_.bytes(Stage::denoise, name), std::as_bytes(values), main);
    };
    put("time", pass.time), put("sigma", pass.sigma), put("next_sigma", pass.next_sigma), put("noise", pass.noise);
  }

  void capture(std::span<const PassInputs> passes) {
    cudaGraph_t graph = nullptr;
    finish();
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

  TensorRtModel& model_;
  HostArrays& arrays_;
  const RunnerSettings settings_;
  CudaStream main_, decode_, text_;
  CudaEvent latents_ready_, decoded_, host_free_;
  CudaEvent begun_{true}, denoised_{true}, frames_ready_{true};
  std::array<Turn, 2> turns_;
  std::size_t turn_ = 0;
  std::array<DeviceBuffer, kLanes> scratch_;
  std::map<std::string, DeviceBuffer> caches_;
  DeviceMemory memory_;
  std::array<std::unique_ptr<nvinfer1::IExecutionContext>, kStageNames.size()> contexts_;
  cudaGraphExec_t graph_ = nullptr;
  bool warm_ = false, opening_ = false, in_flight_ = false;
  StageTimes times_;
};

}  // namespace

std::unique_ptr<ChunkRunner> TensorRtModel::runner(HostArrays& arrays, const RunnerSettings& settings) {
  use_device(device_);
  return std::make_unique<TensorRtRunner>(*this, arrays, settings);
}

}  // namespace ms_infer
