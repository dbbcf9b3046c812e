"""The camera over the picture, by fingers, wheel and stick; and the page on a phone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.browser.conftest import Visit
from tests.browser.test_hand import choose, dragged, settled

Open = Callable[..., Visit]


def spread(page: Visit) -> float:
    """How far the visible grid reaches from the middle."""
    return float(np.nanmax(np.abs(page.grid()[:, -1] - 0.5), initial=0.0))


def touch(page: Visit) -> Callable[[str, list[tuple[float, float]]], None]:
    wire = page.tab.context.new_cdp_session(page.tab)

    def send(kind: str, places: list[tuple[float, float]]) -> None:
        points = [{"x": page.at(*at)[0], "y": page.at(*at)[1], "id": number} for number, at in enumerate(places)]
        wire.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        page.tab.wait_for_timeout(30)

    return send


def phone(visit: Open, address: str, **options: Any) -> Visit:
    return visit(address, 360, 740, has_touch=True, is_mobile=True, **options)


def sent(page: Visit) -> list[dict[str, Any]]:
    """Controls that the page sends from now on, as they are sent."""
    page.state(
        "(async () => { const send = page.socket.send.bind(page.socket); window.controls = [];"
        " page.socket.send = (blob) => { send(blob); if (blob instanceof Blob) blob.slice(1).text().then((text) =>"
        " text.startsWith('{') && window.controls.push(JSON.parse(text))); }; })()"
    )
    return []


def controls(page: Visit, do: str) -> list[dict[str, Any]]:
    return [one for one in page.state("controls") if one["do"] == do]


def test_two_fingers_move_zoom_and_roll(visit: Open, stand_in: str) -> None:
    page = phone(visit, stand_in)
    sent(page)
    finger = touch(page)
    finger("touchStart", [(0.4, 0.5), (0.6, 0.5)])
    for step in range(1, 11):
        finger("touchMove", [(0.4 - 0.01 * step, 0.5 - 0.01 * step), (0.6 + 0.01 * step, 0.5 + 0.01 * step)])
    finger("touchEnd", [])
    wide = pytest.approx(np.log(np.hypot(0.4, 0.2) / 0.2), abs=1e-3)
    page.until(lambda: sum(one["zoom"] for one in controls(page, "carry")) == wide)  # the last of it has left
    total = {key: sum(one[key] for one in controls(page, "carry")) for key in ("x", "y", "roll")}
    assert total["roll"] == pytest.approx(-np.arctan2(0.2, 0.4), abs=0.05)
    assert abs(total["x"]) + abs(total["y"]) < 0.02
    assert not controls(page, "pointers")
    page.until(lambda: spread(page) > 0.46)
    page.tab.click("#undo")
    page.until(lambda: sum(one["zoom"] for one in controls(page, "carry")) == pytest.approx(0, abs=1e-6))


def test_one_finger_then_another_drag_two_things(visit: Open, stand_in: str) -> None:
    page = phone(visit, stand_in)
    page.tab.tap("[data-tool=drag]")
    finger = touch(page)
    finger("touchStart", [(0.2, 0.3)])
    for step in range(10):
        finger("touchMove", [(0.2, 0.3 + 0.01 * step)])
    finger("touchStart", [(0.2, 0.4), (0.8, 0.7)])
    for step in range(10):
        finger("touchMove", [(0.2, 0.4 + 0.01 * step), (0.8, 0.7 - 0.01 * step)])
    finger("touchEnd", [])
    page.until(lambda: settled(page, least=4))
    assert dragged(page)[:, -1, 0].min() < 0.4
    assert dragged(page)[:, -1, 0].max() > 0.6


def test_wheel_with_a_modifier_zooms_and_rolls_and_alt_drags(visit: Open, stand_in: str) -> None:
    page = visit(stand_in)
    sent(page)
    page.tab.mouse.move(*page.at(0.5, 0.5))
    for key, axis in (("Control", "zoom"), ("Shift", "roll")):
        page.tab.keyboard.down(key)
        page.tab.mouse.wheel(0, -120)
        page.tab.keyboard.up(key)
        page.until(lambda axis=axis: any(one[axis] for one in controls(page, "carry")))
    page.tab.keyboard.down("Alt")
    page.drag((0.5, 0.5), (0.6, 0.5), steps=10)
    page.tab.keyboard.up("Alt")
    page.until(lambda: sum(one["x"] for one in controls(page, "carry")) == pytest.approx(-0.1, abs=0.01))
    assert not controls(page, "pointers")


def test_camera_tool_and_stick_are_options(visit: Open, stand_in: str) -> None:
    page = visit(stand_in)
    sent(page)
    choose(page, "x")
    page.drag((0.5, 0.5), (0.5, 0.42), steps=8)
    page.until(lambda: sum(one["y"] for one in controls(page, "carry")) == pytest.approx(0.08, abs=0.01))
    page.tab.click("summary")
    box = page.tab.locator("#pad").bounding_box()
    assert box is not None
    page.tab.mouse.move(box["x"] + 46, box["y"] + 46)
    page.tab.mouse.down()
    page.tab.mouse.move(box["x"] + 86, box["y"] + 46)
    page.until(lambda: any(one["x"] == 1 for one in controls(page, "camera")))
    page.tab.mouse.up()
    page.until(lambda: controls(page, "camera")[-1]["x"] == 0)


def test_undo_turns_the_camera_back(visit: Open, stand_in: str) -> None:
    page = visit(stand_in)
    sent(page)
    choose(page, "x")
    page.drag((0.5, 0.5), (0.6, 0.5), steps=8)
    page.until(lambda: sum(one["x"] for one in controls(page, "carry")) == pytest.approx(-0.1, abs=0.01))
    page.tab.keyboard.press("Control+z")
    page.until(lambda: sum(one["x"] for one in controls(page, "carry")) == pytest.approx(0, abs=1e-9))
    page.tab.keyboard.press("Control+y")
    page.until(lambda: sum(one["x"] for one in controls(page, "carry")) == pytest.approx(-0.1, abs=0.01))


# ---- a phone


def test_everything_is_within_a_thumbs_reach_on_a_phone(visit: Open, stand_in: str) -> None:
    page = phone(visit, stand_in)
    boxes = page.state(
        "[...document.querySelectorAll('#bar button, #tabs button')].map((one) => one.getBoundingClientRect().toJSON())"
    )
    assert len(boxes) == 18
    for box in boxes:
        assert box["top"] >= 740 * 0.45
        assert box["bottom"] <= 740
        assert box["left"] >= 0
        assert box["right"] <= 360
        assert box["width"] >= 44
        assert box["height"] >= 36
    for tab in ("looks", "points", "lens", "motion", "share", "pictures"):
        page.tab.tap(f"#tabs [data-tab={tab}]")
        shown = page.state(
            "[...document.querySelectorAll('#panel fieldset')].filter((one) => one.checkVisibility())"
            ".map((one) => [one.dataset.card, one.getBoundingClientRect().bottom])"
        )
        assert [name for name, _ in shown] == [tab]
        assert shown[0][1] <= 740
        page.shoot(f"phone-{tab}")
    assert page.state("document.documentElement.scrollWidth") <= 360


def test_help_lists_gestures(visit: Open, stand_in: str) -> None:
    page = phone(visit, stand_in)
    page.tab.tap("#open-help")
    text = page.tab.locator("#help").inner_text()
    for gesture in ("two fingers", "one finger, then another", "tap, click", "drag"):
        assert gesture in text
    page.shoot("phone-help")
