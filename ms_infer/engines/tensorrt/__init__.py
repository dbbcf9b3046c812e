"""TensorRT plans of a bundle as the engine. May import: bundle, numerics, engines.staged, engines.runner."""

from ms_infer.engines.tensorrt.engine import TensorRtRunner, open_tensorrt

__all__ = ["TensorRtRunner", "open_tensorrt"]
