// The first frame: cropped to the stream's aspect and resized as Pillow's Lanczos filter does, rows first.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "tracks/tracks.hpp"

namespace ms_infer {

// RGB [height, width, 3] from RGB of any size: centre crop, Lanczos, 8-bit fixed-point coefficients.
std::vector<std::uint8_t> fit_picture(std::span<const std::uint8_t> rgb, PictureSize from, PictureSize to);

}  // namespace ms_infer
