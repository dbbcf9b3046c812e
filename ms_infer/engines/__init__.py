"""Who computes the stages: torch, openvino, tensorrt."""
