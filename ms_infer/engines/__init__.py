"""Who computes the stages of a chunk: PyTorch, OpenVINO or TensorRT. May import: checkpoint, bundle, model, tracks."""
