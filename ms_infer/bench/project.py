"""What a stream should reach on a GPU by arithmetic alone: operations, bytes and launches over assumed rates.

Nothing here is measured. Where a GPU is at hand, `--fps` puts what was measured beside it, in a column of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ms_infer.bench.floor import Work, work_of_pass
from ms_infer.config import StreamConfig, preset
from ms_infer.errors import ConfigError


@dataclass(frozen=True)
class Device:
    """Peaks as published, dense, without sparsity."""

    name: str
    bf16: float
    """Operations per second of bf16 products with fp32 sums."""
    fp8: float
    memory: float
    """Bytes per second."""
    source: str


DEVICES = {
    "h100": Device("H100 SXM", 989e12, 1979e12, 3.35e12, "NVIDIA H100 data sheet, half of the figures with sparsity"),
    "h200": Device("H200 SXM", 989e12, 1979e12, 4.8e12, "NVIDIA H200 data sheet, half of the figures with sparsity"),
    "b200": Device("B200", 2250e12, 4500e12, 7.7e12, "NVIDIA HGX B200 data sheet, per GPU, dense"),
    "rtx5090": Device("RTX 5090", 209.5e12, 419e12, 1.79e12, "NVIDIA RTX Blackwell white paper, fp32 accumulation"),
}


@dataclass(frozen=True)
class Share:
    """Of a peak that is assumed to be reached: at worst and at best."""

    low: float
    high: float
    why: str


PRODUCTS = Share(0.62, 0.75, "large cuBLASLt products reach 600-740 of 989 TFLOP/s on an H100 under its power limit")
FP8_PRODUCTS = Share(0.50, 0.65, "row-wise scaled products reach less of their peak than plain ones")
ATTENTION = Share(0.55, 0.70, "cuDNN and FlashAttention-3 forward, head size 128: 550-700 TFLOP/s on an H100")
CONVOLUTIONS = Share(0.15, 0.40, "3x3 convolutions of few channels, channels-last")
MEMORY = Share(0.75, 0.90, "what copies reach of the published bandwidth")
LAUNCH_US = Share(2.0, 1.0, "microseconds between two kernels of one graph")
LAYER_LAUNCHES, PASS_LAUNCHES = 15, 45
"""Kernels of a layer and of what surrounds the layers, as the engine launches them."""
LAYER_TENSORS = {"bf16": 18.0, "fp8": 21.5}
"""Reads and writes of `[tokens, dim]` bf16 between a layer's products; fp8 also those of 1.5 x `[tokens, ffn_dim]`."""


@dataclass(frozen=True)
class Stage:
    """One row: what is done in a chunk, and the time that it should take."""

    name: str
    products: float
    """Floating point operations of matrix products."""
    attention: float
    convolutions: float
    bytes: float
    launches: int
    ms_best: float
    ms_worst: float


@dataclass(frozen=True)
class Projection:
    """A chunk of a model on a device."""

    device: str
    model: str
    precision: str
    frames: int
    """RGB frames of a chunk."""
    stages: tuple[Stage, ...]

    @property
    def ms(self) -> tuple[float, float]:
        """Best and worst. The decoder runs beside the clean pass: for nothing at best, for its whole time at worst."""
        denoise, decode, clean = self.stages
        best = denoise.ms_best + max(decode.ms_best, clean.ms_best)
        return best, denoise.ms_worst + decode.ms_worst + clean.ms_worst

    @property
    def fps(self) -> tuple[float, float]:
        """Worst and best."""
        best, worst = self.ms
        return self.frames / worst * 1e3, self.frames / best * 1e3

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "ms": self.ms, "fps": self.fps, "kind": "projected"}


def project(device: str, model: str, precision: str = "bf16") -> Projection:
    """The projection for a preset; ConfigError names the devices."""
    if device not in DEVICES:
        raise ConfigError(f"--project {device!r} is not one of {', '.join(DEVICES)}")
    if precision not in LAYER_TENSORS:
        raise ConfigError(f"a projection is for bf16 or fp8, not {precision!r}")
    config, gpu = preset(model), DEVICES[device]
    passes = len(config.schedule.timesteps)
    one, last = work_of_pass(config), 1 / config.model.layers
    moved, launches = layer_bytes(config, precision), LAYER_LAUNCHES * config.model.layers + PASS_LAUNCHES
    clean = Work(one.linear * (1 - last) + _projections(config), one.attention * (1 - last))
    cleans = 1 + config.context.recompute  # at the end of the chunk, and of the window before the next one
    convolutions, decoded = decoder_work(config)
    whole = Work(one.linear * passes, one.attention * passes)
    cleaned = Work(clean.linear * cleans, clean.attention * cleans)
    stages = (
        _stage("denoise", gpu, precision, work=whole, moved=moved * passes, launches=launches * passes),
        _stage("decode", gpu, precision, convolutions=convolutions, moved=decoded, launches=100),
        _stage(
            "write_cache", gpu, precision, work=cleaned, moved=moved * (1 - last) * cleans, launches=launches * cleans
        ),
    )
    return Projection(gpu.name, model, precision, config.context.span(10).rgb_frames, stages)


def layer_bytes(config: StreamConfig, precision: str) -> float:
    """Bytes that a pass reads and writes between products."""
    model, tokens = config.model, config.chunk_tokens
    inner = 1.5 * model.ffn_dim if precision == "fp8" else 0.0
    return 2.0 * tokens * model.layers * (LAYER_TENSORS[precision] * model.dim + inner)


def _projections(config: StreamConfig) -> float:
    """Operations of one layer's queries, keys and values, which end the clean pass."""
    return 6.0 * config.chunk_tokens * config.model.dim**2


def decoder_work(config: StreamConfig) -> tuple[float, float]:
    """Operations of the convolutions and bytes of all operations of a decoded chunk, counted without computing it."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from ms_infer.model.autoencoders import build_vae

    with torch.device("meta"):
        vae = build_vae(config.model.vae)
        state = vae.decoder_state(1, config.latent_height, config.latent_width)
        shape = (
            1,
            config.context.chunk_frames,
            config.model.latent_channels,
            config.latent_height,
            config.latent_width,
        )
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            frames, after = vae.decode(torch.empty(shape), state, opening=False)
    written = sum(tensor.numel() for tensor in (frames, *after))
    return float(counter.get_total_flops()), 2.0 * 12 * written


def _stage(
    name: str,
    gpu: Device,
    precision: str,
    *,
    work: Work | None = None,
    convolutions: float = 0.0,
    moved: float = 0.0,
    launches: int = 0,
) -> Stage:
    done = work or Work(0.0, 0.0)
    peak, share = (gpu.fp8, FP8_PRODUCTS) if precision == "fp8" else (gpu.bf16, PRODUCTS)

    def ms(end: str) -> float:
        at = {part: getattr(one, end) for part, one in _shares(share).items()}
        seconds = done.linear / (peak * at["products"]) + done.attention / (gpu.bf16 * at["attention"])
        seconds += convolutions / (gpu.bf16 * at["convolutions"]) + moved / (gpu.memory * at["memory"])
        return float(seconds * 1e3 + launches * at["launch"] / 1e3)

    return Stage(name, done.linear, done.attention, convolutions, moved, launches, ms("high"), ms("low"))


def _shares(products: Share) -> Mapping[str, Share]:
    return {
        "products": products,
        "attention": ATTENTION,
        "convolutions": CONVOLUTIONS,
        "memory": MEMORY,
        "launch": LAUNCH_US,
    }


def table(found: Projection, measured: Mapping[str, float] | None = None) -> Any:
    """A rich renderable. measured: milliseconds of stages by a real run on this device, where there was one."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False)
    columns = ["stage", "TFLOP", "GB", "launches", "projected ms", *(["measured ms"] if measured else [])]
    for column in columns:
        grid.add_column(column, justify="left" if column == "stage" else "right")
    for one in found.stages:
        operations = (one.products + one.attention + one.convolutions) / 1e12
        row = [one.name, f"{operations:.2f}", f"{one.bytes / 1e9:.2f}", str(one.launches)]
        row.append(f"{one.ms_best:.1f}-{one.ms_worst:.1f}")
        grid.add_row(*row, *([f"{measured[one.name]:.1f}" if one.name in measured else "–"] if measured else []))
    low, high = found.fps
    head = f"projected, not measured: {found.model} in {found.precision} on {found.device}: {low:.0f}-{high:.0f} fps"
    gpu = next(one for one in DEVICES.values() if one.name == found.device)
    peak = gpu.fp8 if found.precision == "fp8" else gpu.bf16
    shares = _shares(FP8_PRODUCTS if found.precision == "fp8" else PRODUCTS)
    assumed = [f"peak {peak / 1e12:.0f} TFLOP/s, {gpu.memory / 1e12:.2f} TB/s ({gpu.source})"]
    assumed += [f"{name} {one.low:g}-{one.high:g}: {one.why}" for name, one in shares.items()]
    return Group(Text(head, style="bold"), grid, *(Text(f"assumed: {line}", style="dim") for line in assumed))
