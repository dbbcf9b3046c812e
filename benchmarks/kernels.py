"""How every kernel is timed: on a GPU beside the machine's copy speed and the twin; on a CPU the twin alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import ms_kernels
import pytest
import torch
from ms_kernels import reference
from ms_kernels.layout import ChunkState, LayerCache
from torch import Tensor

COPY_BYTES = 2**30


@dataclass(frozen=True)
class Sizes:
    """One chunk of one layer."""

    name: str
    heads: int
    head_dim: int
    ffn_dim: int
    rows: int
    columns: int
    """Latent height and width in tokens of 2 x 2."""
    tracks: int
    batch: int = 1
    frames: int = 3
    sink_frames: int = 3
    window_frames: int = 3

    @property
    def dim(self) -> int:
        return self.heads * self.head_dim

    @property
    def frame_tokens(self) -> int:
        return self.rows * self.columns

    @property
    def tokens(self) -> int:
        return self.frames * self.frame_tokens

    @property
    def sink_tokens(self) -> int:
        return self.sink_frames * self.frame_tokens

    @property
    def cache_tokens(self) -> int:
        return (self.sink_frames + self.window_frames + self.frames) * self.frame_tokens

    def state(self, start: int = 300) -> ChunkState:
        """A chunk of the steady state: sink and window are full."""
        return ChunkState.of(
            start,
            self.frames,
            sink_frames=self.sink_frames,
            ring_frames=self.window_frames + self.frames,
            tokens_per_frame=self.frame_tokens,
        )


LARGE = Sizes("1.3B 480x832 c3s1w1", heads=12, head_dim=128, ffn_dim=8960, rows=30, columns=52, tracks=2500)
SMALL = Sizes("tiny", heads=2, head_dim=32, ffn_dim=160, rows=4, columns=6, tracks=20)


class Case(NamedTuple):
    """Something to time."""

    run: Callable[[], Any]
    bytes_moved: int
    """Least bytes that must cross the memory bus: every input read once, every output written once."""
    flops: int = 0


class Maker:
    """Makes the tensors of a case on one device in one dtype."""

    def __init__(self, functions: Any, device: str, dtype: torch.dtype, sizes: Sizes) -> None:
        self.functions, self.device, self.dtype, self.sizes = functions, device, dtype, sizes
        self._generator = torch.Generator(device).manual_seed(0)

    def normal(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Normal numbers in the case's dtype."""
        numbers = torch.randn(*shape, device=self.device, generator=self._generator)
        return numbers.to(dtype or self.dtype)

    def uniform(self, *shape: int) -> Tensor:
        """fp32 numbers within 0..1."""
        return torch.rand(*shape, device=self.device, generator=self._generator)

    def state(self) -> Tensor:
        """The state tensor of a steady chunk."""
        return torch.tensor(self.sizes.state().to_list(), dtype=torch.int32, device=self.device)

    def cache(self) -> LayerCache:
        """A full cache with an un-rotated sink."""
        size = self.sizes
        shape = (size.batch, size.heads, size.cache_tokens, size.head_dim)
        sink_k = self.normal(size.batch, size.heads, size.sink_tokens, size.head_dim)
        return LayerCache(self.normal(*shape), self.normal(*shape), sink_k, size.frame_tokens)


def bytes_of(*tensors: Tensor) -> int:
    """Bytes of all these tensors together."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def time_on_gpu(benchmark: Any, build: Callable[[Maker], Case]) -> None:
    """Time the kernel at the 1.3B model's sizes in bf16; skipped without a CUDA device.

    `extra_info` gets the kernel's time (median, L2 flushed), GB/s, its share of this device's copy speed measured in
    the same run, TFLOP/s where that matters, and the time of the eager twin.
    """
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device: kernels are timed on a GPU only")
    from triton.testing import do_bench

    case = build(Maker(ms_kernels, "cuda", torch.bfloat16, LARGE))
    twin = build(Maker(reference, "cuda", torch.bfloat16, LARGE))
    source = torch.empty(COPY_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    copy_ms = do_bench(lambda: target.copy_(source), return_mode="median")
    kernel_ms = do_bench(case.run, return_mode="median")
    gigabytes_per_second = case.bytes_moved / kernel_ms / 1e6
    benchmark.extra_info.update(
        device=torch.cuda.get_device_name(),
        sizes=LARGE.name,
        dtype="bf16",
        kernel_us=kernel_ms * 1e3,
        bytes_moved=case.bytes_moved,
        gigabytes_per_second=gigabytes_per_second,
        share_of_copy=gigabytes_per_second / (2 * COPY_BYTES / copy_ms / 1e6),
        teraflops=case.flops / kernel_ms / 1e9,
        twin_us=do_bench(twin.run, warmup=1, rep=3, return_mode="median") * 1e3,
    )

    def run_and_wait() -> None:
        case.run()
        torch.cuda.synchronize()

    benchmark.pedantic(run_and_wait, rounds=20, warmup_rounds=3)


def time_twin(benchmark: Any, build: Callable[[Maker], Case]) -> None:
    """Time the PyTorch twin in fp32 at tiny sizes on the CPU: keeps the benchmark itself working everywhere."""
    case = build(Maker(reference, "cpu", torch.float32, SMALL))
    assert case.bytes_moved > 0
    benchmark.extra_info.update(device="cpu", sizes=SMALL.name, dtype="fp32", bytes_moved=case.bytes_moved)
    benchmark(case.run)
