// The GPU engine: TensorRT plans of a bundle, a whole chunk as one CUDA graph.
#pragma once

#include "engines/open.hpp"

namespace ms_infer {

// Whether there is a CUDA device; the second throws MS_ERROR_DEVICE where there is none.
bool tensorrt_usable();
void check_tensorrt();

// "11.4" of 110400, "1.7" of 10701: what `getInferLibVersion` gives of TensorRT 11.4.0 and TensorRT-RTX 1.7.1.
std::string release_of(std::int32_t version);

// The bundle's engines for this library, its version, the device and the precision; nullptr when the bundle holds no
// TensorRT engines, MS_ERROR_ENGINE when none of those it holds fits.
const EngineSpec* choose_tensorrt(const Manifest& manifest, const std::string& kind, const EngineOptions& options);

std::unique_ptr<EngineModel> open_tensorrt(const Manifest& manifest, const EngineSpec& engine,
                                           const EngineOptions& options);

}  // namespace ms_infer
