#include "engines/tensorrt/model.hpp"

namespace ms_infer {

namespace {

nvinfer1::DataType data_type(Dtype dtype) {
  switch (dtype) {
    case Dtype::float32: return nvinfer1::DataType::kFLOAT;
    case Dtype::float16: return nvinfer1::DataType::kHALF;
    case Dtype::bfloat16: return nvinfer1::DataType::kBF16;
    case Dtype::boolean: return nvinfer1::DataType::kBOOL;
    case Dtype::int64: return nvinfer1::DataType::kINT64;
    case Dtype::uint8: return nvinfer1::DataType::kUINT8;
    case Dtype::uint16:
    case Dtype::float64: break;
  }
  fail(MS_ERROR_INTERNAL, "a type without a name");
}

void check_tensor(const StageSpec& stage, nvinfer1::ICudaEngine& engine, const TensorSpec& tensor) {
  const auto have = engine.getTensorShape(tensor.name.c_str());
  bool fits = have.nbDims == static_cast<int>(tensor.shape.size()) &&
              engine.getTensorDataType(tensor.name.c_str()) == data_type(tensor.dtype);
  for (int i = 0; fits && i < have.nbDims; ++i) fits = have.d[i] == tensor.shape[static_cast<std::size_t>(i)];
  require(fits, MS_ERROR_ENGINE, "the plan of ", stage.name, " has another ", tensor.name,
          " than the manifest; run ms-export again");
}

}  // namespace

void TensorRtModel::load(const Progress& progress) {
  use_device(device_);
  runtime_.reset(nvinfer1::createInferRuntime(logger_));
  require(runtime_ != nullptr, MS_ERROR_DEVICE, "TensorRT cannot start its runtime: ", logger_.newest());
  double done = 0;
  for (std::size_t i = 0; i < kStageNames.size(); ++i) {
    const auto file = engine_.stages.find(std::string(kStageNames[i]));
    const auto spec = stages_.find(std::string(kStageNames[i]));
    if (spec == stages_.end() || file == engine_.stages.end()) continue;
    progress(kStageNames[i], done++ / double(engine_.stages.size()));
    load(plans_[i], spec->second, file->second);
  }
}

void TensorRtModel::load(std::unique_ptr<nvinfer1::ICudaEngine>& target, const StageSpec& spec, const std::string& file) {
  const Bytes plan = manifest_.read(file);
  target.reset(runtime_->deserializeCudaEngine(plan.data(), plan.size()));
  require(target != nullptr, MS_ERROR_ENGINE, "TensorRT refuses ", file, " (", logger_.newest(),
          "); build it again on this machine: ms-export ... --target trt or rtx");
  for (const auto* tensors : {&spec.inputs, &spec.outputs})
    for (const auto& tensor : *tensors) check_tensor(spec, *target, tensor);
  for (const auto& [input, output] : spec.aliases) {
    const char* written = target->getAliasedInputTensor(output.c_str());
    require(written && input == written, MS_ERROR_ENGINE, "the plan of ", spec.name, " does not write ", input,
            " in place; run ms-export again");
  }
}

std::unique_ptr<EngineModel> open_tensorrt(const Manifest& manifest, const EngineSpec& engine,
                                           const EngineOptions& options) {
  return std::make_unique<TensorRtModel>(manifest, engine, options);
}

namespace {

constexpr EngineLibrary kLibrary{MS_INFER_VERSION, open_tensorrt, choose_tensorrt, check_tensorrt};

}  // namespace

}  // namespace ms_infer

MS_INFER_ENGINE { return &ms_infer::kLibrary; }
