"""TensorRT plans of a bundle as the engine. May import: bundle, numerics, engines.staged."""

from ms_infer.engines.tensorrt.engine import TensorRtEngine, open_tensorrt

__all__ = ["TensorRtEngine", "open_tensorrt"]
