// Frames as the host program wants them: its format, its memory, its rows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "error.hpp"

namespace ms_infer {

enum class FrameFormat { rgb24 = 0, bgra = 1, nv12 = 2 };

// Sizes of frames in memory.
struct FrameLayout {
  int width = 0, height = 0;
  FrameFormat format = FrameFormat::rgb24;

  // Bytes of a row without a gap: of pixels, or of the luma plane.
  std::size_t row_bytes() const;
  // Bytes of a frame whose rows are so far apart; NV12 has half as many rows of colour below those of luma.
  std::size_t frame_bytes(std::size_t row_stride) const;
};

// Memory of the caller's; no data: the stream's own is taken.
struct FrameTarget {
  std::uint8_t* data = nullptr;
  std::size_t bytes = 0;
  std::size_t row_stride = 0;  // 0: rows without gaps
};

struct FrameView {
  const std::uint8_t* data = nullptr;
  std::size_t row_stride = 0, frame_stride = 0;
};

// Writes RGB frames [count, height, width, 3] in another layout. NV12 is BT.601 in limited range, as video of these
// sizes is; each colour sample is the mean of its four pixels.
void convert(std::span<const std::uint8_t> rgb, int count, const FrameLayout& layout, std::size_t row_stride,
             std::uint8_t* target);

// Memory for the frames of the newest chunks, so that those which are kept a little do not change.
class FrameRing {
 public:
  // keep: chunks whose frames stay valid, 1 or more; longest: RGB frames of the longest chunk.
  FrameRing(FrameLayout layout, int keep, std::int64_t longest);

  const FrameLayout& layout() const { return layout_; }
  // MS_ERROR_CONFIG when the longest chunk does not fit.
  void check(const FrameTarget& target) const;
  // Frames of one chunk: in the target, in the ring, or (keep 1, RGB24) where they are. Allocates only at first.
  FrameView hand_out(std::span<const std::uint8_t> rgb, int count, const FrameTarget& target);
  // The chunk is made: its frames stay.
  void advance() { next_ = (next_ + 1) % keep_; }

 private:
  FrameLayout layout_;
  std::size_t keep_, longest_, next_ = 0;
  std::vector<std::vector<std::uint8_t>> ring_;
};

}  // namespace ms_infer
