"""Chromium, the servers it visits, and what it receives."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, sync_playwright
from playwright.sync_api import Page as Tab

from ms_infer.serve.protocol import FRAME_HEAD, Type
from tests.serve.live import Ack, Running, best_pictures, read_ack, running
from tests.serve.moving_picture import MovingPicture

torch.set_num_threads(1)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]
DRAWN = "new Promise(requestAnimationFrame)"
"""Comes true after a drawing that was asked for before: the browser calls back in the order of asking."""
ARTEFACTS = Path(__file__).parents[2] / "build" / "browser"


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    path = shutil.which("chromium")
    if path is None and os.environ.get("MS_INFER_TEST_BROWSER") == "required":
        pytest.fail("no chromium, and the browser's tests must run here: apt-get install chromium")
    if path is None:
        pytest.skip("no chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def stand_in() -> Iterator[str]:
    """Address of a server whose model is the first frame, moved along the tracks."""
    settings = {"max_sessions": 64, "min_fps": 0.01, "codec": "jpeg"}
    with best_pictures(), running(lambda: MovingPicture(size=128), **settings) as made:
        begin_with("balloon", made)
        yield f"http://localhost:{made.port}/"


def begin_with(name: str, server: Running) -> None:
    """Let a server show an example at first: one whose places a test knows."""
    examples = server.app.state.hub.context.examples
    examples.names = (name, *(other for other in examples.names if other != name))


@pytest.fixture(scope="session")
def demo() -> Iterator[str]:
    """Address of a real `ms-serve demo`."""
    command = [sys.executable, "-c", "from ms_infer.serve.cli import main; main()", "demo", "--port", "0"]
    process = subprocess.Popen(
        [*command, "--max-sessions", "8", "--min-fps", "0.1", "--codec", "jpeg"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        Running(int(address.rstrip("/").rpartition(":")[2]), None).until_ready(600)
        yield address
    finally:
        process.terminate()
        process.wait(30)


class Visit:
    """A tab on a server and everything that came through its WebSocket.

    `greeted`: wait until the page has its session and a picture; `expected`: part of an error that is meant to be.
    """

    def __init__(self, context: BrowserContext, address: str, greeted: bool = True, expected: str = "") -> None:
        self.tab: Tab = context.new_page()
        self.said: list[str] = []
        """What was written upon the picture."""
        self.expected = expected
        self.frames: list[tuple[int, int, int, bytes]] = []
        """(chunk, index, control, JPEG)."""
        self.acks: list[Ack] = []
        self.stats: dict[str, Any] = {}
        """What the server told last of each."""
        self.troubles: list[str] = []
        self.tab.on("websocket", lambda socket: socket.on("framereceived", self._take))
        self.tab.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.tab.on("console", self._hear)
        self.tab.goto(address)
        if greeted:
            self.until(lambda: self.state("!!(page.hello && page.picture)"), 120)

    def _hear(self, said: Any) -> None:
        known = self.expected and re.search(self.expected, said.text)
        if said.type == "error" and not known:
            self.troubles.append(said.text)

    def _take(self, data: Any) -> None:
        raw = data.encode() if isinstance(data, str) else data
        if raw[0] == Type.FRAME:
            _, _, _, _, chunk, index, control, _ = FRAME_HEAD.unpack_from(raw)
            self.frames.append((chunk, index, control, raw[FRAME_HEAD.size :]))
        elif raw[0] == Type.ACK:
            self.acks.append(read_ack(raw))
        elif raw[0] == Type.STATS:
            self.stats |= json.loads(raw[1:])

    def state(self, expression: str) -> Any:
        """A value of the page."""
        return self.tab.evaluate(f"(() => {expression})()")

    def until(self, wanted: Callable[[], Any], seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not wanted():
            assert time.monotonic() < end, f"it did not happen in time; troubles: {self.troubles}"
            self.tab.wait_for_timeout(50)

    def words(self) -> str:
        """What the status line says."""
        return self.tab.locator("#status").inner_text()

    def is_told(self, name: str, seconds: float = 60) -> None:
        """Wait for a state of the page."""
        self.until(lambda: self.state("document.body.dataset.state") == name, seconds)

    def has_said(self, name: str, seconds: float = 60) -> str:
        """Wait for something that is said once; returns its words."""
        toast = self.tab.locator("#toast")
        self.until(lambda: toast.get_attribute("data-said") == name, seconds)
        return toast.inner_text()

    def listen(self) -> None:
        """Keep what is written upon the picture from now on, for `state("written")`."""
        self.state(
            "(() => { const pen = canvas.getContext('2d'), write = pen.fillText; window.written = [];"
            " pen.fillText = function (text, ...rest) { window.written.push(text); write.call(this, text, ...rest); };"
            " })()"
        )

    def written(self) -> list[str]:
        """What is written upon the picture by the next drawing."""
        self.listen()
        self.tab.mouse.move(*self.at(0.02, 0.02))
        return list(self.state(f"{DRAWN}.then(() => window.written)"))

    def pixel(self, x: float, y: float) -> tuple[int, int, int]:
        """Colour on the screen of a place in the picture, once all is drawn that was asked for."""
        place = f"{x} * canvas.width, {y} * canvas.height, 1, 1"
        found = self.state(f"{DRAWN}.then(() => [...canvas.getContext('2d').getImageData({place}).data])")
        return found[0], found[1], found[2]

    def shown_whole(self) -> bool:
        """Whether the last frame that the server told of has come."""
        told = self.acks[-1] if self.acks else None
        return bool(told and self.frames) and self.frames[-1][1] == told.first + told.points.shape[1] - 1

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Place on the screen of a place in the picture."""
        box = self.tab.locator("#canvas").bounding_box()
        assert box is not None
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    def drag(self, start: tuple[float, float], end: tuple[float, float], *, steps: int = 25) -> None:
        self.tab.mouse.move(*self.at(*start))
        self.tab.mouse.down()
        for part in np.linspace(0, 1, steps + 1)[1:]:
            self.tab.mouse.move(*self.at(*(np.array(start) + (np.array(end) - start) * part)))
            self.tab.wait_for_timeout(40)
        self.tab.mouse.up()

    def grid(self) -> NDArray[np.float64]:
        """Grid points `[N, T, 2]` of the newest chunk that told of any: on a slow link most do not."""
        told = (ack.points[ack.kinds == 0] for ack in reversed(self.acks) if (ack.kinds == 0).any())
        return next(told, np.zeros((0, 1, 2)))

    def swing(self) -> float:
        """How far a point of the grid moves at most within a chunk."""
        return float(np.nanmax(np.ptp(self.grid(), axis=1), initial=0.0))

    def pictures(self, first: int, last: int) -> NDArray[np.uint8]:
        """uint8 [T, H, W, 3] of received frames [first, last); those of a slow link are made larger."""
        size = tuple(self.state("[page.hello.width, page.hello.height]"))
        opened = (Image.open(io.BytesIO(one[3])).convert("RGB") for one in self.frames[first:last])
        return np.stack([np.asarray(one if one.size == size else one.resize(size)) for one in opened])

    def shoot(self, name: str) -> Path:
        """Keep a screenshot as an artefact."""
        ARTEFACTS.mkdir(parents=True, exist_ok=True)
        self.tab.screenshot(path=ARTEFACTS / f"{name}.png")
        return ARTEFACTS / f"{name}.png"


@pytest.fixture
def visit(chromium: Browser) -> Iterator[Callable[..., Visit]]:
    """Opens a server's page in a context of its own; troubles of the page fail the test."""
    contexts: list[BrowserContext] = []
    opened: list[Visit] = []

    def open_page(
        address: str, width: int = 1280, height: int = 800, *, greeted: bool = True, expected: str = "", **options: Any
    ) -> Visit:
        # the content policy forbids eval, which is how Playwright asks the page
        context = chromium.new_context(viewport={"width": width, "height": height}, bypass_csp=True, **options)
        contexts.append(context)
        opened.append(Visit(context, address, greeted, expected))
        return opened[-1]

    yield open_page
    troubles = [trouble for one in opened for trouble in one.troubles]
    for context in contexts:
        context.close()
    assert not troubles


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say that a browser was there: a run that skipped everything must not look like one that passed."""
    passed = len(terminalreporter.stats.get("passed", []))
    terminalreporter.write_line(f"{passed} tests of the page ran in Chromium; its screenshots: {ARTEFACTS}")


@pytest.fixture(scope="session", autouse=True)
def _quiet_end() -> Iterator[None]:
    yield
    assert threading.active_count() < 50
