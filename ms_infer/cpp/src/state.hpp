// All that a later chunk of a stream depends on, as one value: state.py in C++.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "config.hpp"
#include "controls.hpp"
#include "files/tensors.hpp"

namespace ms_infer {

using Picture = std::shared_ptr<const std::vector<std::uint8_t>>;  // RGB of the stream's size; nullptr: none
using EngineState = std::map<std::string, HostTensor>;

struct StreamState {
  std::string digest;  // of what a stream must share with it: settings, engine, precision, weights
  std::int64_t index = 0, given = 0;
  std::uint64_t seed = 0;
  Control applied;  // what the newest chunk was made with; it has a text
  Control pending;  // what the next chunk will be made with: `applied`, or newer
  Picture image;
  TrackPlayer player;
  EngineState engine;
};

// MS_ERROR_CONFIG unless counters, image and controls are such as a stream of these settings can have; the engine
// checks its own part.
void check_state(const StreamState& state, const StreamConfig& config);

// The format of snapshot.py. MS_ERROR_CONFIG when the file cannot be written, or is no snapshot.
void write_snapshot(const std::filesystem::path& path, const StreamState& state, const StreamConfig& config);
StreamState read_snapshot(const std::filesystem::path& path, const StreamConfig& config);

}  // namespace ms_infer
