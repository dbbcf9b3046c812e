"""Prompts that come over several chunks, and prompts that come by themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ms_infer.serve.protocol import BadMessage, read_control
from tests.serve.live import Page, Running, running
from tests.serve.moving_picture import MovingPicture


@pytest.fixture
def server() -> Iterator[Running]:
    with running(lambda: MovingPicture(size=64), fps=96.0, rest=True) as made:
        yield made


def playing(server: Running) -> MovingPicture:
    stream = next(one for one in server.streams if one.controls)
    assert isinstance(stream, MovingPicture)
    return stream


def test_prompt_comes_over_so_many_chunks_and_the_picture_does_not_rest_meanwhile(server: Running) -> None:
    with Page(server) as page:
        page.send("start", prompt="day")
        page.until(lambda: page.stats.get("resting"))
        before = page.acks[-1].chunk
        control = page.send("prompt", text="night", over=12, way="slerp", recache=True)
        page.until(lambda: page.acks[-1].prompt == control)
        page.until(lambda: page.acks[-1].chunk >= before + 12)
        stream = playing(server)
        assert stream.prompts[-1] == "night"
        assert stream.blends[-1][1:] == (12, "slerp", True)


def test_scheduled_prompts_come_at_their_times(server: Running) -> None:
    with Page(server) as page:
        page.send("start", prompt="day")
        page.until(lambda: page.acks)
        control = page.send("schedule", prompts=[[0.5, "dusk"], [1.0, "night"]], over=2)
        page.until(lambda: page.stats.get("resting"))  # and not before the last one has come
        stream = playing(server)
        assert stream.prompts[-2:] == ["dusk", "night"]
        first, second = (frame for frame, *_ in stream.blends[-2:])
        assert 48 - 12 <= second - first <= 48 + 12  # half a second at 96 frames per second
        assert [over for _, over, *_ in stream.blends[-2:]] == [2, 2]
        assert page.acks[-1].prompt == control


@pytest.mark.parametrize("ends", ["prompt", "schedule", "start"])
def test_what_is_left_of_a_schedule_ends(server: Running, ends: str) -> None:
    with Page(server) as page:
        page.send("start", prompt="day")
        page.until(lambda: page.acks)
        page.send("schedule", prompts=[[2.0, "night"]])
        content: dict[str, Any] = {"prompt": {"text": "noon"}, "schedule": {"prompts": []}, "start": {}}[ends]
        page.send(ends, **content)
        page.until(lambda: page.stats.get("resting"))  # nothing is to come any more
        assert "night" not in playing(server).prompts


@pytest.mark.parametrize(
    "wrong",
    [
        '"prompts":[[2,"a"],[1,"b"]]',
        '"prompts":[[-1,"a"]]',
        '"prompts":[[0,"a"]],"over":0',
        '"prompts":[[0,"a"]],"way":"x"',
    ],
)
def test_wrong_schedules_are_refused(wrong: str) -> None:
    with pytest.raises(BadMessage, match="schedule"):
        read_control(b'{"do":"schedule",' + wrong.encode() + b"}")
