"""Pictures of the page to be looked at: twelve states in light and dark, on a desk and a phone; and axe over them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ms_infer.serve.protocol import Type
from tests.browser.conftest import Visit
from tests.browser.test_hand import BALLOON, choose
from tests.browser.test_states import receive, start

Open = Callable[..., Visit]
AXE = Path(__file__).parents[2] / "build" / "page" / "node_modules" / "axe-core" / "axe.min.js"
DESK, PHONE = (1280, 800), (360, 740)


def violations(page: Visit) -> list[str]:
    """What axe finds wrong, rule by rule."""
    found: list[dict[str, Any]] = page.tab.evaluate("async () => (await axe.run()).violations")
    return [f"{one['id']}: {[node['html'][:120] for node in one['nodes']]}" for one in found]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESK, PHONE])
def test_twelve_states_for_the_eye_and_for_axe(visit: Open, stand_in: str, size: tuple[int, int], scheme: str) -> None:
    options: dict[str, Any] = {"has_touch": True, "is_mobile": True} if size == PHONE else {}
    page = visit(stand_in, *size, color_scheme=scheme, **options)
    if AXE.exists():
        page.tab.evaluate(AXE.read_text())
    wrong: dict[str, list[str]] = {}

    def keep(name: str) -> None:
        page.tab.wait_for_timeout(150)
        page.shoot(f"{size[0]}-{scheme}-{name}")
        if AXE.exists():
            wrong[name] = violations(page)

    keep("01-ready")
    page.tab.mouse.move(*page.at(*BALLOON))
    page.until(lambda: page.state("!!page.thing"))
    keep("02-thing")
    page.tab.mouse.click(*page.at(*BALLOON))
    page.until(lambda: page.state("page.thing?.picked"))
    keep("03-picked")
    page.tab.click("#forget")
    start(page)
    page.tab.mouse.move(*page.at(*BALLOON))
    page.tab.mouse.down()
    for step in range(25):
        page.tab.mouse.move(*page.at(0.5 + 0.006 * step, 0.4))
        page.tab.wait_for_timeout(40)
    page.until(lambda: page.state("[...page.pointers.values()][0].row !== null"))
    keep("04-drag")
    page.tab.mouse.up()
    choose(page, "a")
    page.tab.mouse.move(*page.at(0.3, 0.7))
    keep("05-circle")
    page.tab.click("#record")
    page.is_told("recording")
    keep("06-recording")
    page.tab.click("#record")
    page.tab.click("#pause")
    page.is_told("paused")
    choose(page, "d")
    page.drag((0.2, 0.2), (0.4, 0.3), steps=12)
    choose(page, "s")
    page.tab.mouse.click(*page.at(0.85, 0.85))
    keep("07-paused")
    page.tab.keyboard.press("?")
    keep("08-help")
    page.tab.keyboard.press("Escape")
    page.state("document.getElementById('toast').hidden = true")
    receive(page, Type.ERROR, '{"code":"refused","reason":"loading","text":""}')
    keep("09-loading")
    receive(page, Type.ERROR, '{"code":"refused","reason":"full","text":"","watch":true,"place":2}')
    keep("10-full")
    receive(page, Type.BYE, '{"reason":"idle","text":"nothing happened for a long time"}')
    keep("11-idle")
    receive(page, Type.BYE, '{"reason":"replaced","text":"opened in another window"}')
    keep("12-replaced")
    assert {name: found for name, found in wrong.items() if found} == {}
