"""Static buffers, captured graphs, noise on the device and fused operations, on a CPU."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ms_infer import ConfigError, DeviceError
from ms_infer.engines.torch import attention, graphs
from ms_infer.engines.torch import noise as device_noise
from ms_infer.engines.torch.fused import Fp8Operations, FusedOperations, join_layers, load_kernels
from ms_infer.model.transformer import PLAIN, Transformer, full_attention
from ms_infer.numerics import noise
from tests.tiny import tiny_config, tiny_student

CPU = torch.device("cpu")


def test_buffers_keep_their_memory_and_refuse_other_shapes() -> None:
    buffers = graphs.StaticBuffers(CPU)
    held = buffers.add("state", (5, 2), torch.float32, uploaded=True)
    buffers.upload("state", np.full((3, 2), 7, np.float32))

    assert held.data_ptr() == buffers["state"].data_ptr()
    assert held.tolist() == [[7, 7]] * 3 + [[0, 0]] * 2
    for wrong in (np.zeros((3, 3), np.float32), np.zeros((6, 2), np.float32), np.zeros((3, 2), np.float64)):
        with pytest.raises(ConfigError, match="open another Stream"):
            buffers.upload("state", wrong)
    with pytest.raises(ConfigError, match="exists already"):
        buffers.add("state", (1,), torch.float32)


def test_a_disabled_graph_calls_its_work_and_refuses_moved_tensors() -> None:
    x = torch.zeros(3)
    graph = graphs.CapturedGraph("add", lambda: x.add_(1), {"x": x}, enabled=False)
    for _ in range(3):
        graph({"x": x})

    assert (x.tolist(), graph.replays, graph.captured) == ([3, 3, 3], 3, False)
    for other in (torch.zeros(3), x[:2], x.view(torch.int32)):
        with pytest.raises(ConfigError, match=r"'add'.*x: \[3\].*another Stream"):
            graph({"x": other})
    with pytest.raises(ConfigError, match="y: absent"):
        graph({"x": x, "y": x})


class FakeGraph:
    """Stands in for a CUDA graph: captured work does not run, a replay repeats it."""

    def __init__(self, calls: list[str]) -> None:
        self.calls, self.before = calls, 0

    def capture_begin(self, **options: Any) -> None:
        assert options["capture_error_mode"] == "thread_local"
        self.before = len(self.calls)

    def capture_end(self) -> None:
        del self.calls[self.before :]

    def replay(self) -> None:
        self.calls.append("replay")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What stand-ins of CUDA and the work were called for."""
    found: list[str] = []
    waits = SimpleNamespace(synchronize=lambda: found.append("wait for the stream"))
    monkeypatch.setattr(graphs.torch.cuda, "CUDAGraph", lambda: FakeGraph(found))
    monkeypatch.setattr(graphs.torch.cuda, "current_stream", lambda: waits)
    monkeypatch.setattr(graphs.torch.cuda, "synchronize", lambda: found.append("wait for the device"))
    return found


def test_a_graph_warms_up_then_captures_once_then_only_replays(calls: list[str]) -> None:
    graph = graphs.CapturedGraph("work", lambda: calls.append("work"), {}, enabled=True)
    graph()
    graph()

    assert calls == ["work"] * graphs.WARM_UPS + ["wait for the stream", "replay", "replay"]


def test_a_capture_that_fails_says_so_in_one_line_and_may_be_tried_again(calls: list[str]) -> None:
    left = [graphs.WARM_UPS]

    def work() -> None:
        left[0] -= 1
        if left[0] == -1:
            raise RuntimeError("CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA")

    graph = graphs.CapturedGraph("work", work, {}, enabled=True)
    with pytest.raises(DeviceError, match=r"'work' could not be captured: CUDA error: out of memory; set MS_INFER"):
        graph()
    assert not graph.captured
    graph()
    assert graph.captured


def test_graphs_follow_device_and_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    assert (graphs.graphs_enabled(CPU), graphs.graphs_enabled(cuda)) == (False, True)
    monkeypatch.setenv("MS_INFER_NO_CUDA_GRAPH", "1")
    assert not graphs.graphs_enabled(cuda)
    monkeypatch.setenv("MS_INFER_NO_CUDA_GRAPH", "yes")
    with pytest.raises(ConfigError, match="NO_CUDA_GRAPH='yes'"):
        graphs.graphs_enabled(cuda)


@pytest.mark.parametrize(("seed", "chunk"), [(0, 0), (2**63 + 5, 2**32 + 7), (-3, 12)])
def test_noise_on_the_device_has_the_same_bits(seed: int, chunk: int) -> None:
    expected = np.stack([noise.normal(seed, chunk, p, 5_003) for p in range(3)])
    numbers = torch.from_numpy(device_noise.counters(seed, chunk))

    np.testing.assert_array_equal(device_noise.normal(numbers, 3, 5_003).numpy(), expected)
    numbers[2] += 1  # the chunk is read from memory, so a captured graph draws anew
    assert (device_noise.normal(numbers, 3, 5_003).numpy() != expected).mean() > 0.99


def block_inputs(dim: int) -> tuple[Transformer, tuple[Any, ...]]:
    torch.manual_seed(0)
    student = tiny_student(dim=dim, ffn_dim=2 * dim, heads=2, layers=2)
    config = student.config
    x = torch.randn(1, 3, config.model.in_channels, config.latent_height, config.latent_width)
    keys = student.transformer.condition(torch.randn(1, config.model.text.tokens, config.model.text.dim))
    timestep = torch.tensor([[900.0, 500.0, 0.0]])
    return student.transformer, (x, timestep, keys, full_attention(lambda t: t))


@torch.no_grad()
def test_fused_operations_equal_the_plain_ones() -> None:
    transformer, inputs = block_inputs(24)
    plain = transformer(*inputs, PLAIN)
    fused = transformer(*inputs, FusedOperations(transformer, load_kernels(CPU)))

    torch.testing.assert_close(fused, plain, atol=1e-5, rtol=1e-5)
    assert torch.equal(transformer(*inputs), plain), "joined weights are the same weights"


@torch.no_grad()
def test_fp8_products_stay_near_and_odd_widths_are_refused() -> None:
    transformer, (x, timestep, keys, attend) = block_inputs(32)
    plain = transformer(x, timestep, keys, attend)
    transformer.bfloat16()
    operations = Fp8Operations(transformer, load_kernels(CPU))
    keys = [tuple(tensor.bfloat16() for tensor in layer) for layer in keys]
    rounded = transformer(x.bfloat16(), timestep, keys, attend, operations).float()

    error = (rounded - plain).norm() / plain.norm()
    assert 1e-4 < error < 0.1
    narrow, _ = block_inputs(24)
    with pytest.raises(ConfigError, match="multiples of 16"):
        Fp8Operations(narrow, load_kernels(CPU))


@torch.no_grad()
def test_joined_layers_share_their_memory() -> None:
    layers = [nn.Linear(4, width) for width in (3, 2)]
    x = torch.randn(5, 4)
    expected = torch.cat([layer(x) for layer in layers], dim=-1)
    joined = join_layers(*layers)

    torch.testing.assert_close(joined(x), expected)
    layers[1].bias.fill_(9)
    assert joined.bias.tolist()[3:] == [9, 9]


def candidate(name: str, *, off: float = 0.0, fails: bool = False) -> attention.Implementation:
    exact = next(one for one in attention.implementations(CPU, load_kernels(CPU)) if one.name == "sdpa")

    def run(q: Tensor, k: Tensor, v: Tensor, state: Tensor, valid: int) -> Tensor:
        if fails:
            raise RuntimeError("no backend")
        return exact.run(q, k, v, state, valid) + off

    return attention.Implementation(name, False, run)


def test_the_fastest_right_attention_is_chosen() -> None:
    times = iter([5.0] * 13 + [2.0] * 13 + [1.0] * 13)
    candidates = [candidate("slow"), candidate("fast"), candidate("wrong", off=0.5), candidate("absent", fails=True)]
    chosen, measured = attention.choose(candidates, tiny_config(), torch.zeros(1), clock=lambda work: next(times))

    assert chosen.name == "fast"
    assert [m.ms for m in measured] == [5, 2, 1, float("inf")]
    assert measured[2].error > 0.1
    with pytest.raises(DeviceError, match="all failed"):
        attention.choose(candidates[2:], tiny_config(), torch.zeros(1), clock=lambda work: 1.0)
