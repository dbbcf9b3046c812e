"""Attention of a captured chunk: the cache is written by one kernel, then attended by the fastest implementation.

Two kinds exist. A *dynamic* one reads the number of valid keys from device memory, so one graph serves every fill
level of the context. PyTorch's SDPA needs that number on the host: with it each fill level gets a graph of its own
(there are at most cache_frames / chunk_frames + 1), and the steady state is one graph either way.
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import ModuleType

import torch
import torch.nn.functional as F
from ms_kernels import layout
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ms_infer.config import StreamConfig
from ms_infer.engines.torch.timing import Clock, clock_of, samples_ms
from ms_infer.errors import DeviceError
from ms_infer.model.context import ContextCache
from ms_infer.model.rope import Rotation
from ms_infer.model.transformer import SelfAttention, merge_heads

logger = logging.getLogger(__name__)
CHECKED_QUERIES = 256
TOLERANCE = {torch.float32: 1e-3, torch.float16: 5e-3, torch.bfloat16: 3e-2, torch.float64: 1e-6}
"""Largest difference to exact attention, relative to the largest value, that a candidate may show."""


@dataclass(frozen=True)
class Implementation:
    """One way to attend: `run(q, k, v, state, valid)` over caches `[B, heads, cache_tokens, head_dim]`."""

    name: str
    dynamic: bool
    """Whether it reads the valid keys from `state` on the device; the others take the host's `valid`."""
    run: Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]


@dataclass(frozen=True)
class Measured:
    """What the warm-up found out about one implementation."""

    name: str
    ms: float
    """Median of a call at the steady-state shape."""
    error: float
    """Largest difference to exact attention, relative to its largest value; infinite when it cannot run."""


class RingAttend:
    """The transformer's `attend` over a `ContextCache`'s memory: nothing here depends on the chunk but `state`,
    the rotation's values and, for static implementations, `valid_tokens`.
    """

    def __init__(self, cache: ContextCache, kernels: ModuleType, state: Tensor, rotation: Rotation) -> None:
        config = cache.config
        self.state, self.rotation = state, rotation
        self.valid_tokens = config.cache_tokens
        self.implementation: Implementation | None = None
        self._kernels, self._eps = kernels, config.model.eps
        sink = cache.sink_k.shape[3] > 0
        self._layers = [
            layout.LayerCache(cache.k[i], cache.v[i], cache.sink_k[i] if sink else None, config.tokens_per_frame)
            for i in range(config.model.layers)
        ]

    def __call__(self, layer: int, attention: SelfAttention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Write this pass's keys and values, then attend to the valid prefix (see `Attend`)."""
        own, q = self._layers[layer], self.write(layer, attention, q, k, v)
        assert self.implementation is not None, "the engine chooses one before the first pass"
        return merge_heads(self.implementation.run(q, own.k, own.v, self.state, self.valid_tokens))

    def write(self, layer: int, attention: SelfAttention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Write this pass's keys and values (see `ContextAttend`)."""
        batch, tokens, own = *q.shape[:2], self._layers[layer]
        norm = layout.QKNorm(attention.norm_q.weight, attention.norm_k.weight, self._eps)
        angles = layout.Rotation(self.rotation.cos[:tokens], self.rotation.sin[:tokens])
        # Token by token, as the output projection reads: implementations lay out what they return like the queries.
        turned = q.new_empty(batch, tokens, own.k.shape[1], own.k.shape[3]).transpose(1, 2)
        return self._kernels.write_kv(q, k, v, norm, angles, own, self.state, out=turned)

    def roll_sink(self, rotation: Rotation) -> None:
        """Re-rotate every layer's sink keys to the rotation's positions."""
        for own in self._layers:
            if own.sink_k is not None:
                self._kernels.roll_sink(own, layout.Rotation(rotation.cos, rotation.sin))


def implementations(device: torch.device, kernels: ModuleType) -> list[Implementation]:
    """All that may run on the device, the portable one last."""
    if device.type != "cuda":
        return [Implementation("twin", True, _kernel(kernels)), Implementation("sdpa", False, _sdpa())]
    return [
        Implementation("triton", True, _kernel(kernels, form="pointer")),
        Implementation("triton-tma", True, _kernel(kernels, form="tma")),
        Implementation("cudnn", False, _sdpa(SDPBackend.CUDNN_ATTENTION)),
        Implementation("flash", False, _sdpa(SDPBackend.FLASH_ATTENTION)),
        Implementation("sdpa", False, _sdpa()),
    ]


def choose(
    candidates: Sequence[Implementation],
    config: StreamConfig,
    like: Tensor,
    *,
    keys: int | None = None,
    clock: Clock | None = None,
    repeats: int = 10,
) -> tuple[Implementation, list[Measured]]:
    """The fastest implementation whose numbers are right, at the steady-state shape of `config`.

    like: a tensor of the stream's device and dtype; keys: how many there are, the whole context by default.
    Candidates that raise or are off by more than `TOLERANCE` are left out; DeviceError when none is left.
    """
    model, device = config.model, like.device
    count = config.cache_tokens if keys is None else keys
    generator = torch.Generator(device).manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device, dtype=torch.float32).to(like.dtype)

    q = random(1, config.chunk_tokens, model.heads, model.head_dim).transpose(1, 2)  # laid out as the engine's
    k, v = (random(1, model.heads, count, model.head_dim) for _ in range(2))
    state = torch.tensor([count, 0, 0], dtype=torch.int32, device=device)
    timed = partial(samples_ms, clock=clock or clock_of(device), repeats=repeats)
    measured = [_measure(one, (q, k, v, state, count), timed) for one in candidates]
    usable = [(m.ms, i) for i, m in enumerate(measured) if m.error <= TOLERANCE[like.dtype]]
    for result in measured:
        logger.info("attention %s: %.3f ms, error %.1e", result.name, result.ms, result.error)
    if not usable:
        raise DeviceError(f"no attention implementation runs on {device}: {[m.name for m in measured]} all failed")
    return candidates[min(usable)[1]], measured


def _measure(
    one: Implementation,
    arguments: tuple[Tensor, Tensor, Tensor, Tensor, int],
    timed: Callable[[Callable[[], Tensor]], list[float]],
) -> Measured:
    q, k, v, _, _ = arguments
    wide = [x[:, :1].double() for x in (q[:, :, :CHECKED_QUERIES], k, v)]
    exact = torch.softmax(wide[0] @ wide[1].transpose(-1, -2) * q.shape[-1] ** -0.5, dim=-1) @ wide[2]
    try:
        got = one.run(*arguments)[:, :1, :CHECKED_QUERIES].double()
        ms = statistics.median(timed(lambda: one.run(*arguments)))
    except _failures() as error:  # the backend does not take this shape, dtype or device
        logger.debug("attention %s cannot run: %s", one.name, error)
        return Measured(one.name, float("inf"), float("inf"))
    error_found = float((got - exact).abs().max() / exact.abs().max())
    return Measured(one.name, ms, error_found if error_found == error_found else float("inf"))


def _failures() -> tuple[type[Exception], ...]:
    """What a candidate raises when it cannot run here."""
    try:
        from triton.errors import TritonError
    except ImportError:
        return RuntimeError, ValueError
    return RuntimeError, ValueError, TritonError


def _kernel(kernels: ModuleType, **options: str) -> Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]:
    def run(q: Tensor, k: Tensor, v: Tensor, state: Tensor, valid: int) -> Tensor:
        mixed: Tensor = kernels.sink_window_attention(q, k, v, state, **options)
        return mixed

    return run


def _sdpa(backend: SDPBackend | None = None) -> Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]:
    def run(q: Tensor, k: Tensor, v: Tensor, state: Tensor, valid: int) -> Tensor:
        if backend is None:
            return F.scaled_dot_product_attention(q, k[:, :, :valid], v[:, :, :valid])
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k[:, :, :valid], v[:, :, :valid])

    return run
