// Angles of rotary positions and timesteps in float64: numerics/angles.py in C++.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace ms_infer {

// Sinusoids of a timestep, cosines first: angle = t x 10000^(-i / (dim / 2)).
void fill_timestep_sinusoids(double timestep, std::span<float> values);

// float32 cosines and sines [frames * cells, head_dim / 2] of a run of latent frames, in given arrays.
class RotationTables {
 public:
  RotationTables() = default;
  RotationTables(std::span<float> cos, std::span<float> sin, int rows, int columns, int head_dim);

  // Puts the frames at temporal positions first_position, first_position + 1, ...
  void move_to(std::int64_t first_position);

 private:
  std::span<float> cos_, sin_;
  int cells_ = 0, half_ = 0, frames_ = 0;
  std::vector<double> frequencies_;  // of the temporal part
};

}  // namespace ms_infer
