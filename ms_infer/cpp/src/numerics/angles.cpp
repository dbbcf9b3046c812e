#include "numerics/angles.hpp"

#include <algorithm>
#include <cmath>

namespace ms_infer {

namespace {

constexpr double kBase = 10'000.0;

std::vector<double> axis_frequencies(int dims) {
  std::vector<double> frequencies;
  for (int i = 0; i < dims; i += 2) frequencies.push_back(std::pow(kBase, -double(i) / dims));
  return frequencies;
}

}  // namespace

void fill_timestep_sinusoids(double timestep, std::span<float> values) {
  const auto half = values.size() / 2;
  for (std::size_t i = 0; i < half; ++i) {
    const double angle = timestep * std::pow(kBase, double(i) / -double(half));
    values[i] = static_cast<float>(std::cos(angle));
    values[half + i] = static_cast<float>(std::sin(angle));
  }
}

RotationTables::RotationTables(std::span<float> cos, std::span<float> sin, int rows, int columns, int head_dim)
    : cos_(cos), sin_(sin), cells_(rows * columns), half_(head_dim / 2) {
  frames_ = static_cast<int>(cos.size() / (std::size_t(cells_) * half_));
  const int side = 2 * (head_dim / 6);  // real dimensions of the height part and of the width part
  frequencies_ = axis_frequencies(head_dim - 2 * side);
  const auto space = axis_frequencies(side);
  const std::size_t temporal = frequencies_.size(), pairs = space.size();
  for (int token = 0; token < frames_ * cells_; ++token) {
    const int row = token % cells_ / columns, column = token % columns;
    for (std::size_t i = 0; i < 2 * pairs; ++i) {
      const double angle = (i < pairs ? row : column) * space[i % pairs];
      cos_[std::size_t(token) * half_ + temporal + i] = static_cast<float>(std::cos(angle));
      sin_[std::size_t(token) * half_ + temporal + i] = static_cast<float>(std::sin(angle));
    }
  }
  move_to(0);
}

void RotationTables::move_to(std::int64_t first_position) {
  for (int frame = 0; frame < frames_; ++frame) {
    const std::size_t first = std::size_t(frame) * cells_ * half_;
    for (std::size_t i = 0; i < frequencies_.size(); ++i) {
      const double angle = double(first_position + frame) * frequencies_[i];
      cos_[first + i] = static_cast<float>(std::cos(angle));
      sin_[first + i] = static_cast<float>(std::sin(angle));
    }
    for (int cell = 1; cell < cells_; ++cell) {  // every token of a frame has the same temporal part
      std::copy_n(&cos_[first], frequencies_.size(), &cos_[first + std::size_t(cell) * half_]);
      std::copy_n(&sin_[first], frequencies_.size(), &sin_[first + std::size_t(cell) * half_]);
    }
  }
}

}  // namespace ms_infer
