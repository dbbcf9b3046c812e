"""What only a GPU can confirm of the TensorRT engine. docs/engines/tensorrt.md has the commands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from ms_export.verify import example_inputs
from numpy.typing import NDArray

from ms_infer import Stream, Tracks
from ms_infer.bundle.manifest import Manifest, load_manifest
from ms_infer.bundle.stages import StageSpec, TensorSpec
from ms_infer.engines.base import STAGES
from ms_infer.engines.staged import StagedEngine
from ms_infer.engines.tensorrt import TensorRtRunner, open_tensorrt
from ms_infer.engines.tensorrt.library import TensorRt, load
from ms_infer.engines.tensorrt.stage import LoadedStage, new_runtime
from ms_infer.engines.torch import TorchEngine
from ms_infer.environment import env
from tests.tiny import tiny_student

WIDE = {"dim": 96, "heads": 3, "ffn_dim": 128, "size": 64}
CHUNKS = 8


def library() -> TensorRt:
    for module in ("tensorrt", "tensorrt_rtx"):
        try:
            __import__(module)
        except ImportError:
            continue
        return load("trt" if module == "tensorrt" else "rtx")
    pytest.skip("neither tensorrt nor tensorrt_rtx is installed")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """A small student's bundle in bf16: the one that MS_INFER_TEST_BUNDLE names, else exported here."""
    carried = env("TEST_BUNDLE")
    if carried:
        return load_manifest(carried)
    pytest.importorskip("onnxscript", reason="needs the extra [export], or MS_INFER_TEST_BUNDLE")
    from ms_export.exporter import export_bundle
    from ms_export.options import ExportOptions

    options = ExportOptions(targets=(library().kind,), dtype="bf16")
    return export_bundle(tiny_student(**WIDE), "0" * 64, tmp_path_factory.mktemp("bundle"), options).manifest


def start(stream: Stream) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    stream.start(picture, "a cat", Tracks.grid(4, 4).drag((0.4, 0.5), (0.8, 0.5)))


def rollout(engine: Any, chunks: int = CHUNKS) -> list[NDArray[np.uint8]]:
    with Stream(engine, seed=3) as stream:
        start(stream)
        return [stream.step().frames for _ in range(chunks)]


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    error = np.mean((a.astype(np.float64) - b) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def test_the_video_is_that_of_the_torch_engine(manifest: Manifest) -> None:
    expected = rollout(TorchEngine(tiny_student(**WIDE), device="cuda", precision="bf16"))
    made = rollout(open_tensorrt(manifest))
    quality = [psnr(a, b) for a, b in zip(made, expected, strict=True)]
    assert min(quality[:3]) >= 30, quality


def test_replays_equal_launches_one_by_one_bit_for_bit(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = open_tensorrt(manifest)
    captured = rollout(engine)
    assert runner_of(engine).launches >= CHUNKS - 3
    monkeypatch.setenv("MS_INFER_NO_CUDA_GRAPH", "1")
    for a, b in zip(captured, rollout(open_tensorrt(manifest)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_frames_are_whole_when_their_event_fires(manifest: Manifest) -> None:
    """`decode` waits for an event recorded inside the graph; the frames must be those after everything is done."""
    engine = open_tensorrt(manifest)
    with Stream(engine, seed=3) as stream:
        start(stream)
        for _ in range(CHUNKS):
            frames = stream.step().frames
            torch.cuda.synchronize()
            np.testing.assert_array_equal(_device_frames(engine), frames)


def runner_of(engine: StagedEngine) -> TensorRtRunner:
    assert isinstance(engine.runner, TensorRtRunner)
    return engine.runner


def _device_frames(engine: StagedEngine) -> NDArray[np.uint8]:
    stage = "decode_first" if engine._plan.opening else "decode"
    runner, output = runner_of(engine), engine.specs[stage].outputs[0]
    frames = np.empty(output.shape, np.uint8)
    address = runner.memory.address(stage, output)
    runner._cuda.copy(int(frames.ctypes.data), address, frames.nbytes, runner._streams["decode"])
    runner._cuda.synchronize(runner._streams["decode"])
    return frames


def test_stage_times_are_there_and_plausible(manifest: Manifest) -> None:
    with Stream(open_tensorrt(manifest), seed=3) as stream:
        start(stream)
        timings = [stream.step().timings for _ in range(CHUNKS)][-1]
    assert all(timings[stage] > 0 for stage in STAGES)
    assert timings["begin"] + timings["denoise"] + timings["decode"] < timings["chunk"] * 1.5


def test_a_chunk_writes_only_its_own_slots(manifest: Manifest) -> None:
    engine = open_tensorrt(manifest)
    with Stream(engine, seed=3) as stream:
        start(stream)
        for _ in range(4):
            stream.step()
        before = engine.state()["cache.all"]
        stream.step()
        changed = float(np.mean(engine.state()["cache.all"] != before))
    context = engine.config.context
    share = (context.chunk_frames + context.sink_frames) / context.cache_frames
    assert 0 < changed <= share


def test_device_memory_stays_as_it_is(manifest: Manifest) -> None:
    with Stream(open_tensorrt(manifest), seed=3) as stream:
        start(stream)
        for _ in range(4):
            stream.step()
        free = torch.cuda.mem_get_info()[0]
        for _ in range(50):
            stream.step()
        assert torch.cuda.mem_get_info()[0] == free


def test_snapshot_goes_on_bit_for_bit(manifest: Manifest, tmp_path: Path) -> None:
    with Stream(open_tensorrt(manifest), seed=3) as stream:
        start(stream)
        for _ in range(4):
            stream.step()
        stream.snapshot(tmp_path / "s.safetensors")
        expected = [stream.step().frames for _ in range(3)]
    with Stream(open_tensorrt(manifest)) as stream:
        stream.restore(tmp_path / "s.safetensors")
        for frames in expected:
            np.testing.assert_array_equal(stream.step().frames, frames)


class Bound:
    """A stage on tensors of torch."""

    def __init__(self, found: TensorRt, spec: StageSpec, plan: Path, folder: Path) -> None:
        self.stage = LoadedStage(found, new_runtime(found), spec, plan, folder / "jit")
        kinds = {t.name: t for t in (*spec.inputs, *spec.outputs)}
        aliased = {new for _, new in spec.aliases}
        self.tensors = {n: self._zeros(t) for n, t in kinds.items() if n not in aliased}
        self.scratch = torch.empty(max(self.stage.scratch_bytes, 256), dtype=torch.uint8, device="cuda")
        address: Callable[[TensorSpec], int] = lambda t: self.tensors[t.name].data_ptr()  # noqa: E731
        self.stage.bind(address, self.scratch.data_ptr(), self.stage.scratch_bytes)

    @staticmethod
    def _zeros(tensor: TensorSpec) -> torch.Tensor:
        return torch.zeros(tensor.shape, dtype=getattr(torch, tensor.dtype), device="cuda")

    def run(self) -> None:
        cuda_stream = torch.cuda.Stream()
        cuda_stream.wait_stream(torch.cuda.current_stream())
        self.stage.enqueue(cuda_stream.cuda_stream)
        cuda_stream.synchronize()


def _attend(tmp_path: Path, attention: str) -> None:
    """Write a chunk at slot 16, attend to 24 keys, compare with scaled_dot_product_attention."""
    pytest.importorskip("onnx", reason="needs the extra [export]")
    from ms_export.tensorrt.build import PlanOptions, build_plan

    from tests.trt_graphs import attention_graph, attention_spec

    found, spec = library(), attention_spec(head_dim=64)
    options = PlanOptions(dtype="fp16", attention=attention)  # type: ignore[arg-type]
    plan = build_plan(found, attention_graph(tmp_path / "a.onnx", spec), spec, options)
    (tmp_path / "a.plan").write_bytes(plan.data)
    bound = Bound(found, spec, tmp_path / "a.plan", tmp_path)
    torch.manual_seed(0)
    for name in ("q", "k", "values", "k_cache_0"):
        bound.tensors[name].normal_()
    bound.tensors["write_index"].fill_(16)
    bound.tensors["n_valid"].fill_(24)
    keys = bound.tensors["k_cache_0"].clone()
    keys[:, :, 16:24] = bound.tensors["k"]
    expected = F.scaled_dot_product_attention(bound.tensors["q"], keys[:, :, :24], bound.tensors["values"][:, :, :24])
    bound.run()

    torch.testing.assert_close(bound.tensors["k_cache_0"], keys, rtol=0, atol=0)
    torch.testing.assert_close(bound.tensors["mixed"], expected, rtol=1e-2, atol=1e-2)


def test_native_attention_sees_the_valid_keys_and_writes_in_place(tmp_path: Path) -> None:
    _attend(tmp_path, "native")


def test_the_plugin_does_the_same(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt", reason="plugins need tensorrt, not tensorrt_rtx")
    from ms_export.tensorrt.plugin import register

    major, minor = torch.cuda.get_device_capability()
    register(load("trt"), f"sm_{major}{minor}", "fp16")
    _attend(tmp_path, "plugin")


def test_fp8_is_close_to_bf16(manifest: Manifest, tmp_path: Path) -> None:
    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("fp8 needs sm_89")
    pytest.importorskip("onnxscript", reason="needs the extra [export]")
    from ms_export.exporter import export_bundle
    from ms_export.options import ExportOptions

    options = ExportOptions(targets=(library().kind,), dtype="fp8")
    quantised = export_bundle(tiny_student(**WIDE), "0" * 64, tmp_path, options).manifest
    expected, made = rollout(open_tensorrt(manifest), 3), rollout(open_tensorrt(quantised, precision="fp8"), 3)
    assert min(psnr(a, b) for a, b in zip(made, expected, strict=True)) >= 20


@pytest.mark.parametrize("stage", ["points", "compose"])
def test_polygraphy_finds_a_stage_equal_to_onnxruntime(manifest: Manifest, stage: str) -> None:
    """Stages that are float32 on both sides, so that the two libraries can be compared directly."""
    pytest.importorskip("onnxruntime", reason="needs the extra [export]")
    from ms_export.tensorrt.build import _polygraphy

    trt = _polygraphy(library().kind)
    from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx
    from polygraphy.comparator import Comparator, CompareFunc

    spec = manifest.stages["bf16"][stage]
    engine = next(e for e in manifest.engines.values() if e.kind == "tensorrt")
    plan = manifest.path(engine.stages[stage]).read_bytes()
    feed = example_inputs(spec, manifest.config)
    runners = [
        trt.TrtRunner(trt.EngineFromBytes(plan)),
        OnnxrtRunner(SessionFromOnnx(str(manifest.path(manifest.graphs["bf16"][stage])))),
    ]
    results = Comparator.run(runners, data_loader=[feed])
    assert bool(Comparator.compare_accuracy(results, compare_func=CompareFunc.simple(atol=1e-3, rtol=1e-3)))
