"""Who computes the stages of a chunk: PyTorch, OpenVINO or TensorRT. May import: what is below it, not stream."""
