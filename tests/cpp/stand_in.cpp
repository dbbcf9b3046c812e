#include "stand_in.hpp"

#include <atomic>
#include <algorithm>
#include <cstring>
#include <set>

#include "noise.hpp"

namespace ms_infer {

namespace {

std::atomic<int> runs_until_failure{0};

std::uint64_t mixed(std::uint64_t digest, std::span<const unsigned char> bytes) {
  for (const auto byte : bytes) digest = (digest ^ byte) * 0x100000001b3ull;  // FNV-1a
  return digest;
}

std::span<const unsigned char> bytes_of(const std::vector<float>& values) {
  return {reinterpret_cast<const unsigned char*>(values.data()), values.size() * sizeof(float)};
}

class StandIn : public StageRunner {
 public:
  StandIn(const Manifest& manifest, const EngineSpec& engine, HostArrays& arrays)
      : manifest_(manifest), engine_(engine), arrays_(arrays) {}

  std::string name() const override { return "stand_in"; }
  std::string precision() const override { return "fp32"; }

  void prepare() override {
    for (const auto& [stage, file] : engine_.stages) manifest_.read(file);
    for (const auto& [input, output] : arrays_.spec(Stage::denoise)->aliases) {
      const TensorSpec& spec = arrays_.tensor(Stage::denoise, input);  // [1, heads, tokens, head_dim]
      caches_[input].resize(spec.elements());
      rows_ = std::max(rows_, static_cast<std::size_t>(spec.shape[2])), width_ = static_cast<std::size_t>(spec.shape[3]);
    }
    const StreamConfig& config = manifest_.config;
    if (config.rolls()) sink_rows_ = static_cast<std::size_t>(config.context.sink_frames * config.tokens_per_frame());
    for (auto& [name, values] : caches_)
      if (sink_rows_ && name.starts_with("k_cache_")) rolled_.emplace_back(&values, &caches_.at("sink_k_" + name.substr(8)));
    if (sink_rows_) sink_index_ = arrays_.values<std::int64_t>(Stage::denoise, "sink_index");
    n_valid_ = arrays_.values<std::int64_t>(Stage::denoise, "n_valid");
    write_index_ = arrays_.values<std::int64_t>(Stage::denoise, "write_index");
    for (std::size_t i = 0; i < kStageNames.size(); ++i)
      for (int side = 0; side < 2; ++side) bind(static_cast<Stage>(i), side);
  }

  void run(Stage stage, int side) override {
    if (int left = runs_until_failure; left > 0 && runs_until_failure.compare_exchange_strong(left, left - 1) && left == 1)
      fail(MS_ERROR_DEVICE, "the stand-in was told to fail in the stage '", stage_name(stage), "'");
    const Bound& bound = bound_[static_cast<std::size_t>(stage)][static_cast<std::size_t>(side)];
    std::uint64_t digest = 0xcbf29ce484222325ull + static_cast<std::uint64_t>(stage);
    for (const auto input : bound.inputs) digest = mixed(digest, input);
    if (stage == Stage::denoise) digest = attend(digest);
    std::uint32_t place = 0;
    for (const auto& [dtype, output] : bound.outputs) fill(output, dtype, digest, ++place);
  }

  Caches read_caches() override {
    Caches caches;
    for (const auto& [name, values] : caches_) {
      const auto bytes = bytes_of(values);
      caches[name] = {Dtype::float32, arrays_.tensor(Stage::denoise, name).shape, {bytes.begin(), bytes.end()}};
    }
    return caches;
  }

  void write_caches(const std::map<std::string, TensorView>& caches) override {
    for (auto& [name, values] : caches_)
      std::memcpy(values.data(), caches.at(name).data.data(), values.size() * sizeof(float));
  }

  void reset_caches() override {
    for (auto& [name, values] : caches_) std::fill(values.begin(), values.end(), 0.0f);
  }

 private:
  struct Bound {
    std::vector<std::span<const unsigned char>> inputs;
    std::vector<std::pair<Dtype, std::span<unsigned char>>> outputs;
  };

  void bind(Stage stage, int side) {
    const StageSpec* spec = arrays_.spec(stage);
    if (!spec || stage == Stage::roll) return;
    std::set<std::string> inside;
    for (const auto& [input, output] : spec->aliases) inside.insert({input, output});
    Bound& bound = bound_[static_cast<std::size_t>(stage)][static_cast<std::size_t>(side)];
    for (const auto& input : spec->inputs)
      if (!inside.contains(input.name)) bound.inputs.push_back(arrays_.bytes(stage, input, side));
    for (const auto& output : spec->outputs)
      if (!inside.contains(output.name)) bound.outputs.emplace_back(output.dtype, arrays_.bytes(stage, output, side));
  }

  // Makes the sink's keys anew from un-rotated ones, writes the chunk's slots and reads the valid part of every cache,
  // as roll and attention do. Of a slot one row stands for all, of the heads the first.
  std::uint64_t attend(std::uint64_t digest) {
    const auto at = std::min(static_cast<std::size_t>(write_index_[0]), rows_ - 1);
    const auto valid = std::min(static_cast<std::size_t>(n_valid_[0]), rows_);
    for (auto& [keys, sink] : rolled_) {
      fill_normal({sink->data() + static_cast<std::size_t>(sink_index_[0]) * width_, width_}, digest, 0, 1);
      std::copy_n(sink->begin(), sink_rows_ * width_, keys->begin());
    }
    for (auto& [name, values] : caches_) {
      if (name.starts_with("sink_k_")) continue;
      fill_normal({values.data() + at * width_, width_}, digest, 0, 0);
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

  const Manifest& manifest_;
  const EngineSpec& engine_;
  HostArrays& arrays_;
  std::map<std::string, std::vector<float>> caches_;
  std::size_t rows_ = 0, width_ = 0;  // of the first head of a cache
  std::size_t sink_rows_ = 0;
  std::vector<std::pair<std::vector<float>*, std::vector<float>*>> rolled_;  // keys and their un-rotated sink
  std::span<std::int64_t> n_valid_, write_index_, sink_index_;
  std::array<std::array<Bound, 2>, kStageNames.size()> bound_;
};

// The same, taking chunks as a whole and keeping states by itself, as an engine on a GPU does.
class WholeStandIn final : public StandIn {
 public:
  WholeStandIn(const Manifest& manifest, const EngineSpec& engine, HostArrays& arrays)
      : StandIn(manifest, engine, arrays), arrays_(arrays) {}

  bool takes_whole_chunks() const override { return true; }
  bool keeps_states() const override { return true; }

  void start_chunk(bool opening, std::span<const PassInputs> passes) override {
    run(opening ? Stage::points_first : Stage::points, 0);
    run(opening ? Stage::tracks_first : Stage::tracks, 0);
    for (std::size_t i = 0; i + 1 < passes.size(); ++i) {
      denoise(passes[i]);
      copy("x", arrays_.values<float>(Stage::denoise, "x_next"));
    }
    run(opening ? Stage::decode_first : Stage::decode, 0);
    denoise(passes.back());
  }

  void commit_states(bool encoder, bool decoder) override {
    for (const Stage stage : {Stage::tracks, Stage::decode}) {
      if (!(stage == Stage::tracks ? encoder : decoder)) continue;
      for (const auto& [input, output] : arrays_.spec(stage)->states) {
        const auto written = arrays_.bytes(stage, output, 0);
        std::copy(written.begin(), written.end(), arrays_.bytes(stage, input, 0).begin());
      }
    }
  }

 private:
  void denoise(const PassInputs& pass) {
    copy("time", pass.time), copy("sigma", pass.sigma), copy("next_sigma", pass.next_sigma), copy("noise", pass.noise);
    run(Stage::denoise, 0);
  }

  void copy(const char* name, std::span<const float> values) {
    std::copy(values.begin(), values.end(), arrays_.values<float>(Stage::denoise, name).begin());
  }

  HostArrays& arrays_;
};

}  // namespace

std::unique_ptr<StageRunner> open_whole_stand_in(const Manifest& manifest, const EngineSpec& engine,
                                                 HostArrays& arrays, const RunnerOptions&) {
  return std::make_unique<WholeStandIn>(manifest, engine, arrays);
}

std::unique_ptr<StageRunner> open_stand_in(const Manifest& manifest, const EngineSpec& engine, HostArrays& arrays,
                                           const RunnerOptions&) {
  return std::make_unique<StandIn>(manifest, engine, arrays);
}

void fail_stand_in_after(int runs) { runs_until_failure = runs; }

}  // namespace ms_infer
