#include "numerics/schedule.hpp"

#include <array>
#include <cmath>

namespace ms_infer {

namespace {

constexpr int kTrainSteps = 1000;
using SigmaTable = std::array<float, kTrainSteps>;

float shifted(double s, double shift) {
  const float k = static_cast<float>(shift), level = static_cast<float>(s);
  return k * level / (1.0f + (k - 1.0f) * level);
}

// `twice`: the noise level falls evenly from 1 to the sigma of the last one (FastVideo's scheduler).
SigmaTable sigma_table(double shift, bool twice) {
  SigmaTable table;
  const double last = (kTrainSteps - 1) * (-1.0 / kTrainSteps) + 1.0;
  const double step = (double(shifted(last, shift)) - 1.0) / (kTrainSteps - 1);
  for (int i = 0; i < kTrainSteps; ++i) table[i] = shifted(i * (twice ? step : -1.0 / kTrainSteps) + 1.0, shift);
  return table;
}

float sigma_of(const SigmaTable& table, double timestep) {
  int best = 0;
  float least = INFINITY;
  for (int i = 0; i < kTrainSteps; ++i) {
    const float distance = std::fabs(table[i] * float(kTrainSteps) - static_cast<float>(timestep));
    if (distance < least) least = distance, best = i;
  }
  return table[best];
}

double warped(const SigmaTable& table, double timestep) {
  const int place = kTrainSteps - static_cast<int>(std::nearbyint(timestep));
  return place < kTrainSteps ? double(table[place] * float(kTrainSteps)) : 0.0;
}

}  // namespace

std::vector<DenoiseStep> denoise_steps(const ScheduleConfig& config) {
  const SigmaTable table = sigma_table(config.shift, config.shifted_twice);
  std::vector<DenoiseStep> steps;
  for (const double named : config.timesteps) {
    const double timestep = config.warp ? warped(table, named) : named;
    steps.push_back({timestep, sigma_of(table, timestep), 0.0});
  }
  for (std::size_t i = 0; i + 1 < steps.size(); ++i) steps[i].next_sigma = steps[i + 1].sigma;
  return steps;
}

}  // namespace ms_infer
