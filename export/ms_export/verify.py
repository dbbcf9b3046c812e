"""Compares a bundle with PyTorch: every stage alone, chunks from the same context, then free-running rollouts."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from ms_export.modules import build_stage
from ms_export.motion_error import track_errors
from ms_export.onnx_engine import open_onnx, open_session
from ms_export.rollouts import Frames, chunk_pairs, rollout
from ms_export.stimulus import example_player, example_side
from ms_infer.bundle.manifest import Manifest
from ms_infer.bundle.stages import GRAPH_DTYPES, Shape, StageSpec, TensorSpec
from ms_infer.checkpoint import Student
from ms_infer.checkpoint.complete import resized
from ms_infer.config import StreamConfig
from ms_infer.engines.base import Array
from ms_infer.engines.staged import StagedEngine
from ms_infer.engines.torch import TorchEngine
from ms_infer.errors import MissingExtraError

logger = logging.getLogger(__name__)

STAGE_LIMITS = {"fp32": 1e-5, "fp16": 3e-3}
"""Largest relative L2 error of a stage on onnxruntime."""
GREY_LEVELS = {"fp32": 1, "fp16": 16}
"""Largest difference of a stage's bytes on onnxruntime."""
PSNR_LIMITS = {"fp32": 60.0, "fp16": 40.0, "bf16": 30.0}
"""Smallest PSNR in dB of a chunk's frames, started from the context of PyTorch fp32."""
TRACK_LIMIT = 0.1
"""Largest difference of a rollout's end-point error from that of PyTorch, relative to PyTorch's."""
CHUNKS = 6
"""Chunks from PyTorch's context: sink and window are full, and the sink has been re-rotated."""
ROLLOUT_CHUNKS = 50
LOSSLESS_PSNR = 99.0


@dataclass(frozen=True)
class Check:
    """One comparison with PyTorch."""

    name: str
    engine: str
    rel_l2: float
    max_error: float
    psnr: float | None
    """Worst PSNR of the frames in dB, for comparisons of frames."""
    passed: bool
    track_error: float | None = None
    """Mean end-point error in pixels of the engine's frames against the tracks, for rollouts."""
    torch_track_error: float | None = None
    """The same of PyTorch's frames."""
    note: str = ""
    """Why a rollout has no end-point error."""


def verify_bundle(student: Student, manifest: Manifest, *, chunks: int = ROLLOUT_CHUNKS) -> list[Check]:
    """Run every comparison that this machine can run; chunks: length of the free-running rollouts."""
    student = resized(student, manifest.config)
    checks = []
    for check in _checks(student, manifest, chunks):
        logger.info("compared %s on %s", check.name, check.engine)
        checks.append(check)
    return checks


def _checks(student: Student, manifest: Manifest, chunks: int) -> Iterator[Check]:
    for dtype in manifest.graphs:
        if dtype in STAGE_LIMITS:
            yield from (check_stage(student, manifest, dtype, stage) for stage in manifest.stages[dtype])
    expected: list[Frames] = []
    for engine in runnable_engines(manifest):
        yield check_chunks(student, engine, chunks=min(chunks, CHUNKS))
        if engine.name != "onnxruntime":
            expected = expected or list(rollout(TorchEngine(student, device="cpu", precision="fp32"), chunks))
            yield check_rollout(engine, expected)
        engine.close()


def runnable_engines(manifest: Manifest) -> Iterator[StagedEngine]:
    """Every engine of the bundle that runs here, opened one after the other."""
    if "fp32" in manifest.graphs:
        yield open_onnx(manifest)
    if find_spec("openvino") and any(engine.kind == "openvino" for engine in manifest.engines.values()):
        from ms_infer.engines.openvino import open_openvino

        yield open_openvino(manifest, precision="fp32")
        default = open_openvino(manifest)
        if default.precision != "fp32":
            yield default


def check_stage(student: Student, manifest: Manifest, dtype: str, stage: str) -> Check:
    """One graph on onnxruntime against its PyTorch module, on the same random inputs."""
    spec = manifest.stages[dtype][stage]
    kind = torch.float32 if spec.precise else getattr(torch, GRAPH_DTYPES[dtype])
    from ms_export.trace import converted

    module = build_stage(spec, converted(student, kind), kind)
    inputs = example_inputs(spec, manifest.config)
    with torch.no_grad():
        expected = module(*(torch.from_numpy(inputs[i.name]) for i in spec.inputs))
    session = open_session(str(manifest.path(manifest.graphs[dtype][stage])))
    results = session.run([o.name for o in spec.outputs], inputs)
    pairs = [(r, e.numpy()) for r, e in zip(results, expected, strict=True)]
    rel_l2 = max(relative_l2(r, e) for r, e in pairs)
    worst = max(float(np.abs(r.astype(np.float64) - e.astype(np.float64)).max()) for r, e in pairs)
    limit = STAGE_LIMITS[dtype]
    if spec.outputs[0].dtype == "uint8":  # a value beside .5 may round either way
        grey = float(np.abs(pairs[0][0].astype(int) - pairs[0][1].astype(int)).max())
        rel_l2 = max(relative_l2(r, e) for r, e in pairs[1:])
        return Check(stage, f"onnxruntime {dtype}", rel_l2, worst, None, rel_l2 <= limit and grey <= GREY_LEVELS[dtype])
    return Check(stage, f"onnxruntime {dtype}", rel_l2, worst, None, rel_l2 <= limit)


def example_inputs(spec: StageSpec, config: StreamConfig, seed: int = 0) -> dict[str, Array]:
    """Plausible random inputs: normal values, points inside the picture, indices inside the caches."""
    random = np.random.default_rng(seed)
    return {i.name: _example(i, config, random) for i in spec.inputs}


def _example(spec: TensorSpec, config: StreamConfig, random: np.random.Generator) -> Array:
    special: dict[str, Any] = {
        "words": lambda: random.integers(-1, len(config.model.text.vocabulary) + 1, spec.shape),
        "visible": lambda: random.random(spec.shape) < 0.8,
        "ids": lambda: random.integers(0, 1000, spec.shape),
        "image": lambda: _waves(spec.shape) if len(spec.shape) == 4 else random.random(spec.shape),  # 5: a latent
        "moved": lambda: random.random(spec.shape),
        "moved_valid": lambda: random.random(spec.shape),
        "validity": lambda: random.random(spec.shape),
        "points": lambda: _paths(spec.shape, config),
        "shares": lambda: random.random(spec.shape) / spec.shape[1],
        "track_maps": lambda: random.random(spec.shape),
        "places": lambda: random.uniform(-1, 1, spec.shape),
        "motions": lambda: _motions(spec.shape, config, random),
        "layer_logits": lambda: 8 * _waves(spec.shape) - 4,
        "paint": lambda: _waves(spec.shape) - 0.5,
        "anchors": lambda: _paths((*spec.shape[:2], 1, 2), config)[:, :, 0],
        "write_index": lambda: np.arange(spec.shape[0]) * config.tokens_per_frame,
        "sink_index": lambda: np.array([0]),
        "n_valid": lambda: np.array([config.cache_tokens - config.tokens_per_frame]),
        "sigma": lambda: np.full(spec.shape, 0.7),
        "next_sigma": lambda: np.full(spec.shape, 0.3),
    }
    if spec.name.endswith(("cos", "sin")):
        turn = np.cos if spec.name.endswith("cos") else np.sin
        values = turn(np.random.default_rng(1).random(spec.shape) * 6)
    else:
        values = special.get(spec.name, lambda: random.standard_normal(spec.shape))()
    array: Array = np.asarray(values).astype(spec.dtype)
    return array


def _waves(shape: Shape) -> Array:
    """A picture `[1, C, H, W]` in [0, 1] as smooth as a photograph: what is sampled from it is no noise."""
    rows, columns = np.mgrid[: shape[2], : shape[3]] / 8
    return np.stack([0.5 + 0.5 * np.sin(rows * (1 + c) + columns * (2 - c) + c) for c in range(shape[1])])[None]


def _motions(shape: Shape, config: StreamConfig, random: np.random.Generator) -> Array:
    """Terms `[1, L, K, T, 2]` of motions that grow with time; those of higher degree are smaller."""
    size = 0.05 * config.width * 0.5 ** np.array([0, 1, 1, 3, 3, 3])[:, None, None]
    return random.standard_normal((*shape[:3], 1, 2)) * size * np.linspace(0, 1, shape[3])[:, None]


def _paths(shape: Shape, config: StreamConfig) -> Array:
    """Tracks `[1, N, T, 2]` that set out from points of their own and drift together, every eighth against them."""
    size = np.array([config.width, config.height])
    random = np.random.default_rng(2)
    starts = random.random((*shape[:2], 1, 2)) * size
    drift = np.where(np.arange(shape[1])[:, None, None] % 8, 0.01, -0.02) * size
    return starts + drift * np.arange(shape[2])[:, None]


def check_chunks(student: Student, engine: StagedEngine, *, chunks: int = CHUNKS) -> Check:
    """Frames of an engine against PyTorch fp32, by PSNR; every chunk starts from PyTorch's state."""
    reference = TorchEngine(student, device="cpu", precision="fp32")
    pairs = list(chunk_pairs(reference, engine, chunks))
    check = _compared(f"{chunks} chunks", engine, pairs)
    assert check.psnr is not None, "frames are compared by PSNR"
    return dataclasses.replace(check, passed=check.psnr >= PSNR_LIMITS[engine.precision])


def check_rollout(engine: StagedEngine, expected: Sequence[Frames]) -> Check:
    """A free-running rollout against that of PyTorch, chunk by chunk.

    Small differences grow from chunk to chunk, so PSNR is a report. What is judged is how well the frames follow the
    tracks: the end-point error must be that of PyTorch's frames, within TRACK_LIMIT.
    """
    frames = list(rollout(engine, len(expected)))
    check = _compared(f"{len(expected)} free", engine, list(zip(expected, frames, strict=True)))
    side, player = example_side(engine.config), example_player(engine.config)
    if player is None:
        return dataclasses.replace(check, note="no tracks")
    try:
        ours, theirs = track_errors([np.concatenate(frames), np.concatenate(expected)], player, side, side)
    except MissingExtraError:
        return dataclasses.replace(check, note="no OpenCV")
    if not np.isfinite(theirs):
        return dataclasses.replace(check, note="nothing to follow")
    close = abs(ours - theirs) <= TRACK_LIMIT * theirs
    return dataclasses.replace(check, passed=close, track_error=ours, torch_track_error=theirs)


def _compared(name: str, engine: StagedEngine, pairs: Sequence[tuple[Frames, Frames]]) -> Check:
    """Differences of (expected, made) frames; passed, until somebody judges them."""
    rel_l2 = max(relative_l2(made, expected) for expected, made in pairs)
    largest = max(int(np.abs(made.astype(int) - expected.astype(int)).max()) for expected, made in pairs)
    worst = min(psnr(made, expected) for expected, made in pairs)
    return Check(name, f"{engine.name} {engine.precision}", rel_l2, float(largest), worst, True)


def relative_l2(value: Array, reference: Array) -> float:
    """|value - reference| / |reference|."""
    difference = np.linalg.norm(value.astype(np.float64) - reference.astype(np.float64))
    size = np.linalg.norm(reference.astype(np.float64))
    return float(difference / size) if size else float(difference)


def psnr(frames: Frames, expected: Frames) -> float:
    """PSNR in dB of frames, at most 99."""
    error = float(np.mean((frames.astype(np.float64) - expected.astype(np.float64)) ** 2))
    return LOSSLESS_PSNR if error == 0 else min(LOSSLESS_PSNR, float(10 * np.log10(255.0**2 / error)))


def format_checks(checks: Sequence[Check]) -> str:
    """A table of all comparisons."""
    lines = [
        f"{'what':<14}{'engine':<20}{'max error':>12}{'rel L2':>12}{'PSNR dB':>10}{'tracks px (torch)':>20}  result"
    ]
    for check in checks:
        quality = "" if check.psnr is None else f"{check.psnr:.1f}"
        motion = check.note if check.track_error is None else f"{check.track_error:.3f} ({check.torch_track_error:.3f})"
        verdict = "pass" if check.passed else "FAIL"
        lines.append(
            f"{check.name:<14}{check.engine:<20}{check.max_error:>12.2e}{check.rel_l2:>12.2e}{quality:>10}{motion:>20}"
            f"  {verdict}"
        )
    return "\n".join(lines)
