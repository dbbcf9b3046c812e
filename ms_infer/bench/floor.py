"""What this machine could do at best: its own ceilings, and the work of a chunk held against them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ms_infer.config import StreamConfig

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Work:
    """Floating point operations of one pass over a chunk in the steady state."""

    linear: float
    """Matrix products: per token and layer 8 d^2 (self), 4 d^2 (cross), 4 d ffn."""
    attention: float
    """4 Lq Lk d per layer to the context, 4 Lq Lt d to text and image tokens."""

    @property
    def total(self) -> float:
        return self.linear + self.attention


@dataclass(frozen=True)
class Floor:
    """Measured ceilings of one device in one precision."""

    gemm_flops: float
    """Best matrix product, operations per second."""
    attention_flops: float
    """The fastest attention that the engine may choose at the steady-state shape, operations per second."""
    copy_bytes: float
    """Device memory copy, bytes read and written per second."""
    precision: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def chunk_ms(self, config: StreamConfig) -> float:
        """Least milliseconds of a chunk's transformer passes: products and attention at their ceilings."""
        work, passes = work_of_pass(config), len(config.schedule.timesteps) + 1
        return passes * (work.linear / self.gemm_flops + work.attention / self.attention_flops) * 1e3


def work_of_pass(config: StreamConfig) -> Work:
    """Operations of one pass, a multiplication and an addition counted as two; embeddings and norms left out."""
    model, queries = config.model, config.chunk_tokens
    per_token = 12 * model.dim**2 + 4 * model.dim * model.ffn_dim
    keys = config.cache_tokens + model.text.tokens + model.image_tokens
    return Work(
        linear=float(model.layers * queries * per_token), attention=float(model.layers * 4 * queries * keys * model.dim)
    )


def measure_floor(config: StreamConfig, on: str, precision: str) -> Floor:
    """Ceilings of the device at this stream's shapes; products also at 8192^3 on CUDA (1024^3 on a CPU)."""
    import torch

    from ms_infer.engines.torch.needs import DTYPES

    device, dtype = torch.device(on), DTYPES.get(precision, torch.bfloat16)
    cuda = device.type == "cuda"
    side = 8192 if cuda else 1024
    shapes = [(side, side, side), (config.chunk_tokens, config.model.dim, config.model.ffn_dim)]
    return Floor(
        gemm_flops=max(_gemm_rate(shape, device, dtype, fp8=precision == "fp8") for shape in shapes),
        attention_flops=_attention_rate(config, device, dtype),
        copy_bytes=_copy_rate((1 << 30) if cuda else (1 << 26), device),
        precision=precision,
    )


def _best_s(work: Callable[[], Any], device: torch.device) -> float:
    """Seconds of the fastest of twenty runs."""
    from ms_infer.engines.torch.timing import clock_of, samples_ms

    return min(samples_ms(work, clock_of(device), repeats=20)) / 1e3


def _gemm_rate(shape: tuple[int, int, int], device: torch.device, dtype: torch.dtype, *, fp8: bool) -> float:
    import torch

    from ms_infer.engines.torch.fused import load_kernels

    rows, inner, columns = shape
    a = torch.randn(rows, inner, device=device).to(dtype)
    b = torch.randn(columns, inner, device=device).to(dtype)
    if fp8:
        kernels = load_kernels(device)
        product = partial(kernels.fp8_linear, *kernels.quantise_rows(a), *kernels.quantise_rows(b))
    else:
        product = partial(torch.mm, a, b.t(), out=torch.empty(rows, columns, device=device, dtype=dtype))
    return 2.0 * rows * inner * columns / _best_s(product, device)


def _attention_rate(config: StreamConfig, device: torch.device, dtype: torch.dtype) -> float:
    """Of the implementation that the engine would choose here."""
    import torch

    from ms_infer.engines.torch.attention import choose, implementations
    from ms_infer.engines.torch.fused import load_kernels

    work = 4.0 * config.chunk_tokens * config.cache_tokens * config.model.dim
    candidates = implementations(device, load_kernels(device))
    if device.type != "cuda":  # the twin is there to be believed, not to be fast
        candidates = [one for one in candidates if one.name == "sdpa"]
    with torch.no_grad():
        chosen, measured = choose(candidates, config, torch.zeros(1, device=device, dtype=dtype), repeats=20)
    return work / min(one.ms for one in measured if one.name == chosen.name) * 1e3


def _copy_rate(size: int, device: torch.device) -> float:
    import torch

    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2.0 * size / _best_s(lambda: target.copy_(source), device)
