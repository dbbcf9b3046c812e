"""PyTorch as the engine: plain on the CPU, captured and fused on CUDA. May import: checkpoint, model, ms_kernels."""

import ms_infer.needs_torch  # noqa: F401
from ms_infer.engines.torch.plain import TorchEngine

__all__ = ["TorchEngine"]
