"""From ONNX stages to TensorRT engines. May import: ms_export.modules, ms_infer, ms_kernels."""
