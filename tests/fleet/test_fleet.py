"""What a fleet promises, over Ray Serve: whatever dies, the page sees the frames of plain ms-serve."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from websockets.exceptions import ConnectionClosed

from ms_infer import Stream
from tests.fleet.live import PATIENCE, Fleet, Plain, begin, beside, check, play, shown, until
from tests.fleet.stand_in import StandIn
from tests.serve.live import Page

CHUNKS = 2000  # more than any test plays


@pytest.fixture(scope="module")
def plain() -> Plain:
    return Plain(lambda: StandIn(seconds=0.0, size=1000), 24.0, CHUNKS)


@pytest.fixture
def page(fleet: Fleet) -> Iterator[Page]:
    """A page that has joined a fleet in which nothing is amiss; it leaves afterwards."""
    fleet.until_ready()
    with Page(fleet.server, open_timeout=PATIENCE) as page:
        yield page
        leave(page)


def leave(page: Page) -> None:
    try:
        page.send("leave")
        while True:
            page.read(1)
    except ConnectionClosed:
        pass


@pytest.mark.parametrize("in_a_step", [False, True])
def test_engine_dies(fleet: Fleet, plain: Plain, page: Page, in_a_step: bool) -> None:
    begin(page)
    play(page, 6)
    killed = beside(page, lambda: fleet.kill_engine(in_a_step=in_a_step))
    play(page, 12)
    check(page, plain)
    assert fleet.busy_engine()[0] != killed


def test_engine_dies_after_a_new_start(fleet: Fleet, plain: Plain, page: Page) -> None:
    begin(page, seed=6)
    play(page, 6)
    page.send("clear")
    begin(page)
    page.until(lambda: shown(page) < 6, PATIENCE)
    page.until(lambda: shown(page) >= 3, PATIENCE)
    beside(page, fleet.kill_engine)
    play(page, 8)
    again = next(n for n, one in enumerate(page.frames) if n and one.index == 0)
    page.frames, page.acks = (
        page.frames[again:],
        page.acks[[n for n, one in enumerate(page.acks) if one.first == 0][-1] :],
    )
    check(page, plain)


def test_engines_are_updated(fleet: Fleet, plain: Plain, page: Page) -> None:
    begin(page)
    play(page, 2)
    before = set(fleet.pids("Engine"))
    beside(page, fleet.redeploy)
    assert not before & set(fleet.pids("Engine"))
    play(page, shown(page) + 3)
    check(page, plain)


def test_keeper_dies(fleet: Fleet, plain: Plain, page: Page) -> None:
    begin(page)
    play(page, 5)
    beside(page, fleet.kill_keeper)
    play(page, 8)
    beside(page, lambda: until(lambda: fleet.status()["states"] == 1))
    beside(page, fleet.kill_engine)
    play(page, shown(page) + 3)
    check(page, plain)


def test_page_comes_back_through_another_gateway(fleet: Fleet, plain: Plain, page: Page) -> None:
    begin(page)
    play(page, 5)
    known = {"session": page.hello["session"], "key": page.hello["key"]}
    with Page(fleet.server, join=False, open_timeout=PATIENCE) as back:
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(ended, page)
            back.join(**known)
            back.until(lambda: back.hello or back.errors, PATIENCE)
            reading.result(PATIENCE)
        assert page.byes[-1]["reason"] == "moved"  # not "replaced": the other gateway has it now
        assert back.hello["session"] == known["session"]
        play(back, shown(page) + 3)
        assert back.acks[0].chunk == page.acks[-1].chunk + 1  # all was shown, nothing twice
        check(back, plain, back.acks[0].first)
        leave(back)


def ended(page: Page) -> None:
    try:
        while True:
            page.read(PATIENCE)
    except ConnectionClosed:
        pass


def test_gateway_dies(fleet: Fleet, plain: Plain, page: Page) -> None:
    """The page comes back, and goes on from the newest state, not from the beginning."""
    begin(page)
    play(page, 7)
    before = fleet.pids("Gateway")
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)
    ended(page)
    until(lambda: len(set(fleet.pids("Gateway")) - set(before)) == fleet.config.gateways)
    until(fleet.answers)
    with Page(fleet.server, join=False, open_timeout=PATIENCE) as back:
        back.join(session=page.hello["session"], key=page.hello["key"])
        back.until(lambda: back.hello, PATIENCE)
        play(back, 8)
        assert back.frames[0].chunk >= 4
        leave(back)


def test_more_pages_than_seats(fleet: Fleet) -> None:
    """Twenty at the same time: as many as there are seats are let in, and not one more."""
    fleet.until_ready()
    pages = [Page(fleet.server, join=False, open_timeout=PATIENCE) for _ in range(20)]
    joining = [threading.Thread(target=page.join) for page in pages]
    for thread in joining:
        thread.start()
    for thread in joining:
        thread.join(PATIENCE)
    let_in = [page for page in pages if page.hello]
    refused = [page for page in pages if page.errors]
    assert len(let_in) == fleet.config.replicas * fleet.config.max_sessions
    assert {page.errors[0]["reason"] for page in refused} == {"full"}
    assert len(let_in) + len(refused) == 20
    for page in pages:
        leave(page) if page.hello else page.socket.close()


def test_demo_outlives_its_engine(fleet: Fleet) -> None:
    """The same with the model that comes with the package."""
    fleet.until_ready()
    fleet.begin_again(opens="", save_chunks=2, fps=4.0, min_fps=0.01)
    expected = Plain(lambda: Stream("demo"), 4.0, 8)
    with Page(fleet.server, open_timeout=PATIENCE) as page:
        begin(page)
        play(page, 4)
        killed = beside(page, fleet.kill_engine)
        play(page, 7)
        check(page, expected)
        assert beside(page, fleet.busy_engine)[0] != killed
        leave(page)
