"""Record the page of `ms-serve` for the README: `python scripts/record_page.py` on a quiet machine with Chromium.

A thing is outlined and dragged along a bow, the camera moves, the light changes. Writes `docs/images/live.webp`, an
animated picture. What is waited for is cut out; all else keeps its time.
"""

from __future__ import annotations

import base64
import io
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tyro
from PIL import Image
from playwright.sync_api import Browser, Page, TimeoutError, sync_playwright

from ms_infer.demo import Example, default_example, demo_examples

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
VIEWPORT = {"width": 1280, "height": 800}
MOVE_MS = 25
Place = tuple[float, float]


@dataclass(frozen=True)
class Options:
    """Record the live page."""

    source: tyro.conf.Positional[str] = "demo"
    out: Path = IMAGES / "live.webp"
    """Animated picture, .webp or .gif."""
    scene: str = default_example().image.stem
    """Example whose thing is dragged."""
    bow: float = 0.16
    """How far the way of the drag bends upwards, in shares of the picture."""
    look: str = "dusk"
    """Light that comes at last."""
    width: int = 640
    fps: int = 10
    most_bytes: int = 1_200_000


@dataclass
class Film:
    """What Chromium showed while `on`, without the times in between."""

    frames: list[tuple[float, bytes]] = field(default_factory=list)
    """When, in seconds of the film, and a PNG or JPEG."""
    on: bool = False
    _cut: float = 0.0
    _last: float | None = None

    def take(self, at: float, picture: bytes) -> None:
        """A picture that was on the screen from `at` on."""
        if self._last is not None and not self.on:
            self._cut += at - self._last
        self._last = at
        if self.on:
            self.frames.append((at - self._cut, picture))

    def at_rate(self, fps: int) -> Iterator[bytes]:
        """The picture of every 1 / fps seconds."""
        begin, end = self.frames[0][0], self.frames[-1][0]
        index = 0
        for number in range(int((end - begin) * fps) + 1):
            while index + 1 < len(self.frames) and self.frames[index + 1][0] <= begin + number / fps:
                index += 1
            yield self.frames[index][1]


class Screen:
    """The page and the film of it."""

    def __init__(self, page: Page) -> None:
        self.page, self.film = page, Film()
        self._wire = page.context.new_cdp_session(page)
        self._wire.on("Page.screencastFrame", self._shown)
        self._wire.send("Page.startScreencast", {"format": "jpeg", "quality": 95, "everyNthFrame": 3})

    def _shown(self, event: dict[str, Any]) -> None:
        self.film.take(event["metadata"]["timestamp"], base64.b64decode(event["data"]))
        self._wire.send("Page.screencastFrameAck", {"sessionId": event["sessionId"]})

    def close(self) -> None:
        """Film no more; what still comes has nobody to answer."""
        self._wire.remove_listener("Page.screencastFrame", self._shown)
        self._wire.send("Page.stopScreencast")
        self._wire.detach()

    def until(self, wanted: str, seconds: float = 120) -> None:
        """Wait, without filming, for something of the page."""
        before, self.film.on = self.film.on, False
        try:
            self.page.wait_for_function(wanted, timeout=seconds * 1000)
            self.page.wait_for_timeout(300)
        finally:
            self.film.on = before

    def at(self, place: Place) -> Place:
        box = self.page.locator("#canvas").bounding_box()
        assert box is not None, "the page has its picture"
        return box["x"] + place[0] * box["width"], box["y"] + place[1] * box["height"]

    def glide(self, start: Place, end: Place, seconds: float, bow: float = 0.0) -> None:
        """Move the pointer, slowly at both ends, on a way that bends upwards by `bow`."""
        begin = time.monotonic()
        while (part := min((time.monotonic() - begin) / seconds, 1.0)) < 1:
            eased = part * part * (3 - 2 * part)
            x, y = (a + (b - a) * eased for a, b in zip(start, end, strict=True))
            self.page.mouse.move(*self.at((x, y - bow * 4 * eased * (1 - eased))))
            self.page.wait_for_timeout(MOVE_MS)
        self.page.mouse.move(*self.at(end))

    def drag(self, start: Place, end: Place, seconds: float, bow: float = 0.0) -> None:
        """Point at a thing until it is outlined, and carry it off until the picture has followed."""
        self.page.mouse.move(*self.at(start))
        with suppress(TimeoutError):  # without a thing the page takes what is near
            self.until("!!page.thing", 30)
        self.page.wait_for_timeout(600)
        self.page.mouse.down()
        self.glide(start, end, seconds, bow)
        self.page.mouse.up()
        self.follow()

    def follow(self, chunks: int = 1) -> None:
        """Film on until chunks that were made with all that was done are seen, or nothing moves any more."""
        control = self.page.evaluate("page.control")
        self.page.wait_for_function(f"page.frame.control >= {control}", timeout=120_000)
        last = self.page.evaluate(f"page.frame.index + {chunks} * page.hello.chunk_frames - 1")
        self.page.wait_for_function(f"page.resting || page.frame.index >= {last}", timeout=120_000)


def play(screen: Screen, options: Options) -> None:
    """What is to be seen."""
    page, example = screen.page, _example(options.scene)
    page.click(f"[data-example={example.image.stem}]")
    screen.until("page.frame?.index > 12")
    screen.film.on = True
    screen.drag(*example.drags[0], 2.0, options.bow)
    page.keyboard.down("Alt")
    page.mouse.move(*screen.at((0.6, 0.35)))
    page.mouse.down()
    screen.glide((0.6, 0.35), (0.48, 0.31), 1.2)
    page.mouse.up()
    page.keyboard.up("Alt")
    screen.follow()
    page.click(f"#looks button:text-is('{options.look}')")
    screen.follow(chunks=3)
    screen.film.on = False


def _example(name: str) -> Example:
    found = {one.image.stem: one for one in demo_examples()}
    if name not in found:
        raise SystemExit(f"there is no example {name!r}; there are {', '.join(found)}")
    return found[name]


def write(film: Film, options: Options) -> int:
    """The animated picture, of the best quality that fits; returns its bytes."""
    frames = [_small(picture, options.width) for picture in film.at_rate(options.fps)]
    for quality in (85, 70, 50):
        buffer = io.BytesIO()
        kind = options.out.suffix.lstrip(".")
        own = {"quality": quality, "method": 2} if kind == "webp" else {"optimize": True}
        frames[0].save(
            buffer, kind, save_all=True, append_images=frames[1:], duration=round(1000 / options.fps), loop=0, **own
        )
        if buffer.tell() <= options.most_bytes:
            options.out.write_bytes(buffer.getvalue())
            return buffer.tell()
    raise SystemExit(f"{buffer.tell()} bytes are more than {options.most_bytes}: make --width or --fps smaller")


def _small(picture: bytes, width: int) -> Image.Image:
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    return image.resize((width, round(image.height * width / image.width)), Image.Resampling.LANCZOS)


@contextmanager
def server(source: str) -> Iterator[str]:
    """Address of a server of its own."""
    command = [sys.executable, "-c", "from ms_infer.serve.cli import main; main()", source, "--port", "0"]
    process = subprocess.Popen([*command, "--codec", "jpeg"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None, "it is piped"
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def chromium() -> Iterator[Browser]:
    path = shutil.which("chromium")
    if path is None:
        raise SystemExit("no chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


def main() -> None:
    options = tyro.cli(Options)
    with server(options.source) as address, chromium() as browser:
        context = browser.new_context(viewport=VIEWPORT, device_scale_factor=1, bypass_csp=True, color_scheme="light")  # type: ignore[arg-type]
        page = context.new_page()
        page.goto(address)
        page.wait_for_function("window.page?.hello && page.picture", timeout=300_000)
        screen = Screen(page)
        play(screen, options)
        screen.close()
    size = write(screen.film, options)
    seconds = screen.film.frames[-1][0] - screen.film.frames[0][0]
    print(f"{options.out}: {seconds:.1f} s, {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
