#include "stand_in.hpp"

#include "engines/host_runner.hpp"

#include <atomic>
#include <algorithm>
#include <cstring>

#include "numerics/noise.hpp"

namespace ms_infer {

namespace {

std::atomic<int> runs_until_failure{0}, loads{0};
std::atomic<void (*)()> watcher{nullptr};

std::uint64_t mixed(std::uint64_t digest, std::span<const unsigned char> bytes) {
  for (const auto byte : bytes) digest = (digest ^ byte) * 0x100000001b3ull;  // FNV-1a
  return digest;
}

std::span<const unsigned char> bytes_of(std::span<const float> values) {
  return {reinterpret_cast<const unsigned char*>(values.data()), values.size() * sizeof(float)};
}

class StandIn final : public StageCaller {
 public:
  StandIn(const StreamConfig& config, HostArrays& arrays) : config_(config), arrays_(arrays) {}

  void load() override {
    for (const auto& [spec, bytes] : arrays_.caches()) {  // [1, heads, tokens, head_dim]
      caches_[spec->name] = arrays_.values<float>(Stage::denoise, spec->name);
      rows_ = std::max(rows_, static_cast<std::size_t>(spec->shape[2])), width_ = static_cast<std::size_t>(spec->shape[3]);
    }
    if (config_.rolls()) sink_rows_ = static_cast<std::size_t>(config_.context.sink_frames * config_.tokens_per_frame());
    for (auto& [name, values] : caches_)
      if (sink_rows_ && name.starts_with("k_cache_")) rolled_.emplace_back(values, caches_.at("sink_k_" + name.substr(8)));
    if (sink_rows_) sink_index_ = arrays_.values<std::int64_t>(Stage::denoise, "sink_index");
    n_valid_ = arrays_.values<std::int64_t>(Stage::denoise, "n_valid");
    write_index_ = arrays_.values<std::int64_t>(Stage::denoise, "write_index");
    for (std::size_t i = 0; i < kStageNames.size(); ++i)
      for (int side = 0; side < 2; ++side) bind(static_cast<Stage>(i), side);
  }

  void call(Stage stage, int side) override {
    if (auto* watch = watcher.load()) watch();
    if (int left = runs_until_failure; left > 0 && runs_until_failure.compare_exchange_strong(left, left - 1) && left == 1)
      fail(MS_ERROR_DEVICE, "the stand-in was told to fail in the stage '", stage_name(stage), "'");
    const Bound& bound = bound_[static_cast<std::size_t>(stage)][static_cast<std::size_t>(side)];
    std::uint64_t digest = 0xcbf29ce484222325ull + static_cast<std::uint64_t>(stage);
    for (const auto input : bound.inputs) digest = mixed(digest, input);
    if (stage == Stage::denoise) digest = attend(digest);
    std::uint32_t place = 0;
    for (const auto& [dtype, output] : bound.outputs) fill(output, dtype, digest, ++place);
  }

  void keep_pass() override {}  // every pass writes the caches

 private:
  struct Bound {
    std::vector<std::span<const unsigned char>> inputs;
    std::vector<std::pair<Dtype, std::span<unsigned char>>> outputs;
  };

  void bind(Stage stage, int side) {
    const StageSpec* spec = arrays_.spec(stage);
    if (!spec || stage == Stage::roll) return;
    Bound& bound = bound_[static_cast<std::size_t>(stage)][static_cast<std::size_t>(side)];
    for (const auto& input : spec->inputs)
      if (input.role != Role::cache) bound.inputs.push_back(arrays_.bytes(stage, input, side));
    for (const auto& output : spec->outputs)
      if (output.role != Role::cache) bound.outputs.emplace_back(output.dtype, arrays_.bytes(stage, output, side));
  }

  // Makes the sink's keys anew from un-rotated ones, writes the chunk's slots and reads the valid part of every cache,
  // as roll and attention do. Of a slot one row stands for all, of the heads the first.
  std::uint64_t attend(std::uint64_t digest) {
    const auto at = std::min(static_cast<std::size_t>(write_index_[0]), rows_ - 1);
    const auto valid = std::min(static_cast<std::size_t>(n_valid_[0]), rows_);
    for (auto& [keys, sink] : rolled_) {
      fill_normal(sink.subspan(static_cast<std::size_t>(sink_index_[0]) * width_, width_), digest, 0, 1);
      std::copy_n(sink.begin(), sink_rows_ * width_, keys.begin());
    }
    for (auto& [name, values] : caches_) {
      if (name.starts_with("sink_k_")) continue;
      fill_normal(values.subspan(at * width_, width_), digest, 0, 0);
      digest = mixed(digest, bytes_of(values).first(valid * width_ * sizeof(float)));
    }
    return digest;
  }

  static void fill(std::span<unsigned char> output, Dtype dtype, std::uint64_t digest, std::uint32_t place) {
    if (dtype == Dtype::float32) {
      fill_normal({reinterpret_cast<float*>(output.data()), output.size() / 4}, digest, 0, place);
      return;
    }
    for (auto& byte : output) byte = static_cast<unsigned char>((digest = digest * 6364136223846793005ull + place) >> 56);
  }

  const StreamConfig& config_;
  HostArrays& arrays_;
  std::map<std::string, std::span<float>> caches_;
  std::size_t rows_ = 0, width_ = 0;  // of the first head of a cache
  std::size_t sink_rows_ = 0;
  std::vector<std::pair<std::span<float>, std::span<float>>> rolled_;  // keys and their un-rotated sink
  std::span<std::int64_t> n_valid_, write_index_, sink_index_;
  std::array<std::array<Bound, 2>, kStageNames.size()> bound_;
};

// The same results from a runner that has all of a chunk under way when `start` returns and keeps states by itself, as
// one on a GPU does.
class WholeStandIn final : public ChunkRunner {
 public:
  WholeStandIn(const StreamConfig& config, HostArrays& arrays, const std::atomic<bool>* cancelled)
      : stages_(config, arrays), arrays_(arrays), cancelled_(cancelled) {}

  void load() override { stages_.load(); }
  void run(Stage stage) override {
    if (stage == Stage::encode) hand_over(stage);
    stages_.call(stage, 0);
  }
  // What `points` moves is a copy, as it is on a device.
  void hand_over(Stage) override {
    const auto image = arrays_.bytes(Stage::encode, "image");
    image_.assign(image.begin(), image.end());
  }
  void prepare() override {}
  void move_rows(std::int64_t, std::int64_t, std::int64_t) override {}

  void start(bool opening, bool, std::span<const PassInputs> passes) override {
    opening_ = opening;
    std::copy(image_.begin(), image_.end(), arrays_.bytes(Stage::encode, "image").begin());
    stages_.call(Stage::roll, 0);
    for (const Stage stage : track_stages(opening)) stages_.call(stage, 0);
    for (const PassInputs& pass : passes.first(passes.size() - 1)) {
      denoise(pass);
      copy("x", arrays_.values<float>(Stage::denoise, "x_next"));
    }
    stages_.call(opening ? Stage::decode_first : Stage::decode, 0);
    denoise(passes.back());
  }

  std::span<const std::uint8_t> frames() override {
    return arrays_.bytes(opening_ ? Stage::decode_first : Stage::decode, "frames");
  }

  void commit() override { adopt(Stage::tracks), adopt(Stage::decode); }
  StageTimes times() const override { return {1, 2, 3, 4}; }

  void write(const PassInputs& pass) override {
    stages_.call(Stage::roll, 0);
    denoise(pass);
  }

  void write_given(const PassInputs& pass) override {
    write(pass);
    stages_.call(Stage::decode_given, 0);
    adopt(Stage::decode);
  }

  Tensors kept() override {
    Tensors all;
    for (const auto& [tensor, bytes] : everything())
      all[tensor->name] = {tensor->dtype, tensor->shape, {bytes.begin(), bytes.end()}};
    return all;
  }

  void keep(const Tensors& tensors) override {
    for (const auto& [tensor, bytes] : everything()) {
      const auto& saved = tensors.at(tensor->name).data;
      std::copy(saved.begin(), saved.end(), bytes.begin());
    }
  }

  void reset() override { arrays_.clear(); }

 private:
  // Caches and states.
  TensorPlaces everything() {
    auto found = arrays_.caches();
    for (const Stage stage : {Stage::tracks, Stage::decode})
      for (const auto& [input, output] : arrays_.spec(stage)->states)
        found.emplace_back(&arrays_.tensor(stage, input), arrays_.bytes(stage, input));
    return found;
  }

  void adopt(Stage stage) {
    for (const auto& [input, output] : arrays_.spec(stage)->states) {
      const auto written = arrays_.bytes(stage, output);
      std::copy(written.begin(), written.end(), arrays_.bytes(stage, input).begin());
    }
  }

  void denoise(const PassInputs& pass) {
    stop_if(cancelled_);
    copy("time", pass.time), copy("sigma", pass.sigma), copy("next_sigma", pass.next_sigma), copy("noise", pass.noise);
    stages_.call(Stage::denoise, 0);
  }

  void copy(const char* name, std::span<const float> values) {
    std::copy(values.begin(), values.end(), arrays_.values<float>(Stage::denoise, name).begin());
  }

  StandIn stages_;
  HostArrays& arrays_;
  const std::atomic<bool>* cancelled_;
  Bytes image_;
  bool opening_ = false;
};

// Reads what a bundle promises, as an engine does.
template <bool Whole>
class StandInModel final : public EngineModel {
 public:
  StandInModel(const Manifest& manifest, const EngineSpec& engine) : manifest_(manifest), engine_(engine) {}

  std::string name() const override { return "stand_in"; }
  std::string precision() const override { return "fp32"; }
  void load(const Progress& progress) override {
    ++loads;
    for (const auto& [stage, file] : engine_.stages) progress(stage, 0.5), manifest_.read(file);
  }
  std::unique_ptr<ChunkRunner> runner(HostArrays& arrays, const RunnerSettings& settings) override {
    if constexpr (Whole) return std::make_unique<WholeStandIn>(manifest_.config, arrays, settings.cancelled);
    return std::make_unique<HostRunner>(arrays, std::make_unique<StandIn>(manifest_.config, arrays), settings);
  }

 private:
  const Manifest& manifest_;
  const EngineSpec& engine_;
};

template <bool Whole>
std::unique_ptr<EngineModel> open(const Manifest& manifest, const EngineSpec& engine, const EngineOptions&) {
  return std::make_unique<StandInModel<Whole>>(manifest, engine);
}

const EngineSpec* choose(const Manifest& manifest, const std::string& kind, const EngineOptions&) {
  return manifest.engine(kind);
}

void check() {}

}  // namespace

const EngineLibrary stand_in_library{MS_INFER_VERSION, open<false>, choose, check};
const EngineLibrary whole_stand_in_library{MS_INFER_VERSION, open<true>, choose, check};

void fail_stand_in_after(int runs) { runs_until_failure = runs; }

int stand_in_loads() { return loads; }

void watch_stand_in(void (*watch)()) { watcher = watch; }

}  // namespace ms_infer
