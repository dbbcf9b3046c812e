"""Which of the two PyTorch engines runs a student: the fused one on CUDA, the plain one elsewhere."""

from __future__ import annotations

import logging

from ms_infer.checkpoint import Student
from ms_infer.engines.torch.captured import FusedEngine
from ms_infer.engines.torch.plain import TorchEngine, check_device
from ms_infer.errors import DeviceError

logger = logging.getLogger(__name__)
HEAD_DIMS = range(32, 129, 8)  # of the kernels


def open_torch_engine(student: Student, *, device: str | None = None, precision: str | None = None) -> TorchEngine:
    """The fused engine on CUDA, the plain one on a CPU and for head sizes that no kernel takes."""
    chosen = check_device(device)
    if precision == "fp8" and chosen.type != "cuda":
        raise DeviceError("precision='fp8' needs a CUDA device of sm_89 or later; use fp32 or bf16 on a CPU")
    if chosen.type != "cuda" or precision == "fp64":
        return TorchEngine(student, device=device, precision=precision)
    if student.config.model.head_dim not in HEAD_DIMS:
        logger.warning("no kernel for head_dim %d: running without fusion", student.config.model.head_dim)
        return TorchEngine(student, device=device, precision=precision)
    engine = FusedEngine(student, device=device, precision=precision)
    engine.warm_up()
    return engine
