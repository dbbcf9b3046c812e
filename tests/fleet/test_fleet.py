"""What a fleet promises, over Ray Serve: whatever dies, the page sees the frames of plain ms-serve."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from websockets.exceptions import ConnectionClosed

from ms_infer import ConfigError, Stream
from tests.fleet.live import PATIENCE, Fleet, Plain, begin, beside, check, come_back, play, shown, until
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
    beside(page, fleet.update_engines)
    assert not before & set(fleet.pids("Engine"))
    play(page, shown(page) + 3)
    check(page, plain)


def test_calls_at_the_same_time_reach_the_engines_that_they_mean(fleet: Fleet) -> None:
    from ms_infer.fleet.ray_links import RayLinks, find_keeper

    fleet.until_ready()
    links = RayLinks(find_keeper())
    watching = [links._to(engine).watch.remote(engine) for engine in list(fleet.status()["engines"]) * 50]
    for one in watching:
        one.result(timeout_s=PATIENCE)  # else Lost


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
        assert back.hello["route"] != page.hello["route"]
        assert back.hello["session"] == known["session"]
        play(back, shown(page) + 3)
        assert back.acks[0].chunk == page.acks[-1].chunk + 1  # all was shown, nothing twice
        check(back, plain, back.acks[0].first)
        leave(back)


def test_newer_of_two_windows_has_the_session(fleet: Fleet, page: Page) -> None:
    """The older one is told that it was replaced: it would ask for the session again if that had just moved."""
    known = {"session": page.hello["session"], "key": page.hello["key"]}
    with Page(fleet.server, join=False, open_timeout=PATIENCE) as newer, ThreadPoolExecutor(1) as pool:
        reading = pool.submit(ended, page)
        newer.join(**known)
        newer.until(lambda: newer.hello or newer.errors, PATIENCE)
        reading.result(PATIENCE)
        assert newer.hello["route"] != page.hello["route"]
        assert [bye["reason"] for bye in page.byes] == ["replaced"]
        leave(newer)


def test_requests_about_a_session_reach_its_gateway(fleet: Fleet, page: Page) -> None:
    headers = {"x-session-key": page.hello["key"], "x-session-id": page.hello["route"]}
    with fleet.server.http(timeout=PATIENCE, headers=headers) as http:
        answers = [http.get(f"/api/sessions/{page.hello['session']}/snapshot").status_code for _ in range(10)]
    assert answers == [200] * 10


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


def test_gateways_are_updated(fleet: Fleet, plain: Plain, page: Page) -> None:
    """Pages are told, and come back through whichever gateway takes them: no frame is lost or shown twice."""
    begin(page)
    play(page, 3)
    before, seen, dropped = set(fleet.pids("Gateway")), page, 0
    with ThreadPoolExecutor(1) as pool:
        updating = pool.submit(fleet.update_gateways)
        while not updating.done() or seen.hello["route"] in before:
            ended(seen)
            assert [bye["reason"] for bye in seen.byes] == ["moved"]
            dropped += seen.stats.get("dropped", 0)
            back = come_back(seen)
            back.frames[:0], back.acks[:0] = seen.frames, seen.acks
            seen = back
            until_told(seen, updating)
        updating.result()
    play(seen, shown(seen) + 3)
    check(seen, plain, dropped=dropped)
    leave(seen)


def until_told(page: Page, updating: Future[None]) -> None:
    page.until(lambda: updating.done() or page.byes, PATIENCE)


def test_near_states_that_an_engine_does_not_have_are_refused_at_start(fleet: Fleet) -> None:
    from ray import serve

    from ms_infer.fleet.deploy import deploy, engines

    try:
        with pytest.raises(ConfigError, match=r"--keep near: .* no near states; start the fleet with --keep exact"):
            deploy(engines({**fleet.config.to_dict(), "keep": "near", "replicas": 1}), "refused", None)
    finally:
        serve.delete("refused")


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
