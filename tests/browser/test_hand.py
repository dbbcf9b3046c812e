"""The hand upon the picture: what a press takes is seen before it happens, and everything can be taken back."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from PIL import Image, ImageDraw

from ms_infer.chunk import Chunk
from ms_infer.hand import Kind
from tests.browser.conftest import Visit, begin_with
from tests.serve.live import running
from tests.serve.moving_picture import MovingPicture

Open = Callable[..., Visit]
BALLOON = (0.5, 0.4)


class Waiting(MovingPicture):
    """Its first chunk is made when `go` is set, however long the machine takes to ask for it."""

    def __init__(self, go: threading.Event) -> None:
        super().__init__(size=128)
        self.go = go

    def step(self) -> Chunk:
        self.go.wait()
        return super().step()


@pytest.fixture
def held() -> Iterator[str]:
    """Address of a server that makes nothing as long as the test lasts."""
    go = threading.Event()
    go.set()  # for the chunks that it begins with
    with running(lambda: Waiting(go), min_fps=0.01) as made:
        begin_with("balloon", made)
        go.clear()
        try:
            yield f"http://localhost:{made.port}/"
        finally:
            go.set()


def dragged(page: Visit) -> np.ndarray:
    """Dragged points `[N, T, 2]` of the newest chunk."""
    return page.acks[-1].points[page.acks[-1].kinds == Kind.DRAG]


def settled(page: Visit, least: int = 1) -> bool:
    """Whether at least so many dragged points rest where the newest control put them, and are shown there."""
    ack, control, shown = page.acks and page.acks[-1], *page.state("[page.control, page.frame?.chunk ?? -1]")
    points = ack.points[ack.kinds == Kind.DRAG] if ack else np.zeros((0, 1, 2))
    if len(points) < least or ack.control < control or shown < ack.chunk:
        return False
    return bool(np.ptp(points, axis=1).max() < 1e-6)


def choose(page: Visit, key: str) -> None:
    page.tab.keyboard.press(key)


def two_balls() -> bytes:
    """PNG of a red and a blue ball that touch, on noise."""
    image = Image.fromarray(np.random.default_rng(0).integers(90, 130, (256, 256, 3), np.uint8))
    pen = ImageDraw.Draw(image)
    pen.ellipse((50, 90, 120, 160), fill=(220, 40, 30))
    pen.ellipse((119, 90, 189, 160), fill=(40, 60, 220))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def show(page: Visit, picture: bytes) -> None:
    """Begin with a picture of one's own, and wait until it is there."""
    page.tab.set_input_files("#picture", {"name": "own.png", "mimeType": "image/png", "buffer": picture})
    page.until(lambda: page.frames and page.state("!!page.own && page.frame?.index > 3"))


# ---- what a press grabs is seen at once


def test_thing_under_the_pointer_is_lit_before_anything_is_made(visit: Open, held: str) -> None:
    page = visit(held)
    plain = page.pixel(0.5, 0.45)
    page.tab.mouse.move(*page.at(*BALLOON))
    page.until(lambda: page.state("!!page.thing"))
    tall = page.state("page.thing.outline.flat().map(([, y]) => y)")
    assert min(tall) < 0.26  # from the top of the balloon
    assert max(tall) > 0.6  # to the bottom of its basket
    assert page.pixel(0.5, 0.45) != plain
    assert not page.frames
    page.shoot("hand-thing-lit")


def test_circle_shows_its_reach_and_what_it_takes_before_the_press(visit: Open, held: str) -> None:
    page = visit(held)
    choose(page, "a")
    page.tab.mouse.move(*page.at(0.5, 0.5))
    green = page.pixel(0.45, 0.45)  # one of the grid's points
    assert green[1] > green[0] + 60
    assert green[1] > green[2] + 60
    far = page.pixel(0.05, 0.45)
    assert far[1] < far[2] + 40
    page.shoot("hand-circle-lit")


def test_what_a_press_took_stays_lit_until_its_first_frame_comes(visit: Open, held: str) -> None:
    page = visit(held)
    choose(page, "a")
    page.tab.mouse.move(*page.at(0.5, 0.5))
    page.tab.mouse.down()
    page.tab.mouse.move(*page.at(0.55, 0.5))
    assert page.state("[...page.pointers.values()][0].caught.length") >= 4
    assert page.state("[...page.pointers.values()][0].row") is None
    green = page.pixel(0.45, 0.45)
    assert green[1] > green[0] + 60
    assert not page.frames
    page.tab.mouse.up()


def test_a_line_leads_from_the_finger_to_the_applied_point_with_the_lag_beside(visit: Open, stand_in: str) -> None:
    page = visit(stand_in)
    page.tab.mouse.move(*page.at(*BALLOON))
    page.tab.mouse.down()
    for step in range(40):
        page.tab.mouse.move(*page.at(0.5 + 0.006 * step, 0.4))
        page.tab.wait_for_timeout(40)
    page.until(lambda: page.state("page.latencies.length > 0 && [...page.pointers.values()][0].row !== null"))
    page.listen()
    page.until(lambda: any(text.endswith(" ms") for text in page.state("written")))
    page.shoot("hand-line")
    page.tab.mouse.up()


# ---- the thing


def test_a_drag_takes_the_whole_balloon_with_its_basket_and_nothing_else(visit: Open, stand_in: str) -> None:
    page = visit(stand_in)
    page.drag(BALLOON, (0.65, 0.4))
    page.until(lambda: settled(page, least=11))
    places = dragged(page)[:, -1] - (0.15, 0)
    assert places[:, 1].min() < 0.28
    assert places[:, 1].max() > 0.57
    assert (np.hypot(*(places - (0.5, 0.42)).T) < 0.24).all()
    page.until(lambda: len(page.grid()))
    assert np.nanmax(np.abs(page.grid()[:, -1] * 10 % 1 - 0.5)) < 0.01  # the grid is where it was


def test_a_click_picks_a_thing_and_moves_nothing(visit: Open, stand_in: str) -> None:
    page = visit(stand_in)
    page.tab.mouse.click(*page.at(*BALLOON))
    page.until(lambda: page.state("page.thing?.picked"))
    assert page.tab.locator("#thing-bar").is_visible()
    assert page.words().startswith("Ready")
    assert not page.frames
    page.shoot("thing-picked")
    page.tab.click("#forget")
    assert not page.tab.locator("#thing-bar").is_visible()


def test_where_no_thing_is_the_circle_takes_what_is_near(visit: Open, stand_in: str) -> None:
    page = visit(stand_in)
    page.drag((0.2, 0.2), (0.3, 0.2))
    assert "circle" in page.has_said("nothing")
    page.until(lambda: settled(page, least=4))
    assert abs(dragged(page)[:, -1].mean(0)[0] - 0.3) < 0.05


def width(page: Visit) -> float:
    return float(page.state("Math.max(...page.thing.outline.flat().map(([x]) => x))")) - float(
        page.state("Math.min(...page.thing.outline.flat().map(([x]) => x))")
    )


@pytest.mark.parametrize("server", ["stand_in", "demo"])
def test_a_second_click_adds_and_a_brush_leaves_out(visit: Open, request: pytest.FixtureRequest, server: str) -> None:
    """By colours, and by the demo's layer network."""
    page = visit(request.getfixturevalue(server))
    show(page, two_balls())
    page.tab.mouse.click(*page.at(0.33, 0.49))
    page.until(lambda: page.state("page.thing?.picked"))
    one = width(page)
    page.tab.click("#more")
    page.tab.mouse.click(*page.at(0.6, 0.49))
    page.until(lambda: width(page) > one * 1.6)
    page.tab.click("#less")
    page.drag((0.6, 0.40), (0.6, 0.58), steps=6)
    page.until(lambda: width(page) < one * 1.3)
    assert page.state("page.thing.picked")


def test_a_thing_that_was_picked_moves_again_and_again(visit: Open, stand_in: str) -> None:
    page = visit(stand_in)
    show(page, two_balls())
    page.tab.mouse.click(*page.at(0.33, 0.49))
    page.until(lambda: page.state("page.thing?.picked"))
    for start in ((0.33, 0.49), (0.33, 0.61)):
        page.drag(start, (start[0], start[1] + 0.12), steps=12)
        page.until(lambda start=start: settled(page) and abs(dragged(page)[:, -1, 1].mean() - start[1] - 0.12) < 0.02)
    assert len(dragged(page)) < 60  # no second set of points
    middle = page.state("page.thing.outline.flat().map(([, y]) => y)")
    assert abs(np.mean(middle) - 0.73) < 0.05


def test_a_drag_ends_when_no_button_is_pressed(visit: Open, stand_in: str) -> None:
    page = visit(stand_in)
    choose(page, "a")
    page.tab.mouse.move(*page.at(0.5, 0.5))
    page.tab.mouse.down()
    page.tab.mouse.move(*page.at(0.55, 0.5))
    assert page.state("page.pointers.size") == 1
    page.state(  # a release outside of the window is never told; the next movement has no button
        "canvas.dispatchEvent(new PointerEvent('pointermove', { pointerId: [...page.pointers.keys()][0],"
        " pointerType: 'mouse', buttons: 0, clientX: 300, clientY: 300 }))"
    )
    assert page.state("page.pointers.size") == 0
    page.tab.mouse.up()


# ---- plans


def pause(page: Visit) -> None:
    page.tab.keyboard.press("Enter")
    page.until(lambda: page.state("page.mode") == "running" and page.frames)
    page.tab.keyboard.press(" ")
    page.is_told("paused")


def test_what_is_drawn_while_paused_stays_visible_with_its_time_and_is_played_together(
    visit: Open, stand_in: str
) -> None:
    page = visit(stand_in)
    pause(page)
    choose(page, "d")
    page.drag((0.2, 0.2), (0.4, 0.25), steps=12)
    page.drag((0.8, 0.8), (0.6, 0.75), steps=12)
    choose(page, "s")
    page.tab.mouse.click(*page.at(0.9, 0.1))
    page.until(lambda: page.state("page.plans.length") == 3)
    assert page.state("page.plans.every((plan) => !plan.sent)")
    times = [text for text in page.written() if text.endswith(" s")]
    assert len(times) >= 2
    blue = page.pixel(0.3, 0.225)
    assert blue[2] > 200
    page.shoot("paused-plans")
    page.tab.keyboard.press(" ")
    page.until(lambda: (page.acks[-1].kinds == Kind.PATH).sum() >= 2 and (page.acks[-1].kinds == Kind.STATIC).any())
    page.until(lambda: page.state("page.plans.length") == 0)
    ends = page.acks[-1].points[page.acks[-1].kinds == Kind.PATH][:, -1, 0]
    assert ends.min() >= 0.25
    assert ends.max() <= 0.75


def test_a_thing_that_is_dragged_while_paused_goes_when_the_stream_goes_on(visit: Open, stand_in: str) -> None:
    page = visit(stand_in)
    pause(page)
    count = len(page.acks)
    page.drag(BALLOON, (0.65, 0.45), steps=15)
    page.until(lambda: page.state("page.plans.length") == 1)
    assert page.state("page.plans[0].thing.length") > 10
    assert any(text.endswith(" s") for text in page.written())
    page.shoot("paused-drag")
    page.tab.keyboard.press(" ")
    page.until(lambda: len(page.acks) > count and (page.acks[-1].kinds == Kind.PATH).sum() > 10)
    page.until(lambda: page.state("page.plans.length") == 0)
    moved = page.acks[-1].points[page.acks[-1].kinds == Kind.PATH][:, -1]
    assert abs(moved[:, 0].mean() - 0.65) < 0.03


def test_undo_and_redo_of_points_and_paths(visit: Open, stand_in: str) -> None:
    page = visit(stand_in)
    page.tab.keyboard.press("Enter")
    page.until(lambda: page.frames)
    assert page.tab.locator("#undo").is_disabled()
    choose(page, "s")
    page.tab.mouse.click(*page.at(0.9, 0.1))
    page.until(lambda: (page.acks[-1].kinds == Kind.STATIC).sum() == 1)
    page.tab.keyboard.press("Control+z")
    page.until(lambda: (page.acks[-1].kinds == Kind.STATIC).sum() == 0)
    page.tab.keyboard.press("Control+Shift+z")
    page.until(lambda: (page.acks[-1].kinds == Kind.STATIC).sum() == 1)
    page.until(lambda: page.state("page.plans.length") == 0)  # and its first frame is shown
    page.tab.keyboard.press(" ")
    page.is_told("paused")
    choose(page, "d")
    page.drag((0.2, 0.2), (0.4, 0.25), steps=12)
    assert page.state("page.plans.length") == 1
    page.tab.click("#undo")
    assert page.state("page.plans.length") == 0
    page.tab.click("#redo")
    assert page.state("page.plans.length") == 1


def test_undo_takes_a_drag_and_a_played_path_back(visit: Open, stand_in: str) -> None:
    page = visit(stand_in)
    page.drag(BALLOON, (0.65, 0.4))
    page.until(lambda: page.acks and len(dragged(page)) > 10 and abs(dragged(page)[:, -1, 0].mean() - 0.65) < 0.02)
    page.tab.keyboard.press("Control+z")
    moved = (Kind.DRAG, Kind.PATH)
    page.until(lambda: abs(page.acks[-1].points[np.isin(page.acks[-1].kinds, moved)][:, -1, 0].mean() - 0.5) < 0.02)
    page.tab.keyboard.press("Control+y")
    page.until(lambda: abs(page.acks[-1].points[np.isin(page.acks[-1].kinds, moved)][:, -1, 0].mean() - 0.65) < 0.02)


def test_undo_of_a_half_played_path_takes_it_back_at_its_end(visit: Open, stand_in: str) -> None:
    page = visit(stand_in)
    pause(page)
    choose(page, "d")
    page.drag(BALLOON, (0.66, 0.46), steps=50)
    page.until(lambda: page.state("page.plans.length") == 1)
    page.listen()
    page.tab.keyboard.press(" ")
    page.state(  # in the page, where no time passes between seeing that it plays and taking it back
        "new Promise((done) => { const undo = new KeyboardEvent('keydown', { key: 'z', ctrlKey: true, bubbles: true });"
        " (function look() { const [plan] = page.plans;"
        " if (plan?.begins == null || page.frame.index <= plan.begins + 4) return requestAnimationFrame(look);"
        " document.body.dispatchEvent(undo); done(); })(); })"
    )
    page.has_said("back-later")
    page.until(lambda: any(text.startswith("↩") for text in page.state("written")))

    def along() -> np.ndarray:
        return page.acks[-1].points[page.acks[-1].kinds == Kind.PATH]

    page.until(lambda: page.state("page.plans.length") == 0)
    back = page.state("page.control")
    page.until(lambda: page.acks[-1].control >= back and at_rest(page))
    first = next(ack for ack in page.acks if (ack.kinds == Kind.PATH).any())
    began = first.points[first.kinds == Kind.PATH][:, 0]
    assert len(along()) == len(began)  # nothing else came along
    np.testing.assert_allclose(along()[:, -1], began, atol=0.01)


def at_rest(page: Visit) -> bool:
    """Whether two chunks in a row moved nothing."""
    last = [ack.points[ack.kinds == Kind.PATH] for ack in page.acks[-3:]]
    return len(last) == 3 and all(len(one) and np.nanmax(np.ptp(one, axis=1)) < 1e-3 for one in last)


def test_undo_of_a_circle_takes_back_what_it_took_and_nothing_else(visit: Open, stand_in: str) -> None:
    page = visit(stand_in)
    choose(page, "a")
    page.drag((0.3, 0.3), (0.46, 0.36))
    page.until(lambda: page.acks and len(dragged(page)) and abs(dragged(page)[:, -1, 0].mean() - 0.46) < 0.03)
    page.until(lambda: np.ptp(dragged(page), axis=1).max() < 1e-6)  # it has arrived
    began, count = dragged(page)[:, -1] - (0.16, 0.06), len(dragged(page))
    page.tab.keyboard.press("Control+z")
    page.until(lambda: (page.acks[-1].kinds == Kind.PATH).sum() == count and at_rest(page))
    back = page.acks[-1].points[page.acks[-1].kinds == Kind.PATH][:, -1]
    np.testing.assert_allclose(back, began, atol=0.01)


def test_clear_brings_the_picture_back_and_says_so(visit: Open, stand_in: str) -> None:
    page = visit(stand_in)
    assert page.tab.locator("#clear").is_disabled()
    page.tab.keyboard.press("Enter")
    page.until(lambda: page.frames)
    first = page.pictures(0, 1)[0].astype(int)
    page.drag(BALLOON, (0.7, 0.5))
    page.until(lambda: np.abs(page.pictures(-1, None)[0].astype(int) - first).mean() > 3)  # type: ignore[arg-type]
    page.tab.click("#clear")
    assert "picture is back" in page.has_said("cleared")
    page.until(lambda: np.abs(page.pictures(-1, None)[0].astype(int) - first).mean() < 1)  # type: ignore[arg-type]
    assert set(page.acks[-1].kinds.tolist()) <= {Kind.GRID}
