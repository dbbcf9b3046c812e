"""A picture in which nothing moves costs nothing, and moves again at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from safetensors import safe_open

from ms_infer.config import preset
from ms_infer.demo import demo_checkpoint
from ms_infer.serve.protocol import Message
from ms_infer.serve.show import Made
from tests.serve.live import Page, Running, best_pictures, running
from tests.serve.moving_picture import MovingPicture

FPS = 48.0


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with best_pictures(), running(fps=FPS, max_sessions=64, min_fps=0.01, rest=True) as made:
        yield made


def started(server: Running) -> Page:
    page = Page(server)
    page.send("start", example="kite")
    return page


def rested(page: Page) -> int:
    """Wait for the rest; returns the chunk that is shown."""
    page.until(lambda: page.stats.get("resting") is True)
    page.until(page.shown_whole)
    return page.frames[-1].chunk


def flowing() -> MovingPicture:
    """A model whose water goes on flowing."""
    stream = MovingPicture()
    stream.config = replace(stream.config, model=replace(stream.config.model, rests=False))
    return stream


def test_only_the_demo_says_that_it_rests() -> None:
    assert preset("demo").model.rests
    assert not preset("motionstream-1.3b").model.rests


def test_demo_that_comes_with_the_package_says_it_too() -> None:
    with safe_open(demo_checkpoint(), "np") as file:
        settings = json.loads(file.metadata()["config"])
    assert settings["model"]["rests"] is True


def test_nothing_is_made_while_nothing_moves(server: Running) -> None:
    with started(server) as page:
        chunk = rested(page)
        assert page.quiet(1.0) == 0
        page.until(lambda: page.stats.get("dropped") == page.lost())
        assert page.stats["state"] == "running"
        with server.http() as http:
            (session,) = (one for one in http.get("/api/sessions").json()["sessions"] if one["resting"])
        assert session["chunk"] == chunk + 1


@pytest.mark.parametrize(
    ("control", "content"),
    [
        ("prompt", {"text": "night"}),
        ("camera", {"x": 0.5}),
        ("pointers", {"events": [[1, "down", 0, 0.5, 0.5]], "radius": 0.2}),
        ("path", {"points": [[0.5, 0.5], [0.6, 0.5]], "seconds": 0.5}),
        ("static", {"points": [[0.5, 0.5]]}),
        ("reset", {}),
    ],
)
def test_every_control_ends_the_rest_with_the_next_chunk(
    server: Running, control: str, content: dict[str, object]
) -> None:
    with started(server) as page:
        chunk, acks = rested(page), len(page.acks)
        number = page.send(control, **content)
        page.until(lambda: page.stats["resting"] is False)
        page.until(lambda: len(page.acks) > acks)
        ack = page.acks[acks]
        assert ack.control >= number
        assert ack.chunk == (0 if control == "reset" else chunk + 1)
        page.until(lambda: page.frames[-1].control >= number)


def test_what_moves_by_itself_does_not_rest(server: Running) -> None:
    with started(server) as page:
        page.send("camera", zoom=0.1)
        page.until(lambda: page.acks and page.acks[-1].chunk >= 8)
        assert page.stats.get("resting", False) is False
        page.send("camera")
        page.until(lambda: page.stats.get("resting") is True)


def test_first_frame_after_a_rest_is_not_late(server: Running) -> None:
    with started(server) as page:
        rested(page)
        show = server.app.state.hub.sessions[page.hello["session"]].show
        misses, at_frames, usual = show.misses, [], show._show

        async def noted(made: Made, index: int) -> None:
            at_frames.append(show.misses)
            await usual(made, index)

        show._show = noted
        page.send("static", points=[[0.2, 0.2]])
        page.until(lambda: at_frames)
        assert at_frames[0] == misses


def test_watcher_of_a_resting_picture_sees_it(server: Running) -> None:
    with started(server) as page:
        rested(page)
        with Page(server, join=False) as watcher:
            watcher.join(watch=True, session=page.hello["session"])
            watcher.until(lambda: watcher.frames)
            assert watcher.frames[0].picture == page.frames[-1].picture


@pytest.mark.parametrize(
    ("make", "settings"), [(MovingPicture, {"rest": False}), (flowing, {"rest": True})], ids=["--no-rest", "flowing"]
)
def test_rest_needs_the_model_and_the_server(make: Callable[[], MovingPicture], settings: dict[str, bool]) -> None:
    with running(make, fps=FPS, **settings) as made, started(made) as page:
        page.until(lambda: page.frames and page.frames[-1].chunk >= 8)
        assert page.stats.get("resting", False) is False


def test_recording_goes_on_while_nothing_moves(server: Running) -> None:
    with started(server) as page:
        page.send("record", on=True)
        page.until(lambda: page.frames and page.frames[-1].chunk >= 8)
        assert page.stats.get("resting", False) is False
        page.send("record", on=False)
        page.until(lambda: page.stats.get("resting") is True)


def test_rest_is_counted_and_leaves_the_engine_to_others(server: Running) -> None:
    with started(server) as page, server.http() as http:
        rested(page)
        session = server.app.state.hub.sessions[page.hello["session"]]
        assert not session.running
        assert session.due() is None
        page.send("static", points=[[0.2, 0.2]])
        page.until(lambda: page.stats["resting"] is False)
        text = http.get("/metrics").text
        (seconds,) = (line.split()[1] for line in text.splitlines() if line.startswith("ms_infer_rested_seconds_total"))
        assert float(seconds) > 0


def test_control_that_comes_while_the_rest_begins_is_not_lost(server: Running) -> None:
    with started(server) as page:
        rested(page)
        session = server.app.state.hub.sessions[page.hello["session"]]
        page.send("static", points=[[0.2, 0.2]])
        page.until(lambda: page.stats["resting"] is False)
        session.context.call_soon(session.note, Message(id=0))
        session.context.call_soon(session._rest)  # asked for before the control came
        page.until(lambda: page.stats["resting"] is True)
        assert np.isfinite(session.maker.calm)
