// Counter-based normal noise, the same numbers as numerics/noise.py: Philox4x32-10, then Box-Muller in float64.
#pragma once

#include <cstdint>
#include <span>

namespace ms_infer {

// Fills `values` with standard normal numbers of one pass of one chunk.
void fill_normal(std::span<float> values, std::uint64_t seed, std::uint64_t chunk, std::uint32_t denoise_pass);

}  // namespace ms_infer
