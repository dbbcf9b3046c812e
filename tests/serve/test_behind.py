"""A server whose sessions stand elsewhere: what takes its time, and what does not come about."""

from __future__ import annotations

import asyncio
from typing import NoReturn

import pytest

from ms_infer.errors import ConfigError
from ms_infer.serve.app import create_app
from ms_infer.serve.directory import Moving, NoDirectory
from ms_infer.serve.lane import Lane
from ms_infer.serve.lanes import OwnLanes
from ms_infer.serve.settings import Limits, ServeConfig
from tests.serve.live import Page, running
from tests.serve.moving_picture import MovingPicture


class Slow(NoDirectory):
    """Another server has the session, and needs a while to hand it over."""

    async def find(self, session: str, key: str) -> bytes | None:
        await asyncio.sleep(3.0)
        return None


def test_who_waits_for_a_session_is_not_taken_for_silent() -> None:
    with running(limits=Limits(join_seconds=2.0)) as made, Page(made, join=False) as page:
        made.app.state.hub.directory = Slow()
        page.join(session="deadbeef", key="whatever")
        assert page.errors[0]["reason"] == "gone"
        assert not page.byes


class Busy(NoDirectory):
    """Somebody else is being given the session."""

    async def find(self, session: str, key: str) -> bytes | None:
        raise Moving


def test_session_that_is_being_moved_is_asked_for_again() -> None:
    with running() as made, Page(made, join=False) as page:
        hub = made.app.state.hub
        hub.directory = Busy()
        page.join(session="deadbeef", key="whatever")
        assert page.errors[0]["reason"] == "loading"  # pages ask again every 3 seconds
        assert hub.lanes.used == 0


class LanesThatWait(OwnLanes):
    """Not ready before it is told."""

    def __init__(self) -> None:
        super().__init__([Lane(MovingPicture)], ServeConfig())
        self.told = asyncio.Event()

    async def warm_up(self) -> None:
        await self.told.wait()
        await super().warm_up()


@pytest.mark.parametrize("in_time", [True, False])
def test_server_beside_others_serves_nobody_before_it_is_ready(in_time: bool) -> None:
    async def begun() -> bool:
        lanes = LanesThatWait()
        app = create_app(ServeConfig(), behind=lambda _: (lanes, NoDirectory()), ready_seconds=30.0 if in_time else 0.1)
        if in_time:
            asyncio.get_running_loop().call_later(0.2, lanes.told.set)
        async with app.router.lifespan_context(app):
            return bool(app.state.hub.ready)

    assert asyncio.run(begun()) == in_time


def test_server_beside_others_that_cannot_get_ready_does_not_start() -> None:
    class Broken(LanesThatWait):
        async def warm_up(self) -> None:
            raise ConfigError("no such source")

    def failed(error: Exception) -> NoReturn:
        raise error

    async def begun() -> None:
        app = create_app(ServeConfig(), behind=lambda _: (Broken(), NoDirectory()), failed=failed, ready_seconds=30.0)
        async with app.router.lifespan_context(app):
            raise AssertionError("it started")

    with pytest.raises(ConfigError, match="no such source"):
        asyncio.run(begun())
