#include "engines/host_runner.hpp"

#include <algorithm>
#include <cstring>

namespace ms_infer {

HostRunner::HostRunner(HostArrays& arrays, std::unique_ptr<StageCaller> stages, const RunnerSettings& settings)
    : arrays_(arrays), stages_(std::move(stages)), cancelled_(settings.cancelled) {
  const auto floats = [&](const char* name) { return arrays.values<float>(Stage::denoise, name); };
  x_ = floats("x"), x_next_ = floats("x_next");
  time_ = floats("time"), sigma_ = floats("sigma"), next_sigma_ = floats("next_sigma"), noise_ = floats("noise");
  frames_ = {arrays.bytes(Stage::decode, "frames"), arrays.bytes(Stage::decode_first, "frames")};
}

void HostRunner::lap(float StageTimes::* stage) {
  const auto now = Clock::now();
  times_.*stage = std::chrono::duration<float, std::milli>(now - last_).count();
  last_ = now;
}

void HostRunner::call(Stage stage) {
  stop_if(cancelled_);
  const bool encodes = stage == Stage::tracks || stage == Stage::tracks_first;
  if (arrays_.has(stage)) stages_->call(stage, encodes ? encoder_side_ : is_decoder(stage) ? decoder_side_ : 0);
}

void HostRunner::run(Stage stage) {
  if (!fills_image_slot(stage) || !arrays_.has(Stage::encode_grey)) return stages_->call(stage, 0);
  stages_->call(stage, grey_side_);  // not touched by `text`, which may run beside other stages
  grey_side_ ^= 1;
}

void HostRunner::move_rows(std::int64_t target, std::int64_t source, std::int64_t rows) {
  for (const auto& [tensor, cache] : arrays_.caches()) {
    if (!is_rolling_cache(tensor->name)) continue;
    const auto heads = static_cast<std::size_t>(tensor->shape[0] * tensor->shape[1]);
    const std::size_t row = cache.size() / (heads * static_cast<std::size_t>(tensor->shape[2]));
    for (std::size_t head = 0; head < heads; ++head) {
      unsigned char* first = cache.data() + head * row * static_cast<std::size_t>(tensor->shape[2]);
      std::memmove(first + static_cast<std::size_t>(target) * row, first + static_cast<std::size_t>(source) * row,
                   static_cast<std::size_t>(rows) * row);
    }
  }
}

void HostRunner::pass(const PassInputs& inputs) {
  stop_if(cancelled_);
  std::copy(inputs.time.begin(), inputs.time.end(), time_.begin());
  std::copy(inputs.sigma.begin(), inputs.sigma.end(), sigma_.begin());
  std::copy(inputs.next_sigma.begin(), inputs.next_sigma.end(), next_sigma_.begin());
  std::copy(inputs.noise.begin(), inputs.noise.end(), noise_.begin());
  stages_->call(Stage::denoise, 0);
}

void HostRunner::last_pass(const PassInputs& inputs) {
  pass(inputs);
  stages_->keep_pass();
}

void HostRunner::start(bool opening, bool tracked, std::span<const PassInputs> passes) {
  opening_ = opening, tracked_ = tracked, passes_ = passes;
  call(Stage::roll);
  if (tracked)
    for (const Stage stage : track_stages(opening)) call(stage);
  lap(&StageTimes::begin_ms);
  for (const PassInputs& inputs : passes.first(passes.size() - 1)) {
    pass(inputs);
    std::copy(x_next_.begin(), x_next_.end(), x_.begin());
  }
  lap(&StageTimes::denoise_ms);
}

std::span<const std::uint8_t> HostRunner::frames() {
  last_ = Clock::now();
  call(opening_ ? Stage::decode_first : Stage::decode);
  lap(&StageTimes::decode_ms);
  return frames_[opening_];
}

void HostRunner::commit() {
  last_ = Clock::now();
  last_pass(passes_.back());
  lap(&StageTimes::write_cache_ms);
  encoder_side_ ^= int(tracked_);
  decoder_side_ ^= 1;
}

void HostRunner::write(const PassInputs& inputs) {
  call(Stage::roll);
  last_pass(inputs);
}

void HostRunner::write_given(const PassInputs& inputs) {
  write(inputs);
  call(arrays_.has(Stage::decode_given) ? Stage::decode_given : Stage::decode_first);
  decoder_side_ ^= 1;
}

TensorPlaces HostRunner::everything() {
  auto found = arrays_.caches();
  for (const Stage stage : {Stage::tracks, Stage::decode}) {
    if (!arrays_.has(stage)) continue;
    for (const auto& [input, output] : arrays_.spec(stage)->states) {
      const TensorSpec& tensor = arrays_.tensor(stage, input);
      found.emplace_back(&tensor, arrays_.bytes(stage, tensor, stage == Stage::tracks ? encoder_side_ : decoder_side_));
    }
  }
  return found;
}

Tensors HostRunner::kept() {
  Tensors all;
  for (const auto& [tensor, bytes] : everything())
    all[tensor->name] = {tensor->dtype, tensor->shape, Bytes(bytes.begin(), bytes.end())};
  return all;
}

void HostRunner::keep(const Tensors& tensors) {
  for (const auto& [tensor, bytes] : everything()) {
    const auto& saved = tensors.at(tensor->name).data;
    std::copy(saved.begin(), saved.end(), bytes.begin());
  }
}

void HostRunner::reset() { arrays_.clear(); }

}  // namespace ms_infer
