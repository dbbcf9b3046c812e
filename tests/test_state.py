"""The state of a stream in memory and in files: complete, small, checked before it changes anything; StateError."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ms_infer import ConfigError, ContextConfig, StateError, Stream, Tracks
from ms_infer.checkpoint import Student
from ms_infer.state import StreamState
from tests.quick import QuickEngine
from tests.tiny import tiny_student, without_tracks

Frames = NDArray[np.uint8]
Store = Callable[[Stream, Stream], None]


@pytest.fixture(scope="module")
def student() -> Student:
    return tiny_student()


@pytest.fixture
def picture() -> Frames:
    return np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)


@pytest.fixture(params=["memory", "file"])
def move(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Makes the second stream go on where the first one stands."""

    def through_a_file(one: Stream, other: Stream) -> None:
        one.snapshot(tmp_path / "s.safetensors")
        other.restore(tmp_path / "s.safetensors")

    return through_a_file if request.param == "file" else lambda one, other: other.load_state(one.state())


def moved() -> Tracks:
    return Tracks.grid(4, 4).drag((0.4, 0.5), (0.8, 0.5), seconds=1.0, radius=0.3)


def chunks(stream: Stream, count: int) -> list[Frames]:
    return [stream.step().frames for _ in range(count)]


def assert_same(first: list[Frames], second: list[Frames]) -> None:
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


CONTEXTS = {
    "the paper's": ContextConfig(),
    "wide": ContextConfig(sink_frames=3, window_frames=6),
    "short first chunk": ContextConfig(sink_frames=2, window_frames=4, first_chunk_frames=1),
    "absolute": ContextConfig(sink_frames=1, window_frames=5, rope="absolute"),
    "no sink": ContextConfig(sink_frames=0, window_frames=4),
    "encoded again": ContextConfig(sink_frames=0, window_frames=3, recompute=True),
}


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("recache", [False, True])
def test_every_chunk_may_be_the_last_before_a_state(context: str, recache: bool, picture: Frames) -> None:
    """A stream whose state is moved to another one after every chunk goes on as if nothing had happened."""
    student = tiny_student(context=CONTEXTS[context])
    with Stream(student) as whole, Stream(student) as one, Stream(student) as other:
        for stream in (whole, one):
            stream.start(picture, "a cat", moved())
        for turn in range(8):
            assert_same(chunks(whole, 1), chunks(one, 1))
            other.load_state(one.state())
            one, other = other, one
            if recache and turn in (3, 5):
                for stream in (whole, one):
                    stream.set_prompt("dog night", recache=True, replace_sink=turn == 5)


@pytest.mark.parametrize("kind", ["tracks", "no tracks", "prompt", "both"])
def test_a_control_that_no_chunk_has_played_is_part_of_the_state(
    kind: str, student: Student, picture: Frames, move: Store
) -> None:
    with Stream(student) as one, Stream(student) as other:
        one.start(picture, "a cat", Tracks.grid(4, 4))
        plain = np.concatenate(chunks(one, 4))
        if kind != "prompt":
            one.set_tracks(None if kind == "no tracks" else moved())
        if kind in ("prompt", "both"):
            one.set_prompt("dog night", replace_sink=True)
        move(one, other)
        expected, made = one.step(), other.step()
        assert made.control_id == expected.control_id > 0
        np.testing.assert_array_equal(made.frames, expected.frames)
        assert_same(chunks(one, 2), chunks(other, 2))
        assert plain.any()


def test_a_state_may_be_loaded_often_and_into_many_streams(student: Student, picture: Frames) -> None:
    with Stream(student) as one, Stream(student) as other:
        one.start(picture, "a cat", moved())
        chunks(one, 3)
        state = one.state()
        expected = chunks(one, 3)
        for _ in range(2):
            for stream in (one, other):
                stream.load_state(state)
                assert_same(expected, chunks(stream, 3))


def test_a_given_image_is_part_of_the_state(picture: Frames, move: Store) -> None:
    with Stream(without_tracks()) as one, Stream(without_tracks()) as other:
        one.start(picture, "a cat")
        chunks(one, 2)
        move(one, other)
        assert_same(chunks(one, 2), chunks(other, 2))


def damages(state: StreamState) -> dict[str, StreamState]:
    """States that no stream of the same kind may take, by what is wrong with them."""
    found: dict[str, StreamState] = {}
    for name, array in state.engine.items():
        rest = {n: a for n, a in state.engine.items() if n != name}
        found[f"no engine {name}"] = replace(state, engine=rest)
        found[f"longer engine {name}"] = replace(state, engine={**rest, name: np.concatenate([array, array])})
        found[f"other type of engine {name}"] = replace(state, engine={**rest, name: array.astype(np.float64)})
    for name, array in state.player.items():
        rest = {n: a for n, a in state.player.items() if n != name}
        found[f"no player {name}"] = replace(state, player=rest)
        found[f"longer player {name}"] = replace(state, player={**rest, name: np.concatenate([array, array])})
    text, counters = state.applied.prompt.text, state.engine["counters"]
    assert text is not None
    bad_text = replace(state.applied, prompt=replace(state.applied.prompt, text=text * np.nan))
    many = replace(state.applied, tracks=replace(state.applied.tracks, id=9, tracks=Tracks.grid(6, 6)))
    return found | {
        "digest": replace(state, digest="0" * 64),
        "index": replace(state, index=state.index + 1),
        "negative index": replace(state, index=-1),
        "huge index": replace(state, index=1 << 62),
        "given": replace(state, given=1),
        "seed": replace(state, seed=-1),
        "image": replace(state, image=np.zeros((8, 8, 3), np.uint8)),
        "text": replace(state, applied=bad_text),
        "pending text": replace(state, pending=bad_text),
        "pending tracks": replace(state, pending=many),
        "older pending": replace(state, applied=many),
        "sink": replace(state, engine={**state.engine, "counters": counters + np.array([0, 99])}),
        "later tracks": replace(state, player={**state.player, "start": state.player["start"] + 10**6}),
        "points": replace(state, player={**state.player, "points": state.player["points"] * np.nan}),
    }


def test_a_refused_state_changes_nothing(student: Student, picture: Frames) -> None:
    """Every part of a state is damaged in turn; the stream that refuses it goes on as if it had never seen it."""
    with Stream(student) as whole, Stream(student) as stream, Stream(student) as source:
        source.start(255 - picture, "snow", Tracks.grid(2, 2))
        chunks(source, 4)
        for one in (whole, stream):
            one.start(picture, "a cat", moved())
            chunks(one, 2)
            one.set_prompt("dog")
        for wrong, state in damages(source.state()).items():
            with pytest.raises(ConfigError):
                pytest.fail(f"took a state with a wrong {wrong}: {stream.load_state(state)}")
        assert whole.step().control_id == 1
        assert stream.step().control_id == 1
        assert_same(chunks(whole, 3), chunks(stream, 3))


def test_a_state_of_other_weights_is_refused(picture: Frames) -> None:
    """One weight that differs by one step is another model."""
    for part in ("transformer", "vae", "track_head"):
        other = tiny_student()
        with torch.no_grad():
            weight = next(getattr(other, part).parameters()).view(-1)[:1]
            weight.copy_(torch.nextafter(weight, torch.ones(1)))
        with Stream(tiny_student()) as one, Stream(other) as two:
            one.start(picture)
            with pytest.raises(ConfigError, match="weights"):
                two.load_state(one.state())


def test_equal_weights_are_the_same_model_wherever_they_lie(picture: Frames) -> None:
    with Stream(tiny_student()) as one, Stream(tiny_student()) as two:
        one.start(picture)
        two.load_state(one.state())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_state_holds_what_the_next_chunk_reads_and_no_more(student: Student, picture: Frames, precision: str) -> None:
    """Sink and window of keys and values, in the cache's own type; not the slots that are written next."""
    with Stream(student, precision=precision) as stream:
        stream.start(picture, "a cat", moved())
        chunks(stream, 6)
        state = stream.state()
        config = stream.config
    tokens = (config.context.sink_frames + config.context.window_frames) * config.tokens_per_frame
    size = {"fp32": 4, "bf16": 2}[precision]
    kept = sum(state.engine[name].nbytes for name in ("k", "v", "sink_k"))
    assert kept == 2 * config.model.layers * tokens * config.model.dim * size
    others = sum(array.nbytes for name, array in state.engine.items() if name.startswith(("decoder", "moved")))
    context, frame = config.context, size * config.model.in_channels * config.latent_height * config.latent_width
    latents = {"history": context.cache_frames * frame, "opening": (context.sink_frames + 2) * frame}
    assert {name: state.engine[name].nbytes for name in latents} == latents
    assert sum(array.nbytes for array in state.engine.values()) == kept + others + sum(latents.values()) + 16


def header_of(path: Path) -> tuple[dict[str, Any], bytes]:
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def write(path: Path, header: dict[str, Any], data: bytes) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def test_a_malformed_snapshot_is_a_config_error(student: Student, picture: Frames, tmp_path: Path) -> None:
    """Every entry of the header is left out and spoilt in turn; bits of the file are flipped."""
    path, broken = tmp_path / "s.safetensors", tmp_path / "broken"
    with Stream(student) as stream:
        stream.start(picture, "a cat", moved())
        chunks(stream, 1)
        stream.set_tracks(Tracks.grid(2, 2))
        stream.set_prompt("snow", recache=True)
        stream.snapshot(path)
        header, data = header_of(path)
        cases: list[tuple[dict[str, Any], bytes]] = [(header, data[:-1]), ({}, data), ({"__metadata__": {}}, b"")]
        for name in header:
            cases.append(({k: v for k, v in header.items() if k != name}, data))
            if name != "__metadata__":
                cases.append(({**header, name: {**header[name], "dtype": "F64"}}, data))
                cases.append(({**header, name: {**header[name], "dtype": "F8_E4M3"}}, data))
        for name in header["__metadata__"]:
            rest = {k: v for k, v in header["__metadata__"].items() if k != name}
            cases.append(({**header, "__metadata__": rest}, data))
            cases += [({**header, "__metadata__": {**rest, name: v}}, data) for v in ("", "x", "-1", "1.5", "9" * 40)]
        refused = 0
        for changed, content in cases:
            write(broken, changed, content)
            try:
                stream.restore(broken)
            except ConfigError:
                refused += 1
        rng, whole = np.random.default_rng(1), path.read_bytes()
        for _ in range(300):
            spoilt = bytearray(whole)
            spoilt[int(rng.integers(0, 8 + len(json.dumps(header))))] ^= 1 << int(rng.integers(0, 8))
            broken.write_bytes(spoilt)
            try:
                stream.restore(broken)
            except ConfigError:
                refused += 1
    assert refused > len(cases)


def test_a_snapshot_of_the_version_before_is_refused(student: Student, tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    with Stream(student) as stream:
        stream.step()
        stream.snapshot(path)
        header, data = header_of(path)
        header["__metadata__"]["format"] = "ms_infer.snapshot/1"
        write(path, header, data)
        with pytest.raises(ConfigError, match="not a snapshot of this version"):
            stream.restore(path)


@pytest.mark.parametrize("seed", [-1, 1 << 64, 1.5, "7"])
def test_a_seed_that_is_none_is_refused(student: Student, seed: Any) -> None:
    with pytest.raises(ConfigError, match=r"from 0 to 2\*\*64 - 1"):
        Stream(student, seed=seed)
    with Stream(student, seed=(1 << 64) - 1) as stream:
        with pytest.raises(ConfigError, match=r"from 0 to 2\*\*64 - 1"):
            stream.start(seed=seed)
        assert stream.step().index == 0


def test_the_largest_seed_survives_a_snapshot(student: Student, tmp_path: Path) -> None:
    with Stream(student, seed=(1 << 64) - 1) as stream, Stream(student) as other:
        stream.step()
        stream.snapshot(tmp_path / "s.safetensors")
        other.restore(tmp_path / "s.safetensors")
        assert other.seed == (1 << 64) - 1
        assert_same(chunks(stream, 1), chunks(other, 1))


def test_calls_at_the_wrong_time_are_state_errors(student: Student, tmp_path: Path) -> None:
    stream = Stream(student)
    for early in (stream.state, lambda: stream.snapshot(tmp_path / "s")):
        with pytest.raises(StateError, match="start"):
            early()
    stream.pause()
    with pytest.raises(StateError, match="resume"):
        stream.step()
    with pytest.raises(StateError, match="resume"):
        next(stream.take(frames=1))
    stream.resume()
    stream.step()
    state = stream.state()
    stream.close()
    late: list[Callable[[], object]] = [
        stream.step,
        stream.start,
        stream.reset,
        stream.state,
        lambda: stream.load_state(state),
        lambda: stream.snapshot(tmp_path / "s"),
        lambda: stream.restore(tmp_path / "s"),
        lambda: stream.set_tracks(None),
        lambda: stream.set_prompt("a"),
    ]
    for call in late:
        with pytest.raises(StateError, match="closed"):
            call()


def test_two_threads_that_step_make_each_chunk_once() -> None:
    """The one that comes while the other works gets a StateError, and nothing else."""
    made: list[int] = []
    refused: list[Exception] = []
    with Stream(QuickEngine()) as stream:
        stream.start()

        def step() -> None:
            for _ in range(1500):
                try:
                    made.append(stream.step().index)
                except Exception as error:
                    refused.append(error)

        threads = [threading.Thread(target=step) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(made) == list(range(len(made)))
    assert {type(error) for error in refused} <= {StateError}


def test_a_busy_stream_refuses_a_second_thread_and_closes_after_its_chunk() -> None:
    inside, go_on, refused = threading.Event(), threading.Event(), []
    engine = QuickEngine()
    stream = Stream(engine)
    stream.start()
    state = stream.state()
    engine.when_text_is_set = lambda: (inside.set(), go_on.wait(20))
    stream.set_prompt("1")
    worker = threading.Thread(target=stream.step)
    worker.start()
    assert inside.wait(20)
    for call in (stream.step, stream.start, stream.reset, stream.state, lambda: stream.load_state(state)):
        with pytest.raises(StateError, match="another thread"):
            call()
        refused.append(call)
    stream.set_tracks(None)
    closer = threading.Thread(target=stream.close)
    closer.start()
    assert not stream._closed
    go_on.set()
    worker.join()
    closer.join()
    assert stream._closed
    assert len(refused) == 5


def test_a_pause_from_another_thread_ends_the_iteration() -> None:
    """However the pause falls, it ends the loop; it is no error."""
    with Stream(QuickEngine()) as stream:
        for _ in range(100):
            pauser = threading.Timer(0.001, stream.pause)
            pauser.start()
            for _chunk in stream:
                pass
            pauser.join()
            stream.resume()


def test_a_start_that_fails_half_way_gives_no_other_stream(student: Student, picture: Frames) -> None:
    def fail(*_: object) -> None:
        raise OSError("injected")

    with Stream(student) as stream, pytest.MonkeyPatch.context() as patch:
        stream.start(picture, "a cat")
        chunks(stream, 1)
        with patch.context() as broken:
            broken.setattr(stream._engine, "set_image", fail)
            with pytest.raises(OSError, match="injected"):
                stream.start(picture)
        with pytest.raises(StateError, match="lost"):
            stream.step()
        stream.start(picture, "a cat")
        assert stream.step().index == 0
