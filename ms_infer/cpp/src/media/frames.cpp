#include "media/frames.hpp"

#include <cstring>

namespace ms_infer {

namespace {

// BT.601 in limited range, 16 bits after the point.
constexpr int kLuma[] = {16829, 33039, 6416}, kBlue[] = {-9714, -19070, 28784}, kRed[] = {28784, -24103, -4681};

int weighted(const int (&weights)[3], const int (&rgb)[3], int offset) {
  return (weights[0] * rgb[0] + weights[1] * rgb[1] + weights[2] * rgb[2] + (offset << 16) + (1 << 15)) >> 16;
}

void write_bgra(const std::uint8_t* rgb, int width, std::uint8_t* row) {
  for (int x = 0; x < width; ++x, rgb += 3, row += 4) row[0] = rgb[2], row[1] = rgb[1], row[2] = rgb[0], row[3] = 255;
}

void write_luma(const std::uint8_t* rgb, int width, std::uint8_t* row) {
  for (int x = 0; x < width; ++x, rgb += 3) row[x] = std::uint8_t(weighted(kLuma, {rgb[0], rgb[1], rgb[2]}, 16));
}

// One row of colour from two of pixels.
void write_colour(const std::uint8_t* upper, const std::uint8_t* lower, int width, std::uint8_t* row) {
  for (int x = 0; x < width; x += 2, upper += 6, lower += 6) {
    int mean[3];
    for (int c = 0; c < 3; ++c) mean[c] = (upper[c] + upper[c + 3] + lower[c] + lower[c + 3] + 2) >> 2;
    row[x] = std::uint8_t(weighted(kBlue, mean, 128)), row[x + 1] = std::uint8_t(weighted(kRed, mean, 128));
  }
}

void convert_frame(const std::uint8_t* rgb, const FrameLayout& layout, std::size_t stride, std::uint8_t* target) {
  const std::size_t line = std::size_t(layout.width) * 3;
  for (int y = 0; y < layout.height; ++y, rgb += line, target += stride) {
    if (layout.format == FrameFormat::rgb24) std::memcpy(target, rgb, line);
    if (layout.format == FrameFormat::bgra) write_bgra(rgb, layout.width, target);
    if (layout.format == FrameFormat::nv12) write_luma(rgb, layout.width, target);
  }
  if (layout.format != FrameFormat::nv12) return;
  rgb -= line * std::size_t(layout.height);
  for (int y = 0; y < layout.height; y += 2, rgb += 2 * line, target += stride)
    write_colour(rgb, rgb + line, layout.width, target);
}

}  // namespace

std::size_t FrameLayout::row_bytes() const {
  return std::size_t(width) * (format == FrameFormat::rgb24 ? 3 : format == FrameFormat::bgra ? 4 : 1);
}

std::size_t FrameLayout::frame_bytes(std::size_t row_stride) const {
  return row_stride * std::size_t(height) * (format == FrameFormat::nv12 ? 3 : 2) / 2;
}

void convert(std::span<const std::uint8_t> rgb, int count, const FrameLayout& layout, std::size_t row_stride,
             std::uint8_t* target) {
  const std::size_t size = std::size_t(layout.width) * std::size_t(layout.height) * 3;
  for (int frame = 0; frame < count; ++frame)
    convert_frame(rgb.data() + std::size_t(frame) * size, layout, row_stride,
                  target + std::size_t(frame) * layout.frame_bytes(row_stride));
}

FrameRing::FrameRing(FrameLayout layout, int keep, std::int64_t longest)
    : layout_(layout), keep_(static_cast<std::size_t>(keep)), longest_(static_cast<std::size_t>(longest)) {
  require(keep >= 1 && keep <= 1024, MS_ERROR_CONFIG, "a stream keeps the frames of 1..1024 chunks, not of ", keep);
  require(layout.format != FrameFormat::nv12 || (layout.width % 2 == 0 && layout.height % 2 == 0), MS_ERROR_CONFIG,
          "NV12 needs even sizes; this stream has ", layout.width, " x ", layout.height);
  ring_.resize(keep_);
}

void FrameRing::check(const FrameTarget& target) const {
  if (!target.data) return;
  const std::size_t row = layout_.row_bytes(), stride = target.row_stride ? target.row_stride : row;
  require(stride >= row && stride <= std::size_t{1} << 30, MS_ERROR_CONFIG, "chunk.row_stride is ", stride,
          "; a row of this stream has ", row, " bytes");
  const std::size_t needed = longest_ * layout_.frame_bytes(stride);
  require(target.bytes >= needed, MS_ERROR_CONFIG, "chunk.buffer has ", target.bytes, " bytes; a chunk of ", longest_,
          " frames needs ", needed);
}

FrameView FrameRing::hand_out(std::span<const std::uint8_t> rgb, int count, const FrameTarget& target) {
  const std::size_t row = layout_.row_bytes(), stride = target.data && target.row_stride ? target.row_stride : row;
  const FrameView view{target.data, stride, layout_.frame_bytes(stride)};
  if (!target.data && keep_ == 1 && layout_.format == FrameFormat::rgb24) return {rgb.data(), row, view.frame_stride};
  if (target.data) {
    convert(rgb, count, layout_, stride, target.data);
    return view;
  }
  auto& own = ring_[next_];
  if (own.empty()) own.resize(longest_ * view.frame_stride);
  convert(rgb, count, layout_, stride, own.data());
  return {own.data(), view.row_stride, view.frame_stride};
}

}  // namespace ms_infer
