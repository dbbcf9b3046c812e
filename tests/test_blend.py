"""One prompt becomes another over several chunks: the numbers, the stream, its states, and the command line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ms_infer import ConfigError, Stream, Tracks
from ms_infer.blend import Blend
from ms_infer.checkpoint import save_student
from ms_infer.cli.prompts import Cue, parse_prompts
from ms_infer.cli.stream import main
from tests.tiny import tiny_student

Array = NDArray[Any]


def rows(*values: tuple[float, float]) -> Array:
    return np.array(values, np.float32)


def test_linear_takes_the_numbers_in_between() -> None:
    old, new = rows((0, 2), (4, 0)), rows((4, 2), (0, 4))
    np.testing.assert_allclose(Blend(4).between(old, new, 1), rows((1, 2), (3, 1)))
    np.testing.assert_array_equal(Blend(4).between(old, new, 4), new)


def test_slerp_turns_every_row_and_changes_its_length() -> None:
    made = Blend(2, "slerp").between(rows((2, 0)), rows((0, 4)), 1)
    np.testing.assert_allclose(made, 3 * rows((0.5**0.5, 0.5**0.5)), rtol=1e-6)


def test_rows_without_an_arc_go_straight() -> None:
    old, new = rows((0, 0), (1, 1), (1, 0), (3, 0)), rows((2, 2), (3, 3), (-1, 0), (0, 0))
    made = Blend(2, "slerp").between(old, new, 1)
    np.testing.assert_allclose(made, (old + new) / 2, atol=1e-6)


@pytest.mark.parametrize("wrong", [{"chunks": 0}, {"chunks": 2.5}, {"way": "cubic"}])
def test_blends_that_are_none_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"takes 1 to|one of linear, slerp"):
        Blend(**wrong)


@contextmanager
def watched(stream: Stream) -> Iterator[list[Any]]:
    """What the engine is given: embeddings, and "recache"."""
    engine, seen = stream._engine, []
    set_text, recache = engine.set_text, engine.recache

    def text(embedding: Array) -> None:
        seen.append(embedding)
        set_text(embedding)

    def again(**options: Any) -> None:
        seen.append("recache")
        recache(**options)

    engine.set_text, engine.recache = text, again  # type: ignore[method-assign]
    yield seen


@pytest.mark.parametrize("way", ["linear", "slerp"])
def test_a_prompt_comes_over_chunks_and_recaches_once_it_is_there(way: str) -> None:
    with Stream(tiny_student()) as stream:
        stream.start(None, "a cat")
        stream.step()
        old, new = stream.embed("a cat"), stream.embed("night snow")
        with watched(stream) as seen:
            stream.set_prompt("night snow", over=3, way=way, recache=True)  # type: ignore[arg-type]
            for _ in range(5):
                stream.step()
    blend = Blend(3, way)  # type: ignore[arg-type]
    assert seen[3:] == ["recache"]
    for chunk, embedding in enumerate(seen[:3], 1):
        np.testing.assert_array_equal(embedding, blend.between(old, new, chunk))


def test_a_newer_prompt_begins_where_the_blend_stands() -> None:
    with Stream(tiny_student()) as stream:
        stream.start(None, "a cat")
        with watched(stream) as seen:
            stream.set_prompt("night snow", over=4)
            stream.step()
            stream.set_prompt("dog", over=2)
            stream.step()
            stream.step()
            stream.step()
        np.testing.assert_array_equal(seen[1], Blend(2).between(seen[0], stream.embed("dog"), 1))
        np.testing.assert_array_equal(seen[2], stream.embed("dog"))
        assert len(seen) == 3


def test_a_chunk_that_failed_is_made_again_with_the_same_share(monkeypatch: pytest.MonkeyPatch) -> None:
    videos = []
    for fails in (False, True):
        with Stream(tiny_student()) as stream:
            stream.start(None, "a cat")
            stream.set_prompt("night snow", over=3)
            stream.step()
            if fails:
                with monkeypatch.context() as patch:
                    patch.setattr(stream._engine, "frames", lambda: 1 / 0)
                    with pytest.raises(ZeroDivisionError):
                        stream.step()
            videos.append([stream.step().frames for _ in range(3)])
    np.testing.assert_array_equal(*videos)


@pytest.mark.parametrize("before", [0, 1, 2, 3])
@pytest.mark.parametrize("file", [False, True])
def test_a_state_between_two_prompts_goes_on_bit_for_bit(before: int, file: bool, tmp_path: Path) -> None:
    student = tiny_student()
    with Stream(student) as one, Stream(student) as other:
        one.start(None, "a cat")
        one.step()
        one.set_prompt("night snow", over=3, way="slerp", recache=True)
        for _ in range(before):
            one.step()
        if file:
            one.snapshot(tmp_path / "s.safetensors")
            other.restore(tmp_path / "s.safetensors")
        else:
            other.load_state(one.state())
        for _ in range(5 - before):
            np.testing.assert_array_equal(other.step().frames, one.step().frames)


def test_prompts_of_the_command_line() -> None:
    assert parse_prompts((), 16) == [Cue(0, "")]
    assert parse_prompts(("16:9 picture of a cat",), 16) == [Cue(0, "16:9 picture of a cat")]
    assert parse_prompts(("0:a cat", "40: a dog: barking", "5s:night"), 16) == [
        Cue(0, "a cat"),
        Cue(40, "a dog: barking"),
        Cue(80, "night"),
    ]
    assert parse_prompts(("0s:a cat", "2.5s:dog"), 16)[1].rgb_frame == 40


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (("a cat", "5s:dog"), "need the time each of them begins"),
        (("0:a cat", "2.5:dog"), "need the time each of them begins"),
        (("1:a cat", "5s:dog"), "must begin with 0 and grow"),
        (("0:a cat", "5s:dog", "80:night"), "must begin with 0 and grow"),
    ],
)
def test_times_that_make_no_sense_are_refused(texts: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_prompts(texts, 16)


def test_ms_stream_changes_the_prompt_at_its_time(tmp_path: Path) -> None:
    """Frame 21 begins the third chunk: the first two have 9 and 12."""
    save_student(tiny_student(), tmp_path / "tiny.safetensors")
    out = tmp_path / "frames"
    prompts = ["--prompt", "0:a cat", "--prompt", "21:night snow", "--prompt-over", "2", "--recache"]
    status = main(
        [str(tmp_path / "tiny.safetensors"), *prompts, "--seconds", "3", "-o", f"{out}/", "-q", "--grid", "2"]
    )
    with Stream(tmp_path / "tiny.safetensors") as stream:
        stream.start(None, "a cat", Tracks.grid(2, 2))
        expected = [stream.step().frames for _ in range(2)]
        stream.set_prompt("night snow", over=2, recache=True)
        expected += [stream.step().frames for _ in range(3)]

    made = [np.asarray(Image.open(path)) for path in sorted(out.glob("*.png"))]
    assert status == 0
    np.testing.assert_array_equal(made, np.concatenate(expected)[: len(made)])
