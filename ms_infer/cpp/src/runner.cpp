#include "runner.hpp"

#include <algorithm>

namespace ms_infer {

namespace {

bool begins(std::string_view text, std::string_view prefix) { return text.substr(0, prefix.size()) == prefix; }

}  // namespace

HostArrays::HostArrays(const std::map<std::string, StageSpec>& specs) {
  for (std::size_t i = 0; i < kStageNames.size(); ++i) {
    const auto found = specs.find(std::string(kStageNames[i]));
    if (found != specs.end()) specs_[i] = &found->second;
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

std::span<unsigned char> HostArrays::bytes(Stage stage, const TensorSpec& spec, int side) {
  const bool of_tracks = stage == Stage::tracks || stage == Stage::tracks_first;
  if (spec.name == "latents" || (spec.name == "track" && of_tracks)) {
    const auto whole = bytes(Stage::denoise, spec.name == "track" ? "track" : "x");
    require(spec.bytes() <= whole.size(), MS_ERROR_BUNDLE, "the stage '", stage_name(stage), "' has ", spec.name, " ",
            shape_text(spec.shape), ", more than 'denoise' takes");
    return whole.first(spec.bytes());
  }
  Key key{stage == Stage::text && spec.name == "text" ? "embedded" : spec.name, spec.shape, 0};
  const bool two_sided = begins(key.name, "encoder_") || begins(key.name, "decoder_") || key.name == "frames";
  if (key.name.size() > 4 && key.name.ends_with("_out")) {
    key.name.resize(key.name.size() - 4);
    side = 1 - side;
  }
  if (two_sided) key.side = side;
  const std::lock_guard lock(lock_);
  auto& array = arrays_[key];
  if (array.empty()) array.resize(spec.bytes());
  require(array.size() == spec.bytes(), MS_ERROR_BUNDLE, "the manifest gives ", spec.name, " two types");
  return array;
}

void HostArrays::clear(std::string_view prefix) {
  const std::lock_guard lock(lock_);
  for (auto& [key, array] : arrays_)
    if (begins(key.name, prefix)) std::fill(array.begin(), array.end(), static_cast<unsigned char>(0));
}

}  // namespace ms_infer
