// What a user may change while a stream runs; the newest wins, from any thread, and none is lost: controls.py in C++.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "blend.hpp"
#include "tracks/tracks.hpp"

namespace ms_infer {

// The newest tracks, and the id that setting them got.
struct TracksControl {
  std::int64_t id = 0;
  std::shared_ptr<const Tracks> tracks;  // in the stream's pixels and at its fps; nullptr: no tracks
};

// The newest prompt, and the id that setting it got.
struct PromptControl {
  std::int64_t id = 0;
  Embedding text;  // nullptr before the stream has one
  bool recache = false, replace_sink = false;
  Blend blend = {};       // how it takes the place of the prompt before
  Embedding origin = {};  // what it comes from while the blend goes on; nullptr before it and after it
  int done = 0;           // chunks of the blend that were made

  // What the newest chunk was made with; rows have `dim` values.
  Embedding shown(std::size_t dim) const { return origin ? blend.between(origin, text, dim, done) : text; }
  // The prompt of the next chunk, after one that was made with this one.
  PromptControl followed_by(const PromptControl& newest, std::size_t dim) const;
  // Whether the next chunk is made with another embedding than the newest one.
  bool changes(const PromptControl& newest) const { return newest.id != id || origin; }
};

// The newest of each kind.
struct Control {
  TracksControl tracks;
  PromptControl prompt;

  // Counts every change, so that a chunk can say which one it was made with.
  std::int64_t id() const { return std::max(tracks.id, prompt.id); }
  // The same wishes under ids that are larger by `by`.
  Control shifted(std::int64_t by) const;
};

// The one slot between the threads that set controls and the one that plays them.
//
// Ids only grow, over starts and restores too: whoever waits for a chunk with an id never waits in vain. A start or a
// restore takes its id when it is called (`reserve`) and enters the slot when it is done (`begin`); what was set in
// between stays on top of it.
class Controls {
 public:
  std::shared_ptr<const Control> newest() const;
  std::int64_t set_tracks(std::shared_ptr<const Tracks> tracks);
  // The control's id takes the place of the prompt's.
  std::int64_t set_prompt(PromptControl prompt);
  // What to add to the ids first..last of a start or a restore to make them the newest; takes these ids. 0 as long as
  // no control was ever set here: a start is number 0 then, and a snapshot keeps its numbers.
  std::int64_t reserve(std::int64_t first = 0, std::int64_t last = 0);
  // Puts a start or a restore, of ids that `reserve` gave, below whatever was set since.
  void begin(const Control& base);

 private:
  mutable std::mutex lock_;
  std::shared_ptr<const Control> newest_ = std::make_shared<const Control>();
  std::int64_t last_ = 0;
};

}  // namespace ms_infer
