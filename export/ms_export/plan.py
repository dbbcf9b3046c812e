"""What an export will make, without making it and without any engine library."""

from __future__ import annotations

import math
from importlib.util import find_spec

from ms_export.options import ExportOptions
from ms_export.weights import WeightTable
from ms_infer.bundle.stages import GRAPH_DTYPES, ITEM_BYTES, StageSpec, stage_specs
from ms_infer.checkpoint import Student
from ms_infer.checkpoint.parts import parts_of
from ms_infer.config import StreamConfig
from ms_infer.errors import CheckpointError, ConfigError, MissingExtraError

_EXTRAS = {
    "onnx": ("export", ("onnx", "onnxscript")),
    "cpu": ("cpu", ("openvino",)),
    "rtx": ("rtx", ("tensorrt_rtx",)),
    "trt": ("trt", ("tensorrt",)),
}


def check_student(student: Student, options: ExportOptions) -> None:
    """Refuse what cannot be exported, before anything is written.

    CheckpointError: a part is missing. ConfigError: a setting needs PyTorch. MissingExtraError: a library is missing.
    """
    if student.config.schedule.solver == "unipc":
        raise ConfigError(
            "exported engines take every denoising step from its own pass alone, which UniPC does not: export with "
            "--set schedule.solver=euler, or run the checkpoint itself with --engine torch"
        )
    if student.vae is None:
        raise CheckpointError("the checkpoint has no autoencoder; give one with --vae PATH (a TAEHV or Wan VAE file)")
    for part in parts_of(student.config):
        if getattr(student, part) is None:
            raise CheckpointError(
                f"the checkpoint has no {part.replace('_', ' ')}, which {student.config.model.name} needs; export a "
                "complete one"
            )
    check_extras(options)


def check_extras(options: ExportOptions) -> None:
    """MissingExtraError naming the extra of the first library that is not installed."""
    for target in ("onnx", *options.targets):
        extra, modules = _EXTRAS[target]
        missing = [name for name in modules if find_spec(name) is None]
        if missing:
            raise MissingExtraError(f"--target {target} needs {', '.join(missing)}: pip install 'ms-infer[{extra}]'")


def estimate_bytes(config: StreamConfig, table: WeightTable, options: ExportOptions) -> int:
    """Bytes on disk, about: weights once per graph precision, and once per engine."""
    values = sum(math.prod(region.shape) for region in table.regions.values())
    copies = [ITEM_BYTES[GRAPH_DTYPES[dtype]] for dtype in options.graph_dtypes()]
    copies += [4 if target == "cpu" else 2 for target in options.targets if target != "onnx"]
    return values * sum(copies) + (16 << 20)


def cache_bytes(spec: StageSpec) -> int:
    """Bytes of the caches of a stage."""
    return sum(tensor.nbytes for tensor in spec.inputs if tensor.role == "cache")


def planned(config: StreamConfig, options: ExportOptions) -> dict[str, dict[str, StageSpec]]:
    """Graph precision -> stages."""
    return {d: stage_specs(config, dtype=d, writes=options.resolved_writes(config)) for d in options.graph_dtypes()}
