"""The page in a real browser: what a newcomer sees and does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ms_infer.hand import Kind
from ms_infer.serve.protocol import Codec
from ms_infer.tracks import Tracks
from tests.browser.conftest import Visit
from tests.browser.test_hand import settled
from tests.serve.live import running
from tests.serve.moving_picture import MovingPicture

Open = Callable[..., Visit]
DRAG = 0.31  # of the picture
START = (0.5, 0.40)  # the balloon


@pytest.fixture(params=["stand_in", "demo"])
def server(request: pytest.FixtureRequest) -> str:
    """Every server that these tests run against; the real one only where its weights are."""
    return str(request.getfixturevalue(request.param))


def moved_by(visit: Visit, first: int, last: int, start: tuple[float, float]) -> float:
    """Median movement to the right, of the picture's width, of what was at `start` by optical flow."""
    frames = visit.pictures(first, last)
    tracks = Tracks.from_video(frames, rows=32, cols=32)
    size = frames.shape[2]
    near = np.hypot(*(tracks.points[:, 0] / size - start).T) < 0.09
    kept = near & tracks.visible[:, -1]
    assert kept.sum() >= 4, "the thing was lost from sight"
    return float(np.median(tracks.points[kept, -1, 0] - tracks.points[kept, 0, 0])) / size


def test_first_screen_invites_to_drag(visit: Open, stand_in: str) -> None:
    page = visit(stand_in)
    assert page.tab.locator("#hint").inner_text() == "Drag something"
    assert page.tab.locator("#status").inner_text().startswith("Ready")
    assert page.tab.locator("#examples button[aria-pressed=true]").count() == 1
    assert page.pixel(0.4, 0.4) != (0, 0, 0)  # a picture is there
    assert not page.frames  # and nothing is computed yet
    page.shoot("first")


def test_dragged_object_moves_along_and_only_then(visit: Open, server: str) -> None:
    page = visit(server)
    page.tab.click("[data-example=balloon]")
    page.until(lambda: len(page.frames) >= 30, 120)
    still = moved_by(page, 9, 30, START)
    begin = len(page.frames)
    page.drag(START, (START[0] + DRAG, START[1]), steps=60)  # as fast as the demo has learnt
    page.until(lambda: settled(page), 120)
    rests = page.acks[-1].chunk
    page.until(lambda: page.frames[-1][0] > rests, 120)
    page.shoot("dragged")
    moved = moved_by(page, begin - 1, len(page.frames), START)
    print(f"without a drag {still:.3f} of the picture, with one of {DRAG} it is {moved:.3f}")
    assert abs(still) < 0.03
    assert moved >= 0.6 * DRAG


def test_pause_stops_frames_and_resume_goes_on(visit: Open, server: str) -> None:
    page = visit(server)
    page.tab.keyboard.press("Enter")
    page.until(lambda: len(page.frames) >= 12, 120)
    page.tab.keyboard.press(" ")
    page.until(lambda: page.state("page.mode") == "paused")
    count = len(page.frames)
    page.tab.wait_for_timeout(1500)
    assert len(page.frames) <= count + 1  # one may have waited for the link
    assert page.tab.locator("#badge").inner_text() == "Paused"
    page.tab.keyboard.press(" ")
    page.until(lambda: len(page.frames) > count + 12, 120)
    page.tab.keyboard.press(" ")  # it stands: that it went on where it was can be counted
    page.until(lambda: page.state("page.mode") == "paused")
    page.until(lambda: page.frames[-1][1] + 1 - len(page.frames) == page.stats.get("dropped"))


def test_prompt_change_is_acknowledged(visit: Open, server: str) -> None:
    page = visit(server)
    page.tab.keyboard.press("Enter")
    page.until(lambda: page.acks, 120)
    page.tab.fill("#text", "night")
    page.tab.press("#text", "Enter")
    control = page.state("page.control")
    page.until(lambda: page.acks[-1].prompt == control, 120)
    page.until(lambda: page.frames[-1][2] >= control, 120)


def test_reload_reconnects_to_the_same_stream(visit: Open, server: str) -> None:
    page = visit(server)
    page.tab.keyboard.press("Enter")
    page.until(lambda: page.frames and page.frames[-1][0] >= 2, 120)
    session, chunk = page.state("page.hello.session"), page.frames[-1][0]
    page.tab.reload()
    page.until(lambda: page.state("page.hello?.session") == session)
    count = len(page.frames)
    page.until(lambda: len(page.frames) > count, 120)
    assert page.frames[-1][0] >= chunk
    assert page.state("page.mode") == "running"


def test_numbers_are_on_the_screen(visit: Open, stand_in: str) -> None:
    page = visit(stand_in)
    page.drag((0.5, 0.4), (0.6, 0.4))
    page.until(lambda: "ms" in page.tab.locator("#p95").inner_text())
    page.until(lambda: float(page.tab.locator("#fps").inner_text()) > 0)
    page.until(lambda: "ms" in page.tab.locator("#chunk").inner_text())
    page.until(lambda: page.tab.locator("#dropped").inner_text().isdigit())


def test_tools_place_points_of_their_kind(visit: Open, stand_in: str) -> None:
    page = visit(stand_in)
    page.tab.keyboard.press("s")
    page.tab.mouse.click(*page.at(0.9, 0.9))
    page.tab.keyboard.press("b")
    page.drag((0.1, 0.9), (0.3, 0.9), steps=8)
    page.tab.keyboard.press("d")
    page.drag((0.2, 0.2), (0.4, 0.15), steps=12)
    page.until(lambda: page.acks and {Kind.STATIC, Kind.PATH, Kind.DRAG} <= set(page.acks[-1].kinds.tolist()))
    page.until(lambda: page.state("page.frame && page.acks.has(page.frame.chunk)"))
    page.shoot("tools")
    page.tab.keyboard.press("c")
    page.until(lambda: set(page.acks[-1].kinds.tolist()) == {Kind.GRID})


def test_keyboard_alone_drags_and_moves_the_camera(visit: Open, stand_in: str) -> None:
    page = visit(stand_in)
    page.tab.focus("#canvas")
    for _ in range(8):
        page.tab.keyboard.press("Shift+ArrowRight")
    page.until(lambda: page.acks and (page.acks[-1].kinds == Kind.DRAG).any())
    page.tab.keyboard.press("c")
    page.until(lambda: not (page.acks[-1].kinds == Kind.DRAG).any())
    page.tab.keyboard.down("ArrowRight")
    page.until(lambda: page.swing() > 0.01)
    page.tab.keyboard.up("ArrowRight")
    page.until(lambda: page.swing() < 1e-3)


@pytest.mark.parametrize("scheme", ["dark", "light"])
@pytest.mark.parametrize("size", [(1280, 800), (360, 740)])
def test_everything_fits_and_can_be_read(visit: Open, stand_in: str, size: tuple[int, int], scheme: str) -> None:
    page = visit(stand_in, *size, color_scheme=scheme)
    assert page.state("document.documentElement.scrollWidth") <= size[0]
    ground, text = page.state(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    assert contrast(ground, text) > 7
    assert (luminance(ground) < 0.2) == (scheme == "dark")
    box = page.tab.locator("#canvas").bounding_box()
    assert box is not None
    assert box["width"] >= 0.85 * min(size[0], size[1] - 200)
    page.shoot(f"{size[0]}-{scheme}")


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2) of an rgb(...) colour."""
    parts = np.array([float(part) for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def contrast(one: str, other: str) -> float:
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def test_every_control_has_a_name(visit: Open, stand_in: str) -> None:
    page = visit(stand_in)
    nameless = page.state(
        "[...document.querySelectorAll('button, input, [role=application]')].filter((one) => !(one.innerText?.trim() ||"
        " one.ariaLabel || one.title || one.labels?.[0]?.innerText.trim() || one.querySelector('img')?.alt))"
        ".map((one) => one.id || one.outerHTML)"
    )
    assert nameless == []


def test_help_opens_and_closes_with_keys(visit: Open, stand_in: str) -> None:
    page = visit(stand_in)
    page.tab.keyboard.press("?")
    assert page.tab.locator("#help").is_visible()
    page.tab.keyboard.press("Escape")
    page.tab.locator("#help").wait_for(state="hidden")


def test_dropped_picture_becomes_the_stream(visit: Open, stand_in: str, tmp_path: Path) -> None:
    page = visit(stand_in)
    path = tmp_path / "red.png"
    Image.new("RGB", (300, 200), (200, 30, 30)).save(path)
    page.tab.set_input_files("#picture", str(path))
    page.until(lambda: page.frames)
    page.until(lambda: np.abs(page.pictures(-1, None)[0].astype(int) - (200, 30, 30)).max() < 15)  # type: ignore[arg-type]


def test_recording_is_downloaded(visit: Open, stand_in: str) -> None:
    page = visit(stand_in)
    page.tab.keyboard.press("Enter")
    page.until(lambda: page.frames)
    page.tab.click("#record")
    page.until(lambda: page.tab.locator("#record").get_attribute("aria-pressed") == "true")
    count = len(page.frames)
    page.until(lambda: len(page.frames) > count + 4)
    with page.tab.expect_download() as download:
        page.tab.click("#record")
    data = download.value.path().read_bytes()
    assert data[4:8] == b"ftyp"


def test_h264_is_shown(visit: Open) -> None:
    with running(lambda: MovingPicture(size=128), codec="h264") as made:
        page = visit(f"http://localhost:{made.port}/")
        supported = page.state("VideoDecoder.isConfigSupported({ codec: 'avc1.42c00b' }).then((s) => s.supported)")
        if not supported:
            pytest.skip("this Chromium cannot decode H.264")
        page.tab.keyboard.press("Enter")
        page.until(lambda: page.state("page.frame?.index ?? 0") > 10)


def test_video_has_the_colours_of_the_picture(visit: Open, tmp_path: Path) -> None:
    path = tmp_path / "red.png"
    Image.new("RGB", (300, 200), (200, 30, 30)).save(path)
    with running(lambda: MovingPicture(size=128), codec="h264") as made:
        page = visit(f"http://localhost:{made.port}/")
        page.tab.set_input_files("#picture", str(path))
        page.until(lambda: page.state("!!page.own && page.frame?.index > 3"))
        if page.state("page.frame.codec") != Codec.H264_DELTA:
            pytest.skip("this Chromium cannot decode H.264")
        assert np.abs(np.subtract(page.pixel(0.02, 0.02), (200, 30, 30))).max() < 8


def test_message_of_a_newer_server_is_ignored(visit: Open) -> None:
    with running(lambda: MovingPicture(size=128)) as made:
        page = visit(f"http://localhost:{made.port}/")
        (session,) = made.app.state.hub.sessions.values()
        session.context.call_soon(session.owner.put, bytes([99, 1, 2, 3]))
        page.tab.keyboard.press("Enter")
        page.until(lambda: len(page.frames) > 12)
