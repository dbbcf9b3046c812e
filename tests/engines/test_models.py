"""Streams of a bundle's model: stages are compiled once, under a lock, checked before use, and can be warmed."""

from __future__ import annotations

import gc
import shutil
import threading
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ms_export import onnx_engine
from numpy.typing import NDArray

from ms_infer import BundleError, Cancelled, Model, Stream, Tracks
from ms_infer.bundle.manifest import Manifest
from ms_infer.engines.openvino import LAZY, OpenVinoModels, open_openvino
from ms_infer.engines.runner import cache_specs
from ms_infer.engines.staged import StagedEngine
from tests.engines.conftest import Made, opened

pytest.importorskip("openvino", reason="no OpenVINO")

Make = Callable[..., Made]
Frames = NDArray[np.uint8]


@pytest.fixture
def manifest(made: Make) -> Manifest:
    return made("tracks")[1]


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each stage was compiled."""
    counts: Counter[str] = Counter()
    compile_one, open_one = OpenVinoModels._compile, onnx_engine.open_session

    def counted(self: OpenVinoModels, stage: str) -> Any:
        counts[stage] += 1
        return compile_one(self, stage)

    def counted_session(path: str, threads: int | None = None) -> Any:
        counts[Path(path).stem] += 1
        return open_one(path, threads)

    monkeypatch.setattr(OpenVinoModels, "_compile", counted)
    monkeypatch.setattr(onnx_engine, "open_session", counted_session)
    return counts


def model_of(manifest: Manifest, engine: str) -> Model:
    if engine == "onnxruntime":
        return Model(onnx_engine.open_onnx(manifest, threads=1))
    return Model(manifest.folder, engine=engine, precision="fp32", threads=1)


def started(stream: Stream) -> Stream:
    picture = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    stream.start(picture, "a cat", Tracks.grid(4, 4).grab((0.4, 0.5), (0.8, 0.5), radius=0.3))
    return stream


def chunks(stream: Stream, count: int = 3) -> list[Frames]:
    return [chunk.frames for chunk in (stream.step() for _ in range(count))]


def engine_of(stream: Stream) -> StagedEngine:
    engine = stream._engine
    assert isinstance(engine, StagedEngine)
    return engine


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_streams_of_many_threads_compile_each_stage_once(
    manifest: Manifest, compiled: Counter[str], engine: str
) -> None:
    results: list[list[Frames]] = []
    with model_of(manifest, engine) as model:
        together = threading.Barrier(3)

        def play() -> None:
            together.wait()
            with model.stream() as stream:
                results.append(chunks(started(stream)))

        threads = [threading.Thread(target=play) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with model.stream() as one, model.stream() as two:
            shared = {id(engine_of(stream).runner._stages._models) for stream in (one, two)}  # type: ignore[attr-defined]
            assert len(shared) == 1
    assert len(results) == 3
    for frames in results[1:]:
        np.testing.assert_array_equal(np.concatenate(frames), np.concatenate(results[0]))
    assert set(compiled.values()) == {1}
    assert {"denoise", "decode", "tracks", "text"} <= set(compiled)


def test_a_changed_stage_is_refused_when_the_bundle_is_opened_not_at_its_first_chunk(
    manifest: Manifest, tmp_path: Path
) -> None:
    assert "tracks" in LAZY
    copy = tmp_path / "bundle"
    shutil.copytree(manifest.folder, copy)
    weights = next(copy.rglob("tracks.bin"))
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    with pytest.raises(BundleError, match=r"tracks.bin was changed after the export"):
        Stream(copy, engine="openvino")


def test_opening_a_bundle_tells_its_files_and_stages(manifest: Manifest) -> None:
    told: list[tuple[str, float]] = []
    with Model(manifest.folder, engine="openvino", progress=lambda *step: told.append(step)):
        pass
    assert [done for _, done in told] == sorted(done for _, done in told)
    assert told[-1] == ("ready", 1.0)
    words = " ".join(doing for doing, _ in told)
    assert "checking" in words
    assert "compiling denoise" in words

    class Enough(Exception):
        pass

    def until_compiling(doing: str, _done: float) -> None:
        if doing.startswith("compiling"):
            raise Enough

    with pytest.raises(Enough):
        Model(manifest.folder, engine="openvino", progress=until_compiling)


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_after_a_warm_up_no_chunk_compiles(manifest: Manifest, compiled: Counter[str], engine: str) -> None:
    with model_of(manifest, engine) as model:
        with model.stream() as cold:
            expected = chunks(started(cold), 4)
        with model.stream() as warm:
            warm.warm_up()
            before = compiled.copy()
            for made, frames in zip(chunks(started(warm), 4), expected, strict=True):
                np.testing.assert_array_equal(made, frames)
            assert compiled == before


@pytest.mark.parametrize("engine", ["openvino fp32", "onnxruntime"])
def test_a_step_is_cancelled_between_two_passes(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    with Model(opened(manifest, engine)) as model, model.stream() as calm, model.stream() as stream:
        expected = chunks(started(calm), 4)
        np.testing.assert_array_equal(started(stream).step().frames, expected[0])
        runner = engine_of(stream).runner
        run_pass, passes = runner._pass, []  # type: ignore[attr-defined]

        def cancelling(inputs: Any) -> None:
            run_pass(inputs)
            passes.append(inputs)
            stream.cancel()

        with monkeypatch.context() as patched:
            patched.setattr(runner, "_pass", cancelling)
            with pytest.raises(Cancelled):
                stream.step()
        assert len(passes) == 1
        for frames in expected[1:]:
            np.testing.assert_array_equal(stream.step().frames, frames)


def test_kept_chunks_of_a_bundle_are_not_overwritten(manifest: Manifest) -> None:
    with Model(opened(manifest, "openvino fp32")) as model, model.stream() as one, model.stream() as two:
        copies = [frames.copy() for frames in chunks(started(one), 4)]
        kept = [started(two).step(), *(two.step() for _ in range(3))]
        for chunk, frames in zip(kept, copies, strict=True):
            np.testing.assert_array_equal(chunk.frames, frames)


def test_keys_and_values_of_a_stream_are_held_once(manifest: Manifest) -> None:
    """OpenVINO holds every state of a model twice; the caches are none, and the library keeps no copy of them."""
    with Model(opened(manifest, "openvino fp32")) as model, model.stream() as one, model.stream() as two:
        for stream in (one, two):
            chunks(started(stream), 2)
        runners = [engine_of(stream).runner for stream in (one, two)]
        for runner in runners:
            request = runner._stages._request("denoise", 0)  # type: ignore[attr-defined]
            assert not request.query_state()
            for spec in cache_specs(runner.specs):
                assert np.shares_memory(request.get_tensor(spec.name).data, runner.array("denoise", spec.name))
        for name in ("k_cache_0", "v_cache_0"):
            first, second = (runner.array("denoise", name) for runner in runners)
            np.testing.assert_array_equal(first, second)
            assert first.any()
            assert not np.shares_memory(first, second)


def test_a_model_that_does_not_fit_the_manifest_is_refused(manifest: Manifest) -> None:
    """So is one of before, whose caches were states."""
    (name, engine), *_ = manifest.engines.items()
    swapped = replace(engine, stages={**engine.stages, "denoise": engine.stages["condition"]})
    with pytest.raises(BundleError, match=r"does not fit the stage 'denoise'.*export again"):
        open_openvino(replace(manifest, engines={name: swapped}))


def test_threads_reach_the_library(manifest: Manifest) -> None:
    with Model(manifest.folder, engine="openvino", threads=1) as model, model.stream() as stream:
        models = engine_of(stream).runner._stages._models  # type: ignore[attr-defined]
        assert models["denoise"].get_property("INFERENCE_NUM_THREADS") == 1


def test_a_closed_stream_is_freed_at_once(manifest: Manifest) -> None:
    gc.collect()
    gc.disable()
    try:
        with model_of(manifest, "onnxruntime") as model:
            streams = [model.stream(), model.stream()]
            engines = [weakref.ref(engine_of(stream)) for stream in streams]
            runners = [weakref.ref(engine_of(stream).runner) for stream in streams]
            for stream in streams:
                stream.close()
            del stream, streams
            assert [engine() is None for engine in engines] == [True, False]  # the last one waits for the next stream
        del model
        assert [runner() for runner in runners] == [None, None]
    finally:
        gc.enable()
