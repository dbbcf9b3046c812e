"""The engine of fused operations and captured graphs, on a CPU: the same video, from memory that never moves."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from ms_infer import ConfigError, ContextConfig, DeviceError, Stream, Tracks
from ms_infer.checkpoint import Student
from ms_infer.checkpoint.parts import changed
from ms_infer.config import TrackHeadConfig
from ms_infer.engines.open import open_torch_engine
from ms_infer.engines.torch import TorchEngine
from ms_infer.engines.torch.captured import FusedEngine
from ms_infer.engines.torch.layouts import channels_last_
from ms_infer.model.context import ContextCache
from tests.tiny import refined_student, tiny_student, without_tracks

Frames = NDArray[np.uint8]


Open = Callable[..., Stream]


@pytest.fixture
def over() -> Open:
    """A stream over an engine of the given class."""

    def open_stream(kind: type[TorchEngine], student: Student, **options: Any) -> Stream:
        return Stream(kind(student, device="cpu", **options), seed=options.get("seed", 3))

    return open_stream


def picture() -> Frames:
    return np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)


def start(stream: Stream) -> Stream:
    moved = Tracks.grid(4, 4).drag((0.4, 0.5), (0.8, 0.5), seconds=1.0, radius=0.3)
    stream.start(picture(), "a cat", moved if stream.config.model.track_head else None)
    return stream


def chunks(stream: Stream, count: int) -> list[Frames]:
    return [stream.step().frames for _ in range(count)]


def rollout(stream: Stream) -> Frames:
    """Past the window's first wrap, then a prompt that replaces the sink, then on."""
    made = chunks(start(stream), 5)
    stream.set_prompt("dog night", replace_sink=True)
    return np.concatenate(made + chunks(stream, 2))


SHORT = ContextConfig(sink_frames=1, window_frames=2, first_chunk_frames=1, rope="absolute")
STUDENTS: dict[str, Callable[[], Student]] = {
    "tracks and layers": tiny_student,
    "paper's track head": lambda: tiny_student(track_head=TrackHeadConfig(max_tracks=24, id_dim=8), layout=PAPER),
    "given frame": without_tracks,
    "pinned image": lambda: without_tracks(image_input="pin"),
    "refined frames": refined_student,
    "short first chunk, absolute": lambda: tiny_student(context=SHORT),
}
PAPER = (("noise", 16), ("track", 16), ("image", 16))


@pytest.mark.parametrize("kind", STUDENTS)
@pytest.mark.parametrize("how", ["twin", "sdpa"])
def test_the_fused_engine_makes_the_same_video(over: Open, kind: str, how: str) -> None:
    plain = rollout(over(TorchEngine, STUDENTS[kind]()))
    fused = rollout(over(FusedEngine, STUDENTS[kind](), attention=how))

    difference = np.abs(plain.astype(np.int16) - fused)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3


def names(stream: Stream) -> list[str]:
    return [kind[0] for kind in stream._engine._graphs]  # type: ignore[attr-defined]


def test_one_graph_serves_filling_and_steady_state(over: Open) -> None:
    dynamic, static = (start(over(FusedEngine, tiny_student(), attention=how)) for how in ("twin", "sdpa"))
    for stream in (dynamic, static):
        chunks(stream, 8)

    ends = ["decode", "decode", "denoise", "tracks", "tracks", "write_cache"]  # the opening decodes to 9 frames
    assert sorted(names(dynamic)) == ends
    levels = static.config.context.cache_frames // static.config.context.chunk_frames
    assert names(static).count("denoise") == names(static).count("write_cache") == levels


@pytest.mark.parametrize("kind", ["tracks and layers", "refined frames"])
def test_nothing_that_a_graph_reads_ever_moves(over: Open, tmp_path: Path, kind: str) -> None:
    stream = start(over(FusedEngine, STUDENTS[kind]()))
    engine = stream._engine
    chunks(stream, 2)
    before = {name: tensor.data_ptr() for name, tensor in engine._graph_tensors().items()}  # type: ignore[attr-defined]
    stream.set_prompt("dog", recache=True)
    chunks(stream, 3)
    stream.snapshot(tmp_path / "s.safetensors")
    stream.restore(tmp_path / "s.safetensors")
    chunks(start(stream), 2)

    assert before == {n: t.data_ptr() for n, t in engine._graph_tensors().items()}  # type: ignore[attr-defined]


def test_a_resized_buffer_is_refused(over: Open) -> None:
    stream = start(over(FusedEngine, tiny_student()))
    chunks(stream, 1)
    cache: ContextCache = stream._engine.cache  # type: ignore[attr-defined]
    cache.k = torch.zeros(2, 1, 2, 4, 12)
    with pytest.raises(ConfigError, match=r"k: \[2, 1, 2, 36, 12\].*open another Stream"):
        stream.step()


def test_snapshot_restart_and_failure_work_over_static_buffers(
    over: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = start(over(FusedEngine, tiny_student()))
    first = chunks(stream, 4)
    stream.snapshot(tmp_path / "s.safetensors")
    undisturbed = chunks(stream, 2)
    stream.restore(tmp_path / "s.safetensors")
    with monkeypatch.context() as patch:
        patch.setattr(stream._engine, "commit", lambda: (_ for _ in ()).throw(OSError("injected")))
        with pytest.raises(OSError, match="injected"):
            stream.step()
    again = chunks(stream, 2)
    start(stream)

    for a, b in zip(undisturbed + first, again + chunks(stream, 4), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_cpu_gets_the_plain_engine_and_no_fp8() -> None:
    assert type(open_torch_engine(tiny_student(), device="cpu")) is TorchEngine
    with pytest.raises(DeviceError, match="fp8"):
        open_torch_engine(tiny_student(), device="cpu", precision="fp8")
    with pytest.raises(ConfigError, match="twin"):
        FusedEngine(tiny_student(), device="cpu", attention="magic")


def test_fp8_and_bf16_streams_follow_the_full_precision_one(over: Open) -> None:
    def latents(**options: Any) -> Tensor:
        stream = start(over(FusedEngine, tiny_student(dim=32, ffn_dim=64), **options))
        chunks(stream, 1)
        return stream._engine._buffers["latents"].float()  # type: ignore[attr-defined, no-any-return]

    exact = latents(precision="fp32")
    errors = [float((latents(precision=p) - exact).norm() / exact.norm()) for p in ("bf16", "fp8")]
    assert 0 < errors[0] < errors[1] < 0.2


@pytest.mark.parametrize("kind", [TorchEngine, FusedEngine])
def test_engines_of_several_precisions_share_a_student(over: Open, kind: type[TorchEngine]) -> None:
    student = tiny_student()
    alone = np.concatenate(chunks(start(over(kind, tiny_student(), precision="fp32")), 4))
    first = start(over(kind, student, precision="fp32"))
    made = chunks(first, 2)
    half = start(over(kind, student, precision="bf16"))
    chunks(half, 1)
    double = start(over(kind, student, precision="fp64"))
    chunks(double, 1)

    np.testing.assert_array_equal(np.concatenate(made + chunks(first, 2)), alone)
    for part in ("transformer", "track_head", "vae"):
        dtypes = {tensor.dtype for tensor in getattr(student, part).state_dict().values()}
        assert dtypes == {torch.float32}, part
        assert getattr(first._engine, part) is getattr(student, part), "no copy where none is needed"
        copied = {tensor.dtype for tensor in getattr(half._engine, part).state_dict().values()}
        assert copied == {torch.bfloat16}


def test_a_converted_engine_does_not_hold_the_student() -> None:
    student = tiny_student()
    engine = TorchEngine(student, device="cpu", precision="bf16")
    originals = [weakref.ref(part) for part in (student.transformer, student.vae)]
    del student
    gc.collect()

    assert [part() for part in originals] == [None, None]
    assert engine.embed("a cat").shape == (6, 8)


def test_a_copy_keeps_ties_and_whole_numbers_and_shares_what_fits() -> None:
    part = nn.Module()
    part.first, part.second = nn.Linear(2, 2), nn.Linear(2, 2)
    part.second.weight = part.first.weight
    part.register_buffer("ids", torch.arange(3))
    twin = changed(part, lambda module: module.bfloat16())

    assert twin is not part
    assert twin.first.weight is twin.second.weight
    assert (twin.first.weight.dtype, part.first.weight.dtype) == (torch.bfloat16, torch.float32)
    assert twin.ids is part.ids
    assert changed(part, lambda module: module.float()) is part


def test_a_copy_is_converted_as_its_parts_wish() -> None:
    student = tiny_student()
    engine = TorchEngine(student, device="cpu", precision="bf16")
    assert student.track_head is not None
    assert engine.track_head is not None
    for name, table in student.track_head.named_buffers():
        assert torch.equal(dict(engine.track_head.named_buffers())[name], table), name  # angles stay float32


def test_channels_last_weights_decode_the_same() -> None:
    student = tiny_student()
    assert student.vae is not None
    state = student.vae.decoder_state(1, 4, 4)
    latents = torch.randn(1, 2, 16, 4, 4)
    with torch.no_grad():
        before, _ = student.vae.decode(latents, state, opening=False)
        vae = changed(student.vae, channels_last_)
        after, _ = vae.decode(latents, state, opening=False)

    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)
    weights = [p for p in vae.parameters() if p.dim() == 4]
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)
    assert all(p.is_contiguous() for p in student.vae.parameters()), "the student's own stay as they are"


def test_warm_up_leaves_a_fresh_stream(over: Open) -> None:
    plain, warm = over(FusedEngine, tiny_student()), over(FusedEngine, tiny_student())
    warm._engine.warm_up()  # type: ignore[attr-defined]

    assert sorted(set(names(warm))) == ["decode", "denoise", "tracks", "write_cache"]
    paper = over(FusedEngine, STUDENTS["paper's track head"]())
    paper._engine.warm_up()  # type: ignore[attr-defined]
    assert "tracks" in names(paper)
    for a, b in zip(chunks(start(plain), 3), chunks(start(warm), 3), strict=True):
        np.testing.assert_array_equal(a, b)


class HostWaits(TorchDispatchMode):
    """Notes operations that a CUDA graph cannot hold: values read by the host, or sizes that depend on values."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        if any(word in name for word in ("_local_scalar_dense", "nonzero", "lift_fresh", "is_nonzero", "unique")):
            self.found.add(name)
        return func(*args, **(kwargs or {}))


def unwatched(kernels: Any) -> SimpleNamespace:
    """The twins, hidden from the mode: on CUDA a kernel stands there."""

    def hide(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with _disable_current_modes():
                return function(*args, **kwargs)

        return call

    return SimpleNamespace(**{name: hide(f) for name, f in vars(kernels).items() if callable(f)})


@pytest.mark.parametrize(
    "kind", ["paper's track head", "pinned image", "refined frames", "short first chunk, absolute"]
)
def test_captured_work_never_waits_for_the_host(over: Open, kind: str) -> None:
    stream = start(over(FusedEngine, STUDENTS[kind](), attention="sdpa"))
    engine: Any = stream._engine
    hidden = unwatched(engine.kernels)
    engine.kernels = engine.operations.kernels = engine._ring._kernels = hidden
    chunks(stream, 5)
    with HostWaits() as watch, torch.no_grad():
        for graph in engine._graphs.values():
            graph._work()
    assert watch.found == set()
    with HostWaits() as seen:
        torch.zeros(2).sum().item()
    assert seen.found, "the watch sees a host read"
