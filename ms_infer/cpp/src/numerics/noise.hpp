// Counter-based normal noise, the same numbers as numerics/noise.py: Philox4x32-10, then Box-Muller in float64.
#pragma once

#include <cstdint>
#include <span>
#include <tuple>
#include <vector>

namespace ms_infer {

// Fills `values` with standard normal numbers of one pass of one chunk.
void fill_normal(std::span<float> values, std::uint64_t seed, std::uint64_t chunk, std::uint32_t denoise_pass);

// Noise of a chunk, draw by draw: the first one, then one for each pass but the last. What `prepare` drew while a
// device works is ready when `take` asks for it.
class NoiseAhead {
 public:
  // Buffers for so many draws of at most `count` numbers each.
  void reserve(std::size_t draws, std::size_t count);
  void prepare(std::uint64_t seed, std::uint64_t chunk, std::size_t count);
  // The noise of one draw, made now unless it was prepared.
  std::span<const float> take(std::uint64_t seed, std::uint64_t chunk, std::size_t count, std::size_t draw);

 private:
  std::vector<std::vector<float>> draws_;
  std::tuple<std::uint64_t, std::uint64_t, std::size_t> ready_{0, 0, 0};
};

}  // namespace ms_infer
