"""More than one person and more than one future: watch, take over, fork, keep and open."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ms_infer.serve.settings import Limits
from tests.browser.conftest import Visit
from tests.browser.test_hand import settled
from tests.browser.test_states import says, start
from tests.serve.live import running
from tests.serve.moving_picture import MovingPicture

Open = Callable[..., Visit]


def test_a_link_lets_watch_although_the_server_is_not_full(visit: Open, stand_in: str) -> None:
    owner = visit(stand_in, permissions=["clipboard-read", "clipboard-write"])
    start(owner)
    owner.tab.click("#link")
    owner.has_said("copied")
    link = owner.state("navigator.clipboard.readText()")
    assert owner.state("page.hello.session") in link
    assert owner.state("page.hello.key") not in link
    watcher = visit(link)
    watcher.is_told("watching")
    watcher.until(lambda: watcher.frames)
    assert watcher.state("page.hello.session") == owner.state("page.hello.session")
    watcher.shoot("share-watching")


def test_a_watcher_takes_over_when_the_owner_has_left(visit: Open) -> None:
    with running(lambda: MovingPicture(size=128), max_sessions=1, limits=Limits(takeover_seconds=0.5)) as made:
        address = f"http://localhost:{made.port}/"
        owner = visit(address)
        start(owner)
        session = owner.state("page.hello.session")
        watcher = visit(f"{address}?watch={session}")
        watcher.is_told("watching")
        owner.tab.close()
        watcher.until(lambda: not made.app.state.hub.sessions[session].owner)
        watcher.is_told("free")
        watcher.tab.click("#take")
        watcher.has_said("took")
        watcher.until(lambda: watcher.state("page.hello.owner"))
        assert watcher.state("page.hello.session") == session
        count = len(watcher.frames)
        watcher.until(lambda: len(watcher.frames) > count)
        assert watcher.tab.locator("#pause").is_enabled()


def test_taking_over_is_offered_to_all_who_watch_and_the_first_has_it(visit: Open) -> None:
    with running(lambda: MovingPicture(size=128), max_sessions=1, limits=Limits(takeover_seconds=0.5)) as made:
        address = f"http://localhost:{made.port}/"
        owner = visit(address)
        start(owner)
        watch = f"{address}?watch={owner.state('page.hello.session')}"
        first, second = visit(watch), visit(watch)
        for watcher in (first, second):
            watcher.is_told("watching")
            watcher.until(lambda watcher=watcher: watcher.state("page.acks.size > 0"))
            assert not watcher.tab.locator("#take").is_visible()  # it is somebody's
        owner.tab.close()
        for watcher in (first, second):
            says(watcher, "free")
            assert watcher.tab.locator("#take").is_visible()
        second.tab.click("#take")
        second.has_said("took")
        says(first, "watching")
        assert not first.tab.locator("#take").is_visible()


def test_two_futures_of_one_picture_stand_side_by_side(visit: Open, stand_in: str) -> None:
    page = visit(stand_in)
    page.drag((0.5, 0.4), (0.62, 0.4))
    page.until(lambda: len(page.frames) > 24)
    page.tab.click("#fork")
    other = page.tab.frame_locator("#futures iframe").locator("#canvas")
    other.wait_for()
    frame = page.tab.frames[1]
    page.until(lambda: frame.evaluate("!!(window.page?.hello && window.page.frame)"))
    assert frame.evaluate("page.hello.session") != page.state("page.hello.session")
    assert frame.evaluate("page.frame.index") > 12  # it goes on and does not begin
    boxes = [page.tab.locator(one).bounding_box() for one in ("#view", "#futures iframe")]
    assert boxes[0] is not None
    assert boxes[1] is not None
    assert boxes[1]["x"] >= boxes[0]["x"] + boxes[0]["width"]
    page.shoot("share-futures")
    page.tab.click("#fork")
    assert page.tab.locator("#futures iframe").count() == 0


def test_a_stream_is_kept_and_opened_again(visit: Open, stand_in: str, tmp_path: Path) -> None:
    page = visit(stand_in)
    page.drag((0.5, 0.4), (0.62, 0.4))
    page.until(lambda: len(page.frames) > 24)
    page.until(lambda: settled(page))
    with page.tab.expect_download() as download:
        page.tab.click("#save")
    kept = tmp_path / "kept.msstate"
    download.value.save_as(kept)
    page.has_said("saved")
    moved = page.pixel(0.62, 0.4)
    index = page.state("page.frame.index")
    other = visit(stand_in)
    other.tab.set_input_files("#resume", str(kept))
    assert "kept.msstate" in other.has_said("resumed")
    other.until(lambda: other.state("page.frame?.index ?? 0") >= index - 24)
    assert np.abs(np.subtract(other.pixel(0.62, 0.4), moved)).max() < 30
