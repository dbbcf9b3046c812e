"""Whose a session is: come back to, forked, watched, taken over, given up, waited for, kept in a file."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest

from ms_infer.serve.settings import Limits
from tests.serve.live import Page, Running, running
from tests.serve.moving_picture import MovingPicture

FPS = 48.0
LIMITS = Limits(takeover_seconds=0.3, resume_seconds=20.0)


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(fps=FPS, max_sessions=64, min_fps=0.01, limits=LIMITS) as made:
        yield made


def started(server: Running, **content: object) -> Page:
    page = Page(server)
    page.send("start", **content)
    page.until(lambda: len(page.frames) >= 3)
    return page


def known(page: Page) -> dict[str, str]:
    return {"session": page.hello["session"], "key": page.hello["key"]}


def watching(server: Running, page: Page) -> Page:
    watcher = Page(server, join=False)
    watcher.join(watch=True, session=page.hello["session"])
    return watcher


# ---- who may come back


@pytest.mark.parametrize("session", ["deadbeef", "another"])
def test_unknown_session_is_told_and_not_silently_a_new_one(server: Running, session: str) -> None:
    with Page(server, join=False) as page:
        count = len(server.app.state.hub.sessions)
        page.join(session=session, key="whatever")
        assert page.errors[0]["reason"] == "gone"
        assert not page.hello
        assert len(server.app.state.hub.sessions) == count
        page.join()  # the same connection may have a new one
        page.until(lambda: page.hello)


def test_wrong_key_opens_nothing(server: Running) -> None:
    with Page(server) as page, Page(server, join=False) as other:
        other.join(session=page.hello["session"], key="guess")
        assert other.errors[0]["reason"] == "gone"


# ---- two futures of one picture


def test_fork_goes_on_from_the_same_moment_alone(server: Running) -> None:
    with started(server, example="kite") as page:
        page.drag((0.5, 0.5), (0.6, 0.5), up=False)
        page.until(lambda: page.frames[-1].chunk >= 4)
        page.send("pause")
        page.until(lambda: page.stats.get("state") == "paused")
        with Page(server, join=False) as other:
            other.join(**known(page), fork=True)
            assert other.hello["owner"]
            assert other.hello["session"] != page.hello["session"]
            assert other.hello["state"] == "paused"
            for one in (page, other):
                one.send("resume")
            seen = page.frames[-1].chunk
            both = [one for one in (page, other)]
            for one in both:
                one.until(lambda one=one: one.frames and one.frames[-1].chunk >= seen + 4)
            common = {ack.chunk for ack in page.acks} & {ack.chunk for ack in other.acks}
            assert max(common) >= seen + 3
            first, second = ({ack.chunk: ack for ack in one.acks} for one in both)
            assert all(np.array_equal(first[n].kinds, second[n].kinds) for n in common)
            assert all(np.array_equal(first[n].points, second[n].points, equal_nan=True) for n in common)
            other.send("clear")  # its future is its own
            other.until(lambda: not other.acks[-1].kinds.any())
            page.quiet(0.3)
            assert page.acks[-1].kinds.any()


def test_fork_needs_the_key(server: Running) -> None:
    with started(server) as page, Page(server, join=False) as other:
        other.join(session=page.hello["session"], key="guess", fork=True)
        assert other.errors[0]["reason"] == "gone"


# ---- taking over


def test_watcher_takes_over_when_the_owner_has_left(server: Running) -> None:
    page = started(server)
    with watching(server, page) as watcher:
        watcher.send("take")
        watcher.until(lambda: watcher.errors)
        assert "somebody has this session" in watcher.errors[0]["text"]
        page.socket.close()
        watcher.until(lambda: watcher.stats.get("free"))
        assert watcher.stats["owner"] is False
        watcher.send("take")
        watcher.until(lambda: watcher.hello["owner"])
        assert watcher.hello["key"] not in ("", page.hello["key"])
        count = len(watcher.frames)
        number = watcher.send("static", points=[[0.5, 0.5]])
        watcher.until(lambda: watcher.frames[-1].control >= number and len(watcher.frames) > count)
        with Page(server, join=False) as back:  # the old key is worth nothing now
            back.join(**known(page))
            assert back.errors[0]["reason"] == "gone"


def test_owner_that_leaves_hands_over_at_once(server: Running) -> None:
    with started(server) as page, watching(server, page) as watcher:
        page.send("leave")
        page.until(lambda: page.byes)
        assert page.byes[0]["reason"] == "left"
        watcher.until(lambda: watcher.stats.get("owner") is False)
        watcher.send("take")
        watcher.until(lambda: watcher.hello["owner"])


def test_session_that_its_only_client_leaves_ends(server: Running) -> None:
    with started(server) as page:
        name = page.hello["session"]
        page.send("leave")
        page.until(lambda: page.byes)
        for _ in range(100):
            if name not in server.app.state.hub.sessions:
                return
            time.sleep(0.05)
        raise AssertionError("the session was kept")


def test_watching_is_possible_while_the_server_is_not_full(server: Running) -> None:
    with started(server) as page, watching(server, page) as watcher:
        watcher.until(lambda: watcher.frames)
        assert not watcher.hello["owner"]


# ---- the line


def test_those_who_wait_come_in_in_their_order() -> None:
    with running(fps=FPS, max_sessions=1) as made, Page(made) as page:
        first, second = Page(made, join=False), Page(made, join=False)
        for number, one in enumerate((first, second), 1):
            one.join()
            assert one.errors[-1]["reason"] == "full"
            assert one.errors[-1]["place"] == number
        page.send("leave")
        page.until(lambda: page.byes)
        while made.app.state.hub.lanes[0].used:
            time.sleep(0.05)
        second.send("join", version=2)
        second.until(lambda: len(second.errors) == 2)
        assert second.errors[-1]["place"] == 2
        first.send("join", version=2)
        first.until(lambda: first.hello)
        second.send("join", version=2)
        second.until(lambda: len(second.errors) == 3)
        assert second.errors[-1]["place"] == 1
        first.socket.close()
        second.socket.close()


def test_who_asks_again_and_again_is_not_sent_away() -> None:
    limits = Limits(join_seconds=2.0)
    with running(fps=FPS, max_sessions=1, limits=limits) as made, Page(made), Page(made, join=False) as waiting:
        for _ in range(6):
            waiting.send("join", version=2)
            waiting.quiet(0.5)
        assert not waiting.byes
        assert {error["place"] for error in waiting.errors} == {1}
        waiting.until(lambda: waiting.byes)  # once it no longer asks
        assert waiting.byes[0]["reason"] == "silent"


def test_who_leaves_the_line_keeps_nobody_back() -> None:
    with running(fps=FPS, max_sessions=1) as made, Page(made) as page:
        with Page(made, join=False) as first:
            first.join()
        with Page(made, join=False) as second:
            second.join()
            second.until(lambda: second.errors)
            page.send("leave")
            while made.app.state.hub.sessions:
                time.sleep(0.05)
            for _ in range(50):
                second.send("join", version=2)
                second.quiet(0.1)
                if second.hello:
                    return
        raise AssertionError("the line does not move")


# ---- a session as a file


def test_snapshot_goes_on_in_another_session(server: Running) -> None:
    with started(server, example="kite", seed=5) as page, server.http() as http:
        page.drag((0.5, 0.5), (0.6, 0.5), up=False)
        page.send("static", points=[[0.2, 0.2]])
        page.until(lambda: (page.acks[-1].kinds == 2).any())
        page.send("pause")
        page.until(lambda: page.stats.get("state") == "paused")
        path = "/api/sessions/{session}/snapshot"
        assert http.get(path.format(**known(page))).status_code == 404
        data = http.get(path.format(**known(page)), headers={"x-session-key": page.hello["key"]}).content
        assert page.hello["key"].encode() not in data
        with Page(server) as other:
            headers = {"x-session-key": other.hello["key"]}
            answer = http.post(path.format(**known(other)), content=data, headers=headers)
            assert answer.status_code == 200
            other.send("resume")
            other.until(lambda: other.frames)
            assert other.frames[0].chunk == answer.json()["chunk"] > 0
            assert (other.acks[0].kinds == 1).sum() == (page.acks[-1].kinds == 1).sum() >= 1
            assert (other.acks[0].kinds == 2).sum() == 1


@pytest.mark.parametrize("cut", [0, 5, 200, -1])
def test_snapshot_that_is_none_changes_nothing(server: Running, cut: int) -> None:
    with started(server) as page, server.http() as http:
        path, headers = f"/api/sessions/{page.hello['session']}/snapshot", {"x-session-key": page.hello["key"]}
        whole = http.get(path, headers=headers).content
        answer = http.post(path, content=whole[:cut], headers=headers)
        assert answer.status_code == 422
        assert "Traceback" not in answer.text
        count = len(page.frames)
        page.until(lambda: len(page.frames) > count + 10)


def test_snapshot_of_other_weights_is_refused() -> None:
    class Other(MovingPicture):
        digest = "1" * 64

    with running(fps=FPS) as one, running(Other, fps=FPS) as two, started(one) as page, Page(two) as other:
        path = "/api/sessions/{session}/snapshot"
        with one.http() as http:
            data = http.get(path.format(**known(page)), headers={"x-session-key": page.hello["key"]}).content
        with two.http() as http:
            headers = {"x-session-key": other.hello["key"]}
            answer = http.post(path.format(**known(other)), content=data, headers=headers)
        assert answer.status_code == 422
        assert "weights" in answer.json()["error"]
        other.send("start")
        other.until(lambda: other.frames)


# ---- several engines


def test_each_lane_has_a_thread_and_takes_the_next_session() -> None:
    alike = 0.1  # seconds a chunk: a lane that is measured at twice the speed would get more sessions
    with running(lambda: MovingPicture(seconds=alike), lanes=2, fps=FPS, max_sessions=4, min_fps=0.01) as made:
        pages = [started(made) for _ in range(4)]
        hub = made.app.state.hub
        assert [lane.used for lane in hub.lanes] == [2, 2]
        for page in pages:
            page.until(lambda page=page: page.frames[-1].chunk >= 3)
        lanes = {id(session.lane): set() for session in hub.sessions.values()}
        for session in hub.sessions.values():
            lanes[id(session.lane)] |= session.stream.threads
        first, second = lanes.values()
        assert first
        assert second
        assert not first & second
        late = Page(made, join=False)
        late.join()
        assert late.errors[0]["reason"] == "full"
        for page in (*pages, late):
            page.socket.close()


def test_lane_that_is_full_fills_no_other() -> None:
    slow = 12 / 15.0  # seconds a chunk: one session gets 15 frames per second, two would get 7.5
    with running(lambda: MovingPicture(seconds=slow), lanes=2, min_fps=10.0) as made:
        pages = [Page(made) for _ in range(2)]
        late = Page(made, join=False)
        late.join()
        assert late.errors[0]["reason"] == "full"
        with made.http() as http:
            text = http.get("/metrics").text
        assert "ms_infer_capacity 2.0" in text
        assert "ms_infer_reserved 2.0" in text
        for page in (*pages, late):
            page.socket.close()
