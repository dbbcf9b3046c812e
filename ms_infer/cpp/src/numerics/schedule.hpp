// The few-step denoising schedule: numerics/schedule.py in C++, float32 where that is float32.
#pragma once

#include <vector>

#include "config.hpp"

namespace ms_infer {

// One pass: x0 = x - sigma * flow, then x = (1 - next_sigma) * x0 + next_sigma * noise.
struct DenoiseStep {
  double timestep = 0, sigma = 0, next_sigma = 0;
};

// The passes of a chunk, noisy to clean.
std::vector<DenoiseStep> denoise_steps(const ScheduleConfig& config);

}  // namespace ms_infer
