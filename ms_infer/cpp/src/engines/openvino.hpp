// The CPU engine: exported stages in OpenVINO, attention caches inside it as states.
#pragma once

#include "../runner.hpp"

namespace ms_infer {

std::unique_ptr<ChunkRunner> open_openvino(const Manifest& manifest, const EngineSpec& engine, HostArrays& arrays,
                                           const RunnerOptions& options);

}  // namespace ms_infer
