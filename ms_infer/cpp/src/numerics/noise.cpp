#include "numerics/noise.hpp"

#include <array>
#include <cmath>
#include <numbers>

namespace ms_infer {

namespace {

using Words = std::array<std::uint32_t, 4>;
constexpr int kRounds = 10;

// Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
Words philox(Words counter, std::uint64_t key) {
  auto [c0, c1, c2, c3] = counter;
  auto k0 = static_cast<std::uint32_t>(key), k1 = static_cast<std::uint32_t>(key >> 32);
  for (int round = 0; round < kRounds; ++round) {
    const std::uint64_t product0 = std::uint64_t{0xD2511F53} * c0, product1 = std::uint64_t{0xCD9E8D57} * c2;
    const auto next0 = static_cast<std::uint32_t>(product1 >> 32) ^ c1 ^ k0;
    const auto next2 = static_cast<std::uint32_t>(product0 >> 32) ^ c3 ^ k1;
    c0 = next0, c1 = static_cast<std::uint32_t>(product1);
    c2 = next2, c3 = static_cast<std::uint32_t>(product0);
    k0 += 0x9E3779B9, k1 += 0xBB67AE85;
  }
  return {c0, c1, c2, c3};
}

}  // namespace

void fill_normal(std::span<float> values, std::uint64_t seed, std::uint64_t chunk, std::uint32_t denoise_pass) {
  constexpr double kUnit = 0x1p-32;
  for (std::size_t first = 0; first < values.size(); first += 4) {
    const Words words = philox({static_cast<std::uint32_t>(first / 4), denoise_pass, static_cast<std::uint32_t>(chunk),
                                static_cast<std::uint32_t>(chunk >> 32)},
                               seed);
    for (std::size_t pair = 0; pair < 4 && first + pair < values.size(); pair += 2) {
      const double radius = std::sqrt(-2.0 * std::log((words[pair] + 1.0) * kUnit));
      const double angle = words[pair + 1] * (2.0 * std::numbers::pi * kUnit);
      values[first + pair] = static_cast<float>(radius * std::cos(angle));
      if (first + pair + 1 < values.size()) values[first + pair + 1] = static_cast<float>(radius * std::sin(angle));
    }
  }
}

void NoiseAhead::reserve(std::size_t draws, std::size_t count) {
  draws_.assign(draws, std::vector<float>(count));
}

void NoiseAhead::prepare(std::uint64_t seed, std::uint64_t chunk, std::size_t count) {
  for (std::size_t draw = 0; draw < draws_.size(); ++draw)
    fill_normal(std::span(draws_[draw]).first(count), seed, chunk, static_cast<std::uint32_t>(draw));
  ready_ = {seed, chunk, count};
}

std::span<const float> NoiseAhead::take(std::uint64_t seed, std::uint64_t chunk, std::size_t count, std::size_t draw) {
  if (ready_ != std::tuple(seed, chunk, count)) prepare(seed, chunk, count);
  return std::span(draws_[draw]).first(count);
}

}  // namespace ms_infer
