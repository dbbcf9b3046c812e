"""Every kernel against its PyTorch twin on the device, at sizes the interpreter cannot reach."""

from __future__ import annotations

import ms_kernels
import pytest
import torch
from ms_kernels import reference
from ms_kernels.layout import ChunkState, LayerCache, QKNorm, Rotation, TrackGrid
from torch import Tensor

TOLERANCE = {torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 3e-2}
DTYPES = list(TOLERANCE)
CELLS, FRAMES, SLOTS = 390, 3, 9


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to("cuda", dtype)


def close(got: Tensor, want: Tensor, dtype: torch.dtype) -> None:
    torch.testing.assert_close(got.float(), want.float(), atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def state_of(start: int) -> Tensor:
    chunk = ChunkState.of(start, FRAMES, sink_frames=3, ring_frames=6, tokens_per_frame=CELLS)
    return torch.tensor(chunk.to_list(), dtype=torch.int32, device="cuda")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", ["pointer", "tma"])
@pytest.mark.parametrize("head_dim", [32, 64, 128])
@pytest.mark.parametrize("start", [0, 3, 6, 12])
def test_attention_reads_the_valid_prefix_only(dtype: torch.dtype, form: str, head_dim: int, start: int) -> None:
    if form == "tma" and (torch.cuda.get_device_capability() < (9, 0) or dtype == torch.float32):
        pytest.skip("TMA takes 16-bit values from sm_90 on")
    q = random(2, 3, FRAMES * CELLS, head_dim, dtype=dtype)
    k, v = (random(2, 3, SLOTS * CELLS, head_dim, dtype=dtype, seed=seed) for seed in (1, 2))
    state = state_of(start)
    unused = int(state[0])
    k[:, :, unused:], v[:, :, unused:] = float("nan"), float("nan")

    got = ms_kernels.sink_window_attention(q, k, v, state, form=form)

    close(got, reference.sink_window_attention(q.double(), k.double(), v.double(), state), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("start", [0, 3, 6, 12, 300])
def test_keys_are_normalised_rotated_and_written_in_place(dtype: torch.dtype, start: int) -> None:
    heads, head_dim, tokens = 12, 128, FRAMES * CELLS
    q, k, v = random(1, tokens, 3 * heads * head_dim, dtype=dtype).split(heads * head_dim, dim=-1)
    weights = [random(heads * head_dim, dtype=dtype, seed=seed) for seed in (1, 2)]
    angles = random(tokens, head_dim // 2, seed=3)
    rotation = Rotation(angles.cos(), angles.sin())
    results = []
    for functions in (ms_kernels, reference):
        kv = [torch.zeros(1, heads, SLOTS * CELLS, head_dim, device="cuda", dtype=dtype) for _ in range(2)]
        sink = torch.zeros(1, heads, 3 * CELLS, head_dim, device="cuda", dtype=dtype)
        cache = LayerCache(*kv, sink, CELLS)
        turned = functions.write_kv(q, k, v, QKNorm(*weights), rotation, cache, state_of(start))
        functions.roll_sink(cache, Rotation(rotation.cos[: 3 * CELLS], rotation.sin[: 3 * CELLS]))
        results.append((turned, *kv, sink))

    for got, want in zip(*results, strict=True):
        close(got, want, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [384, 1536, 3072])
def test_rowwise_operations(dtype: torch.dtype, dim: int) -> None:
    tokens = FRAMES * CELLS
    x, y = (random(1, tokens, dim, dtype=dtype, seed=seed) for seed in (0, 1))
    scale, shift = random(1, FRAMES, 6, dim, dtype=dtype, seed=2).unbind(2)[1:3]
    close(ms_kernels.norm_modulate(x, scale, shift), reference.norm_modulate(x, scale, shift), dtype)
    kept, twin, after = x.clone(), x.clone(), random(dim, dtype=dtype, seed=4)
    got = ms_kernels.residual_modulate(kept, y, scale, scale, shift, after)
    close(got, reference.residual_modulate(twin, y, scale, scale, shift, after), dtype)
    close(kept, twin, dtype)
    weight, bias = random(2 * dim, dim, dtype=dtype, seed=5) / dim**0.5, random(2 * dim, dtype=dtype, seed=6)
    close(ms_kernels.linear_gelu(x, weight, bias), reference.linear_gelu(x, weight, bias), dtype)
    kept, twin = x.clone(), x.clone()
    ms_kernels.add_linear(kept, y, weight[:dim])
    reference.add_linear(twin, y, weight[:dim])
    close(kept, twin, dtype)


@pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 9), reason="FP8 needs sm_89 or later"
)
def test_fp8_products_follow_their_twin() -> None:
    x, weight = random(1, 1170, 1536, dtype=torch.bfloat16), random(4608, 1536, dtype=torch.bfloat16, seed=1)
    bias = random(4608, dtype=torch.bfloat16, seed=2)
    scale, shift = (random(1, FRAMES, 1536, dtype=torch.bfloat16, seed=seed) for seed in (3, 4))
    rows = ms_kernels.norm_modulate_fp8(x, scale, shift)
    quantised = ms_kernels.quantise_rows(weight)
    got = ms_kernels.fp8_linear(*rows, *quantised, bias).float()
    exact = reference.norm_modulate(x, scale, shift).float() @ weight.float().t() + bias.float()

    torch.testing.assert_close(got, reference.fp8_linear(*rows, *quantised, bias).float(), atol=0.5, rtol=2e-2)
    assert float((got - exact).norm() / exact.norm()) < 0.05


@pytest.mark.parametrize("frames", [9, 12])
@pytest.mark.parametrize("collision", ["sum", "last"])
def test_tracks_are_scattered_the_same_every_time(frames: int, collision: str) -> None:
    grid = TrackGrid(height=480, width=832, rows=60, columns=104, collision=collision)  # type: ignore[arg-type]
    points = torch.rand(2500, frames, 2, device="cuda") * torch.tensor([832.0, 480.0], device="cuda")
    visible = torch.rand(2500, frames, device="cuda") > 0.2
    ids = torch.randint(0, 100_000, (2500,), device="cuda")
    weight, bias = random(16, 256), random(16)
    got, again = (ms_kernels.scatter_tracks(points, visible, ids, weight, grid, bias=bias) for _ in range(2))

    assert torch.equal(got, again)
    close(got, reference.scatter_tracks(points, visible, ids, weight, grid, bias=bias), torch.float32)


@pytest.mark.parametrize("dtype", DTYPES)
def test_frames_become_bytes(dtype: torch.dtype) -> None:
    frames = torch.rand(12, 3, 480, 832, device="cuda").to(dtype) * 1.2 - 0.1
    assert torch.equal(ms_kernels.frames_to_uint8(frames), reference.frames_to_uint8(frames))
