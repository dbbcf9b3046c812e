"""The TensorRT engine's host side: the same video as PyTorch, through memory, streams and a graph that are checked."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("tensorrt_rtx", reason="needs the extra [rtx]")
pytest.importorskip("cuda.bindings.runtime", reason="needs the extra [rtx]")

from ms_infer import Cancelled, ConfigError, ContextConfig, DeviceError, EngineMismatchError, Stream, Tracks
from ms_infer.checkpoint import Student
from ms_infer.engines.base import STAGES
from ms_infer.engines.staged import StagedEngine
from ms_infer.engines.tensorrt import open_tensorrt
from ms_infer.engines.tensorrt.cuda import Cuda
from tests.engines.fake_cuda import FakeCuda
from tests.engines.fake_tensorrt import FakeTensorRt, fake_bundle
from tests.tiny import tiny_student, without_tracks

Frames = NDArray[np.uint8]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MS_INFER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def student() -> Student:
    return tiny_student()


@pytest.fixture
def picture() -> Frames:
    return np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)


class Machine:
    """A bundle, a GPU that records, and the engine on them."""

    def __init__(self, student: Student, folder: Path, **changes: Any) -> None:
        self.cuda = FakeCuda()
        self.trt = FakeTensorRt(student, self.cuda)
        self.manifest = fake_bundle(student, folder, **changes)
        self.trt.specs = dict(self.manifest.stages["fp32"])

    def open(self, **options: Any) -> StagedEngine:
        return open_tensorrt(self.manifest, library=self.trt.library(), cuda=Cuda(self.cuda), **options)


@pytest.fixture
def machine(student: Student, tmp_path: Path) -> Machine:
    return Machine(student, tmp_path)


def test_a_load_tells_its_parts_and_is_cancelled_in_any_of_them(machine: Machine) -> None:
    told: list[tuple[str, float]] = []
    machine.open(progress=lambda *step: told.append(step)).close()
    shares = [done for _, done in told]
    kinds = [doing.split()[0] for doing, _ in told]
    assert shares == sorted(shares)
    assert (shares[0], told[-1]) == (0.0, ("ready", 1.0))
    assert list(dict.fromkeys(kinds)) == ["checking", "loading", "preparing", "ready"]
    assert kinds.count("loading") == kinds.count("preparing") == len(machine.manifest.stages["fp32"])
    for part in ("checking", "loading denoise", "preparing decode"):

        def until(doing: str, _done: float, part: str = part) -> None:
            if doing.startswith(part):
                raise InterruptedError(doing)

        with pytest.raises(InterruptedError, match=part):
            machine.open(progress=until)
        assert machine.cuda.blocks == {}, "all memory is free again"


def test_a_step_is_cancelled_before_its_chunk_is_under_way(machine: Machine) -> None:
    expected = chunks(Stream(machine.open(), seed=1), 4)
    stream = Stream(machine.open(), seed=1)
    stream.start()
    made = []
    for _ in expected:
        prepare = stream._engine.runner.prepare

        def cancelling(prepare: Any = prepare) -> None:
            prepare()
            stream.cancel()

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(stream._engine.runner, "prepare", cancelling)
            with pytest.raises(Cancelled):
                stream.step()
        made.append(stream.step().frames)
    np.testing.assert_array_equal(np.concatenate(made), np.concatenate(expected))


def tracks() -> Tracks:
    return Tracks.grid(4, 4).drag((0.4, 0.5), (0.8, 0.5), seconds=1.0, radius=0.3)


def chunks(stream: Stream, count: int, *start: Any) -> list[Frames]:
    stream.start(*start)
    return [stream.step().frames for _ in range(count)]


def assert_close(first: list[Frames], second: list[Frames]) -> None:
    """Equal but for single steps of rounding."""
    for a, b in zip(first, second, strict=True):
        assert a.shape == b.shape
        assert np.abs(a.astype(int) - b).max() <= 1


def test_makes_the_video_of_the_torch_engine(machine: Machine, student: Student, picture: Frames) -> None:
    with Stream(student, seed=5) as stream:
        expected = chunks(stream, 7, picture, "a cat", tracks())
    with Stream(machine.open(), seed=5) as stream:
        made = chunks(stream, 7, picture, "a cat", tracks())

    assert_close(made, expected)


@pytest.mark.parametrize(
    "context",
    [
        ContextConfig(chunk_frames=2, sink_frames=2, window_frames=4),
        ContextConfig(chunk_frames=3, sink_frames=0, window_frames=6, rope="absolute"),
        ContextConfig(chunk_frames=3, sink_frames=3, window_frames=0),
        ContextConfig(chunk_frames=3, sink_frames=1, window_frames=2),  # its window moves every second chunk
        ContextConfig(chunk_frames=2, sink_frames=1, window_frames=5, rope="absolute"),
    ],
)
def test_every_context_goes_round_the_ring(context: ContextConfig, tmp_path: Path) -> None:
    student = tiny_student(context=context)
    with Stream(student) as stream:
        expected = chunks(stream, 8, None, "dog", tracks())
    with Stream(Machine(student, tmp_path).open()) as stream:
        assert_close(chunks(stream, 8, None, "dog", tracks()), expected)


@pytest.mark.parametrize(
    "context",
    [
        ContextConfig(chunk_frames=1, sink_frames=1, window_frames=2, rope="absolute"),
        ContextConfig(chunk_frames=2, sink_frames=2, window_frames=4),  # moved by one frame, once: copies in a row
    ],
)
def test_given_first_frame_is_written_before_the_first_chunk(
    context: ContextConfig, tmp_path: Path, picture: Frames
) -> None:
    student = without_tracks(context=context)
    with Stream(student) as stream:
        expected = chunks(stream, 5, picture, "snow")
    with Stream(Machine(student, tmp_path).open()) as stream:
        assert_close(chunks(stream, 5, picture, "snow"), expected)


def test_addresses_are_given_once_and_the_steady_chunk_is_one_graph(machine: Machine, picture: Frames) -> None:
    with Stream(machine.open()) as stream:
        chunks(stream, 2, picture, "a cat", tracks())
        bound = {name: context.bound for name, context in machine.trt.contexts.items()}
        for _ in range(4):
            stream.step()

        assert {name: context.bound for name, context in machine.trt.contexts.items()} == bound
        assert bound["denoise"] == len(machine.trt.specs["denoise"].inputs + machine.trt.specs["denoise"].outputs)
        assert machine.cuda.names().count("cudaStreamBeginCapture") == 1
        assert len(machine.cuda.replayed) == 4
    stages = [name for name in machine.cuda.replayed[0] if name not in ("copy", "external event")]
    assert stages == ["roll", "points", "layers", "compose", "tracks", *["denoise"] * 3, "decode", "denoise"]


def test_the_loop_allocates_nothing(machine: Machine, picture: Frames) -> None:
    with Stream(machine.open()) as stream:
        chunks(stream, 3, picture, "a cat", tracks())
        before = len(machine.cuda.calls)
        for _ in range(3):
            stream.step()
    inside = {name for name, _ in machine.cuda.calls[before:]}

    made = {"cudaMalloc", "cudaMallocHost", "cudaStreamCreateWithFlags", "cudaEventCreateWithFlags"}
    assert "cudaGraphLaunch" in inside
    assert not inside & made


def test_a_chunk_waits_for_the_device_once(machine: Machine, picture: Frames) -> None:
    with Stream(machine.open()) as stream:
        chunks(stream, 3, picture, "a cat", tracks())
        before = machine.cuda.names().count("cudaStreamSynchronize")
        stream.step()
        assert machine.cuda.names().count("cudaStreamSynchronize") == before + 1


COSTS = {"roll": 1.0, "points": 2.0, "tracks": 3.0, "denoise": 10.0, "decode": 7.0}
"""Milliseconds on the device."""


@pytest.mark.parametrize("captured", [True, False])
def test_stage_times_are_those_of_the_device(
    machine: Machine, picture: Frames, captured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MS_INFER_NO_CUDA_GRAPH", str(int(not captured)))
    machine.cuda.cost |= COSTS
    with Stream(machine.open()) as stream:
        stream.start(picture, "a cat", tracks())
        timings = [stream.step().timings for _ in range(6)]

    assert bool(machine.cuda.replayed) == captured
    assert "write_cache" not in timings[0]  # it was under way when the first frames were out
    for took in timings[3:]:
        assert {name: took[name] for name in STAGES} == {"begin": 6, "denoise": 30, "decode": 7, "write_cache": 10}


def test_a_failed_chunk_leaves_no_times_behind(machine: Machine, picture: Frames) -> None:
    machine.cuda.cost |= COSTS
    with Stream(machine.open()) as stream:
        chunks(stream, 3, picture, "a cat", tracks())
        machine.cuda.fail["cudaMemcpyAsync"] = 1
        with pytest.raises(DeviceError):
            stream.step()
        first, second = stream.step().timings, stream.step().timings

    assert (first["denoise"], first["write_cache"], second["write_cache"]) == (30, 10, 10)


def test_caches_are_written_where_they_are_read(machine: Machine) -> None:
    machine.open()
    for context in machine.trt.contexts.values():
        for old, new in context.spec.aliases:
            assert context.addresses[old] == context.addresses[new]
    roll, denoise = machine.trt.contexts["roll"], machine.trt.contexts["denoise"]
    assert roll.addresses["k_cache_1"] == denoise.addresses["k_cache_1"]
    assert roll.addresses["sink_k_0"] == denoise.addresses["sink_k_0"]


def test_no_two_tensors_overlap(machine: Machine) -> None:
    machine.open()
    for context in machine.trt.contexts.values():
        new = {name for _, name in context.spec.aliases}
        tensors = [t for t in (*context.spec.inputs, *context.spec.outputs) if t.name not in new]
        spans = sorted((context.addresses[t.name], t.nbytes, t.name) for t in tensors)
        for (start, size, name), (following, _, other) in itertools.pairwise(spans):
            assert start + size <= following, f"{context.spec.name}: {name} runs into {other}"


def test_decoder_and_clean_pass_have_scratch_memory_of_their_own(machine: Machine) -> None:
    machine.open()
    scratch = {name: context.scratch for name, context in machine.trt.contexts.items()}

    assert scratch["decode"] != scratch["denoise"]
    assert scratch["text"] not in (scratch["decode"], scratch["denoise"])
    assert scratch["roll"] == scratch["denoise"]


def test_without_graphs_the_video_is_the_same(
    machine: Machine, tmp_path: Path, picture: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Stream(machine.open()) as stream:
        expected = chunks(stream, 4, picture, "a cat", tracks())
    monkeypatch.setenv("MS_INFER_NO_CUDA_GRAPH", "1")
    other = Machine(machine.trt.student, tmp_path / "other")
    with Stream(other.open()) as stream:
        made = chunks(stream, 4, picture, "a cat", tracks())

    assert "cudaStreamBeginCapture" not in other.cuda.names()
    for a, b in zip(made, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_failed_chunk_can_be_made_again(machine: Machine, tmp_path: Path, picture: Frames) -> None:
    with Stream(Machine(machine.trt.student, tmp_path / "other").open()) as stream:
        expected = chunks(stream, 5, picture, "a cat", tracks())
    with Stream(machine.open()) as stream:
        made = chunks(stream, 3, picture, "a cat", tracks())
        machine.cuda.fail["cudaMemcpyAsync"] = 1  # the frames' way back
        with pytest.raises(DeviceError, match="cudaMemcpyAsync"):
            stream.step()
        made += [stream.step().frames for _ in range(2)]

    for a, b in zip(made, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_failed_capture_leaves_capture_mode(machine: Machine, picture: Frames) -> None:
    with Stream(machine.open()) as stream:
        chunks(stream, 2, picture, "a cat", tracks())
        machine.trt.contexts["decode"].engine.broken = "enqueue"
        with pytest.raises(DeviceError, match="failed to start decode"):
            stream.step()
        machine.trt.contexts["decode"].engine.broken = ""
        stream.step()

        assert len(machine.cuda.replayed) == 1


def test_snapshot_and_restore_go_on_bit_for_bit(machine: Machine, tmp_path: Path, picture: Frames) -> None:
    with Stream(machine.open()) as stream:
        chunks(stream, 3, picture, "a cat", tracks())
        stream.snapshot(tmp_path / "stream.safetensors")
        expected = [stream.step().frames for _ in range(3)]
    with Stream(Machine(machine.trt.student, tmp_path / "other").open()) as stream:
        stream.restore(tmp_path / "stream.safetensors")
        made = [stream.step().frames for _ in range(3)]

    for a, b in zip(made, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_foreign_snapshot_is_refused_whole(machine: Machine, picture: Frames) -> None:
    engine = machine.open()
    with Stream(engine) as stream:
        chunks(stream, 2, picture, "a cat", tracks())
        state, before = stream.state(), engine.state()
        parts = {**state.engine, "history.track": np.ones_like(state.engine["history.track"])}
        parts["cache.v_cache_1"] = parts["cache.v_cache_1"][:, :, :-1]
        with pytest.raises(ConfigError, match=r"cache v_cache_1 is .*this stream needs"):
            stream.load_state(replace(state, engine=parts))
        for name, array in engine.state().items():
            np.testing.assert_array_equal(array, before[name])


def test_recache_encodes_the_remembered_latents_under_the_new_prompt(machine: Machine, picture: Frames) -> None:
    with Stream(machine.open()) as stream:
        chunks(stream, 5, picture, "a cat", tracks())
        denoise = machine.trt.contexts["denoise"]
        values = {s.name: denoise._view(s) for s in denoise.spec.inputs if s.name.startswith("v_cache")}
        before = {name: view.copy() for name, view in values.items()}
        stream._engine.set_text(stream._engine.embed("a dog"))
        stream._engine.recache(replace_sink=False)

        np.testing.assert_array_equal(values["v_cache_0"], before["v_cache_0"])  # no prompt has entered yet
        changed = (values["v_cache_1"] != before["v_cache_1"]).any(axis=(0, 1, 3))
        sink = stream.config.sink_tokens
        assert changed[sink:].all(), "the whole window is encoded again"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"arch": "sm_120"}, "GPU here is sm_90"),
        ({"version": "1.4.0.76"}, "version here is 1.7"),
        ({"options": {"library": "tensorrt", "graphs": "fp32"}}, "library here is tensorrt_rtx"),
    ],
)
def test_engines_of_another_machine_are_refused(
    student: Student, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(EngineMismatchError, match=f"{words}.*ms-export"):
        Machine(student, tmp_path, **changes).open()


def test_another_precision_is_refused(machine: Machine) -> None:
    with pytest.raises(EngineMismatchError, match=r"precision here is bf16.*--target rtx --dtype bf16"):
        machine.open(precision="bf16")


def test_an_unknown_precision_is_refused(machine: Machine) -> None:
    with pytest.raises(ConfigError, match="int8"):
        machine.open(precision="int8")


def test_a_bundle_without_tensorrt_engines_is_refused(machine: Machine) -> None:
    import dataclasses

    machine.manifest = dataclasses.replace(machine.manifest, engines={})
    with pytest.raises(EngineMismatchError, match=r"holds no TensorRT engines.*--target rtx"):
        machine.open()


def test_the_library_says_why_an_engine_does_not_run(machine: Machine) -> None:
    import tensorrt_rtx

    machine.trt.refuse = int(tensorrt_rtx.EngineInvalidityDiagnostics.UNSUPPORTED_CC)
    with pytest.raises(EngineMismatchError, match=r"UNSUPPORTED_CC.*--target rtx"):
        machine.open()


@pytest.mark.parametrize("wrong", ["alias", "shape"])
def test_an_engine_of_another_graph_is_refused(machine: Machine, wrong: str) -> None:
    machine.trt.broken["denoise"] = wrong
    with pytest.raises(EngineMismatchError, match="engine of denoise is not that of this bundle"):
        machine.open()


def test_full_memory_is_a_device_error_and_frees_what_was_taken(machine: Machine) -> None:
    machine.trt.broken["denoise"] = "context"
    with pytest.raises(DeviceError, match="memory"):
        machine.open()
    assert not machine.cuda.blocks


def test_an_engine_that_cannot_be_captured_says_what_to_set(machine: Machine, picture: Frames) -> None:
    machine.trt.broken["decode"] = "capture"
    with Stream(machine.open()) as stream:
        chunks(stream, 2, picture, "a cat", tracks())
        with pytest.raises(DeviceError, match="MS_INFER_NO_CUDA_GRAPH=1"):
            stream.step()


def test_close_frees_everything_once_and_keeps_compiled_kernels(machine: Machine, cache: Path) -> None:
    engine = machine.open()
    engine.close()
    engine.close()

    assert not machine.cuda.blocks
    assert len(machine.cuda.freed) == len(set(machine.cuda.freed))
    assert {file.read_bytes() for file in (cache / "jit").iterdir()} == {b"compiled kernels"}


def test_a_machine_without_a_gpu_is_told(machine: Machine) -> None:
    machine.cuda.devices = 0
    with pytest.raises(DeviceError, match="CUDA sees none"):
        machine.open()


def test_the_cpu_is_refused_as_a_device(machine: Machine) -> None:
    with pytest.raises(DeviceError, match="'cuda', not on 'cpu'"):
        open_tensorrt(machine.manifest, device="cpu")
