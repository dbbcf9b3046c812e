#include "schedule.hpp"

#include <array>
#include <cmath>

namespace ms_infer {

namespace {

constexpr int kTrainSteps = 1000;
using SigmaTable = std::array<float, kTrainSteps>;

SigmaTable sigma_table(double shift) {
  SigmaTable table;
  const float k = static_cast<float>(shift);
  for (int i = 0; i < kTrainSteps; ++i) {
    const float s = static_cast<float>(i * (-1.0 / kTrainSteps) + 1.0);
    table[i] = k * s / (1.0f + (k - 1.0f) * s);
  }
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
  const SigmaTable table = sigma_table(config.shift);
  std::vector<DenoiseStep> steps;
  for (const double named : config.timesteps) {
    const double timestep = config.warp ? warped(table, named) : named;
    steps.push_back({timestep, sigma_of(table, timestep), 0.0});
  }
  for (std::size_t i = 0; i + 1 < steps.size(); ++i) steps[i].next_sigma = steps[i + 1].sigma;
  return steps;
}

}  // namespace ms_infer
