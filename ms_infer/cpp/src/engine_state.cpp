// StagedEngine's share of a snapshot: caches, autoencoder states, history and counters.
#include <cstring>

#include "staged.hpp"

namespace ms_infer {

namespace {

template <class Value>
HostTensor tensor_of(Dtype dtype, Shape shape, std::span<const Value> values) {
  HostTensor tensor{dtype, std::move(shape), Bytes(values.size_bytes())};
  std::memcpy(tensor.data.data(), values.data(), values.size_bytes());
  return tensor;
}

const TensorView& checked(const std::map<std::string, TensorView>& state, const std::string& name, Dtype dtype,
                          const Shape& shape) {
  const auto found = state.find(name);
  require(found != state.end(), MS_ERROR_CONFIG, "the snapshot does not hold ", name, " of this bundle");
  require(found->second.dtype == dtype && found->second.shape == shape, MS_ERROR_CONFIG, "the snapshot's ", name,
          " ", shape_text(found->second.shape), " does not fit this bundle (", shape_text(shape),
          "); restore with the bundle it was made with");
  return found->second;
}

}  // namespace

std::vector<std::pair<Stage, std::string>> StagedEngine::state_names() const {
  std::vector<std::pair<Stage, std::string>> names;
  for (const Stage stage : {Stage::tracks, Stage::decode})
    if (arrays_->has(stage))
      for (const auto& [old, next] : arrays_->spec(stage)->states) names.emplace_back(stage, old);
  return names;
}

std::span<unsigned char> StagedEngine::state_bytes(Stage stage, const std::string& name) {
  return arrays_->bytes(stage, name, stage == Stage::tracks ? encoder_side_ : decoder_side_);
}

std::map<std::string, HostTensor> StagedEngine::state() {
  std::map<std::string, HostTensor> all;
  if (runner_->keeps_states()) runner_->fetch_states();
  for (auto& [name, cache] : runner_->read_caches()) all["cache." + name] = std::move(cache);
  for (const auto& [stage, name] : state_names()) {
    const TensorSpec& spec = arrays_->tensor(stage, name);
    all["state." + name] = tensor_of<unsigned char>(spec.dtype, spec.shape, state_bytes(stage, name));
  }
  const Shape history{capacity_, config_.in_channels(), config_.latent_height(), config_.latent_width()};
  all["history"] = tensor_of<float>(Dtype::float32, history, history_);
  const std::int64_t counters[] = {made_, sink_start_};
  all["counters"] = tensor_of<std::int64_t>(Dtype::int64, {2}, counters);
  return all;
}

void StagedEngine::restore(const std::map<std::string, TensorView>& state) {
  const Shape history{capacity_, config_.in_channels(), config_.latent_height(), config_.latent_width()};
  const TensorView& remembered = checked(state, "history", Dtype::float32, history);
  std::int64_t counters[2];
  std::memcpy(counters, checked(state, "counters", Dtype::int64, {2}).data.data(), sizeof counters);
  require(counters[0] >= 0 && counters[1] >= 0 && counters[1] <= counters[0], MS_ERROR_CONFIG,
          "the snapshot holds impossible counters");
  std::map<std::string, TensorView> caches;
  for (const auto& [name, cache] : arrays_->spec(Stage::denoise)->aliases) {
    const TensorSpec& spec = arrays_->tensor(Stage::denoise, name);
    caches[name] = checked(state, "cache." + name, spec.dtype, spec.shape);
  }
  for (const auto& [stage, name] : state_names()) {
    const TensorSpec& spec = arrays_->tensor(stage, name);
    checked(state, "state." + name, spec.dtype, spec.shape);
  }
  runner_->write_caches(caches);
  for (const auto& [stage, name] : state_names()) {
    const auto& saved = state.at("state." + name).data;
    std::copy(saved.begin(), saved.end(), state_bytes(stage, name).begin());
  }
  if (runner_->keeps_states()) runner_->put_states();
  std::memcpy(history_.data(), remembered.data.data(), remembered.data.size());
  made_ = counters[0], sink_start_ = counters[1];
}

}  // namespace ms_infer
