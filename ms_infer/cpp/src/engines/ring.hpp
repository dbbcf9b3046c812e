// Where the latent frames of a stream lie in the caches of a bundle; engines/ring.py in C++.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>

#include "config.hpp"

namespace ms_infer {

// Slots of all caches that are copied to lower ones.
struct Move {
  int target = 0, source = 0, slots = 0;
};

// The slots of sink and ring, where the ring may begin with any latent frame. Some engines write the keys of a whole
// chunk in one row: where the next chunk would run over the end of the ring, the window moves to its beginning first.
class Ring {
 public:
  Ring(const ContextConfig& context, bool in_a_row) : context_(context), in_a_row_(in_a_row) { reset(); }

  // Begins again behind a sink that begins with this latent frame.
  void reset(std::int64_t sink_start = 0) {
    sink_start_ = sink_start;
    start_ = sink_start + context_.sink_frames;
  }
  // The same, with a beginning of the ring that was saved.
  void reset(std::int64_t sink_start, std::int64_t start) { sink_start_ = sink_start, start_ = start; }
  std::int64_t sink_start() const { return sink_start_; }
  // A latent frame in the ring's first slot.
  std::int64_t start() const { return start_; }
  int slot(std::int64_t frame) const { return context_.slot(frame, sink_start_, start_); }

  // Lets the slots of the chunk at `start` be in a row; what has to be moved before it is written. Asked again for the
  // same chunk, nothing.
  std::optional<Move> make_room(std::int64_t start) {
    if (!in_a_row_ || start < start_) return std::nullopt;
    const int place = static_cast<int>((start - start_) % context_.ring_frames());
    if (place + context_.chunk_frames <= context_.ring_frames()) return std::nullopt;
    start_ = start - context_.window_frames;
    if (!context_.window_frames) return std::nullopt;
    const int sink = context_.sink_frames, window = context_.window_frames;
    return Move{sink, sink + place - window, window};
  }

  // Lets all frames of the context lie in the order of time; the caller writes every slot of the ring again.
  void unroll(std::int64_t made) {
    start_ = std::max(sink_start_ + context_.sink_frames, made - context_.ring_frames());
  }

 private:
  ContextConfig context_;
  bool in_a_row_ = false;
  std::int64_t sink_start_ = 0, start_ = 0;
};

}  // namespace ms_infer
