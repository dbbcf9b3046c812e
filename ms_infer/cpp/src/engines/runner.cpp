#include "engines/runner.hpp"

#include <algorithm>

namespace ms_infer {

namespace {

bool is_output(const StageSpec& stage, const TensorSpec& tensor) {
  return std::any_of(stage.outputs.begin(), stage.outputs.end(), [&](const auto& o) { return o.name == tensor.name; });
}

// The input of `denoise` whose first latent frames a tensor of another stage is: `x`, or the slot of tracks.
const char* window_of(Stage stage, const TensorSpec& tensor) {
  if (stage == Stage::denoise || tensor.role != Role::device) return nullptr;
  return tensor.name == "latents" ? "x" : tensor.name == "track" ? "track" : nullptr;
}

bool is_decoded(Stage stage, const TensorSpec& tensor) { return is_decoder(stage) && tensor.name == "frames"; }

}  // namespace

HostArrays::HostArrays(const std::map<std::string, StageSpec>& specs) {
  for (std::size_t i = 0; i < kStageNames.size(); ++i) {
    const auto found = specs.find(std::string(kStageNames[i]));
    if (found == specs.end()) continue;
    specs_[i] = &found->second;
    for (const auto& [input, output] : found->second.states) followers_[output] = input;
    for (const auto* tensors : {&found->second.inputs, &found->second.outputs})
      for (const TensorSpec& tensor : *tensors)
        if (tensor.role == Role::device || is_decoded(static_cast<Stage>(i), tensor)) {
          const TensorSpec*& longest = longest_[tensor.name];
          if (!longest || longest->bytes() < tensor.bytes()) longest = &tensor;
        }
  }
  for (const Stage needed : {Stage::condition, Stage::denoise, Stage::decode_first, Stage::decode})
    require(has(needed), MS_ERROR_BUNDLE, "the manifest describes no stage '", stage_name(needed), "'; export again");
}

const TensorSpec& HostArrays::tensor(Stage stage, const std::string& name) const {
  const TensorSpec* found = has(stage) ? spec(stage)->find(name) : nullptr;
  require(found != nullptr, MS_ERROR_BUNDLE, "the manifest describes no tensor '", name, "' of the stage '",
          stage_name(stage), "'; export again");
  return *found;
}

std::span<unsigned char> HostArrays::bytes(Stage stage, const std::string& name, int side) {
  return bytes(stage, tensor(stage, name), side);
}

std::span<unsigned char> HostArrays::bytes(Stage stage, const TensorSpec& tensor, int side) {
  if (const char* window = window_of(stage, tensor)) {
    const auto whole = bytes(Stage::denoise, window);
    require(tensor.bytes() <= whole.size(), MS_ERROR_BUNDLE, "the stage '", stage_name(stage), "' has ", tensor.name,
            " ", shape_text(tensor.shape), ", more than 'denoise' takes");
    return whole.first(tensor.bytes());
  }
  Key key{tensor.name, {}, side};
  const auto follower = followers_.find(tensor.name);
  if (tensor.role == Role::state && follower != followers_.end()) {
    key.name = follower->second, key.side = 1 - side;
  } else if (tensor.role != Role::state) {
    key.side = 0;
  }
  const bool decoded = is_decoded(stage, tensor);
  if (tensor.role == Role::host && !decoded && is_output(*spec(stage), tensor))
    key.name.insert(0, 1, '.').insert(0, stage_name(stage));  // another stage may have an input of this name
  const TensorSpec& room = tensor.role == Role::device || decoded ? *longest_.at(tensor.name) : tensor;
  key.shape = room.shape;
  const std::lock_guard lock(lock_);
  Array& array = arrays_[key];
  if (array.bytes.empty()) array.bytes.resize(room.bytes()), array.role = tensor.role;
  require(array.bytes.size() == room.bytes(), MS_ERROR_BUNDLE, "the manifest gives ", tensor.name, " two types");
  return std::span(array.bytes).first(tensor.bytes());
}

TensorPlaces HostArrays::caches() {
  TensorPlaces found;
  for (const TensorSpec& tensor : spec(Stage::denoise)->inputs)
    if (tensor.role == Role::cache) found.emplace_back(&tensor, bytes(Stage::denoise, tensor));
  return found;
}

void HostArrays::clear() {
  const std::lock_guard lock(lock_);
  for (auto& [key, array] : arrays_)
    if (array.role == Role::state || array.role == Role::cache)
      std::fill(array.bytes.begin(), array.bytes.end(), static_cast<unsigned char>(0));
}

}  // namespace ms_infer
