// A deterministic engine for tests: every output is a mix of everything that the stage reads.
#pragma once

#include "runner.hpp"

namespace ms_infer {

std::unique_ptr<ChunkRunner> open_stand_in(const Manifest& manifest, const EngineSpec& engine, HostArrays& arrays,
                                           const RunnerOptions& options);

// The same results from a runner that has all of a chunk under way when `start` returns.
std::unique_ptr<ChunkRunner> open_whole_stand_in(const Manifest& manifest, const EngineSpec& engine,
                                                 HostArrays& arrays, const RunnerOptions& options);

// The run-th stage from now on fails, once; 0: none does.
void fail_stand_in_after(int runs);

}  // namespace ms_infer
