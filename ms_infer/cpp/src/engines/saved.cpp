// StagedEngine's share of a state: rows of the caches that the next chunk reads, autoencoder states, history, counters.
#include <algorithm>
#include <cstring>

#include "engines/staged.hpp"

namespace ms_infer {

namespace {

using Rows = std::vector<std::size_t>;

template <class Value>
HostTensor tensor_of(Dtype dtype, Shape shape, std::span<const Value> values) {
  HostTensor tensor{dtype, std::move(shape), Bytes(values.size_bytes())};
  if (!values.empty()) std::memcpy(tensor.data.data(), values.data(), values.size_bytes());
  return tensor;
}

// bfloat16 as its bits, and float32 whose values are all bfloat16 ones: half the size, and no bit lost.
HostTensor packed(HostTensor tensor) {
  if (tensor.dtype == Dtype::bfloat16) tensor.dtype = Dtype::uint16;
  if (tensor.dtype != Dtype::float32) return tensor;
  const std::size_t count = tensor.data.size() / 4;
  for (std::size_t i = 0; i < count; ++i)
    if (tensor.data[4 * i] || tensor.data[4 * i + 1]) return tensor;  // little-endian: checked in words.cpp
  Bytes bits(2 * count);
  for (std::size_t i = 0; i < count; ++i) std::copy_n(&tensor.data[4 * i + 2], 2, &bits[2 * i]);
  return {Dtype::uint16, std::move(tensor.shape), std::move(bits)};
}

// The bytes that `packed` was given.
Bytes unpacked(const HostTensor& tensor, Dtype dtype) {
  if (tensor.dtype != Dtype::uint16 || dtype != Dtype::float32) return tensor.data;
  Bytes wide(2 * tensor.data.size(), 0);
  for (std::size_t i = 0; i < tensor.data.size() / 2; ++i) std::copy_n(&tensor.data[2 * i], 2, &wide[4 * i + 2]);
  return wide;
}

const HostTensor& checked(const EngineState& state, const std::string& name, Dtype dtype, const Shape& shape) {
  const auto found = state.find(name);
  require(found != state.end(), MS_ERROR_CONFIG, "the snapshot does not hold ", name, " of this bundle");
  const HostTensor& tensor = found->second;
  const bool bits = tensor.dtype == Dtype::uint16 && (dtype == Dtype::float32 || dtype == Dtype::bfloat16);
  require((tensor.dtype == dtype || bits) && tensor.shape == shape, MS_ERROR_CONFIG, "the snapshot's ", name, " ",
          shape_text(tensor.shape), " does not fit this bundle (", shape_text(shape),
          "); restore with the bundle it was made with");
  return tensor;
}

// Shape of `count` rows of a cache [1, heads, tokens, head_dim].
Shape rows_shape(const TensorSpec& spec, std::size_t count) {
  return {spec.shape[0], spec.shape[1], static_cast<std::int64_t>(count), spec.shape[3]};
}

// Calls copy(offset in the cache, offset in the rows, bytes) for each of the rows of a cache.
template <class Copy>
void each_row(const TensorSpec& spec, const Rows& rows, Copy&& copy) {
  const std::size_t bytes = static_cast<std::size_t>(spec.shape[3]) * item_bytes(spec.dtype);
  const auto heads = static_cast<std::size_t>(spec.shape[0] * spec.shape[1]);
  const auto tokens = static_cast<std::size_t>(spec.shape[2]);
  for (std::size_t head = 0; head < heads; ++head)
    for (std::size_t i = 0; i < rows.size(); ++i)
      copy((head * tokens + rows[i]) * bytes, (head * rows.size() + i) * bytes, bytes);
}

}  // namespace

std::vector<const TensorSpec*> StagedEngine::states() const {
  std::vector<const TensorSpec*> found;
  for (const Stage stage : {Stage::tracks, Stage::decode})
    if (arrays_->has(stage))
      for (const auto& [input, output] : arrays_->spec(stage)->states) found.push_back(&arrays_->tensor(stage, input));
  return found;
}

// Rows of each cache that the chunk after `made` latent frames reads and does not write. The sink's keys are rotated
// anew from un-rotated ones.
std::map<std::string, std::vector<std::size_t>> StagedEngine::kept_rows(std::int64_t made, const Ring& ring) const {
  const ContextConfig& context = config_.context;
  const auto cells = static_cast<std::size_t>(config_.tokens_per_frame());
  const std::int64_t sink = ring.sink_start(), sink_end = std::min(made, sink + context.sink_frames);
  const auto rows_of = [&](std::int64_t first, std::int64_t last) {
    Rows rows;
    for (std::int64_t frame = first; frame < last; ++frame)
      for (std::size_t cell = 0; cell < cells; ++cell)
        rows.push_back(static_cast<std::size_t>(ring.slot(frame)) * cells + cell);
    return rows;
  };
  const Rows of_sink = rows_of(sink, sink_end), window = rows_of(std::max(sink_end, made - context.window_frames), made);
  Rows all = of_sink;
  all.insert(all.end(), window.begin(), window.end());
  std::map<std::string, Rows> rows;
  for (int layer = 0; layer < config_.layers; ++layer) {
    const std::string number = std::to_string(layer);
    rows["k_cache_" + number] = config_.rolls() ? window : all;
    rows["v_cache_" + number] = all;
    if (config_.rolls()) rows["sink_k_" + number] = of_sink;
  }
  return rows;
}

EngineState StagedEngine::state() {
  EngineState all;
  Tensors tensors = runner_->kept();
  for (const auto& [name, rows] : kept_rows(made_, ring_)) {
    const TensorSpec& spec = arrays_->tensor(Stage::denoise, name);
    HostTensor kept{spec.dtype, rows_shape(spec, rows.size()), {}};
    kept.data.resize(element_count(kept.shape) * item_bytes(spec.dtype));
    each_row(spec, rows, [&](std::size_t from, std::size_t to, std::size_t bytes) {
      std::copy_n(&tensors.at(name).data[from], bytes, &kept.data[to]);
    });
    all["cache." + name] = packed(std::move(kept));
  }
  for (const TensorSpec* spec : states()) all["state." + spec->name] = packed(std::move(tensors.at(spec->name)));
  save_history(all);
  const std::int64_t counters[] = {made_, sink_start(), ring_.start()};
  all["counters"] = tensor_of<std::int64_t>(Dtype::int64, {3}, counters);
  return all;
}

Shape StagedEngine::history_shape(int channels, std::int64_t made) const {
  return {std::min<std::int64_t>(made, config_.context.cache_frames()), channels, config_.latent_height(),
          config_.latent_width()};
}

// The inputs of the newest latent frames, which a re-encoding may need, oldest first and slot by slot.
void StagedEngine::save_history(EngineState& all) {
  std::size_t offset = 0;
  for (const Slot& slot : slots_) {
    const Shape shape = history_shape(slot.channels, made_);
    const std::size_t size = static_cast<std::size_t>(slot.channels) * plane_;
    std::vector<float> values;
    for (std::int64_t frame = made_ - shape[0]; frame < made_; ++frame) {
      const auto part = remembered(frame).subspan(offset, size);
      values.insert(values.end(), part.begin(), part.end());
    }
    all["history." + slot.name] = packed(tensor_of<float>(Dtype::float32, shape, values));
    offset += size;
  }
}

void StagedEngine::load_history(const EngineState& state) {
  std::size_t offset = 0;
  for (const Slot& slot : slots_) {
    const HostTensor& saved = state.at("history." + slot.name);
    const Bytes bytes = unpacked(saved, Dtype::float32);
    const std::size_t size = static_cast<std::size_t>(slot.channels) * plane_;
    for (std::int64_t i = 0; i < saved.shape[0]; ++i)
      std::memcpy(remembered(made_ - saved.shape[0] + i).subspan(offset).data(),
                  &bytes[static_cast<std::size_t>(i) * size * sizeof(float)], size * sizeof(float));
    offset += size;
  }
}

void StagedEngine::check_state(const EngineState& state, std::int64_t made) const {
  std::int64_t counters[3];
  std::memcpy(counters, checked(state, "counters", Dtype::int64, {3}).data.data(), sizeof counters);
  require(counters[0] == made && counters[1] >= 0 && counters[1] <= made, MS_ERROR_CONFIG, "the snapshot counts ",
          counters[0], " latent frames and begins its sink at ", counters[1], "; its chunks make ", made, " frames");
  constexpr std::int64_t kMostFrames = 1 << 20;  // latent frames that no context is longer than
  require(counters[2] >= 0 && counters[2] <= made + kMostFrames, MS_ERROR_CONFIG, "the snapshot's ring begins at ",
          counters[2]);
  Ring ring(config_.context, false);
  ring.reset(counters[1], counters[2]);
  for (const auto& [name, rows] : kept_rows(made, ring)) {
    const TensorSpec& spec = arrays_->tensor(Stage::denoise, name);
    checked(state, "cache." + name, spec.dtype, rows_shape(spec, rows.size()));
  }
  for (const TensorSpec* spec : states()) checked(state, "state." + spec->name, spec->dtype, spec->shape);
  for (const Slot& slot : slots_)
    checked(state, "history." + slot.name, Dtype::float32, history_shape(slot.channels, made));
}

void StagedEngine::restore(const EngineState& state) {
  std::int64_t counters[3];
  std::memcpy(counters, state.at("counters").data.data(), sizeof counters);
  made_ = counters[0];
  ring_.reset(counters[1], counters[2]);
  Tensors tensors;
  for (const auto& [name, rows] : kept_rows(made_, ring_)) {
    const TensorSpec& spec = arrays_->tensor(Stage::denoise, name);
    const Bytes kept = unpacked(state.at("cache." + name), spec.dtype);
    HostTensor& cache = tensors[name] = {spec.dtype, spec.shape, Bytes(spec.bytes(), 0)};
    each_row(spec, rows, [&](std::size_t to, std::size_t from, std::size_t bytes) {
      std::copy_n(&kept[from], bytes, &cache.data[to]);
    });
  }
  for (const TensorSpec* spec : states())
    tensors[spec->name] = {spec->dtype, spec->shape, unpacked(state.at("state." + spec->name), spec->dtype)};
  runner_->keep(tensors);
  load_history(state);
}

}  // namespace ms_infer
