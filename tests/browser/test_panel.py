"""Looks and words, motion from elsewhere, files in and out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ms_infer.hand import Kind
from ms_infer.media import open_writer
from tests.browser.conftest import Visit, begin_with
from tests.serve.live import running
from tests.serve.moving_picture import MovingPicture

Open = Callable[..., Visit]
WORDS = ("plain", "night", "dusk", "fog", "cat", "camera", "camel", "moves", "left", "kite", "studio", "1fa76")


@pytest.fixture(scope="module")
def reading() -> Iterator[str]:
    """Address of a server whose model knows some words."""
    with running(lambda: MovingPicture(size=128, words=WORDS), max_sessions=64, min_fps=0.01) as made:
        begin_with("balloon", made)  # no words yet
        yield f"http://localhost:{made.port}/"


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An mp4 of one second in which everything moves to the right."""
    path = tmp_path_factory.mktemp("video") / "slides.mp4"
    texture = np.random.default_rng(3).integers(0, 255, (12, 24, 3), np.uint8)
    wide = np.asarray(Image.fromarray(texture).resize((192, 96), Image.Resampling.BICUBIC))
    with open_writer(path, height=96, width=128, fps=16) as writer:
        writer.write(np.stack([wide[:, 48 - step : 176 - step] for step in range(16)]))
    return path


def prompt_of(page: Visit) -> str:
    return page.tab.locator("#text").input_value()


# ---- looks and words


def test_looks_are_chips_and_change_the_running_picture(visit: Open, reading: str) -> None:
    page = visit(reading)
    chips = page.tab.locator("#looks button")
    assert chips.all_inner_texts() == ["plain", "night", "dusk", "fog"]
    page.tab.keyboard.press("Enter")
    page.until(lambda: page.acks)
    page.tab.click("#looks >> text=night")
    control = page.state("page.control")
    page.until(lambda: page.acks[-1].prompt == control)
    assert prompt_of(page) == "night"
    page.tab.click("#looks >> text=fog")
    assert prompt_of(page) == "fog"  # one look at a time
    assert page.tab.locator("#looks [aria-pressed=true]").all_inner_texts() == ["fog"]
    page.tab.keyboard.press("Control+z")
    assert prompt_of(page) == "night"
    page.tab.keyboard.press("Control+Shift+z")
    assert prompt_of(page) == "fog"


def test_new_look_may_come_slowly(visit: Open) -> None:
    with running(lambda: MovingPicture(size=128, words=WORDS)) as made:
        begin_with("balloon", made)
        page = visit(f"http://localhost:{made.port}/")
        assert page.tab.locator("#over-out").inner_text() == "at once"
        page.tab.focus("#over")
        for _ in range(3):
            page.tab.keyboard.press("ArrowRight")
        assert page.tab.locator("#over-out").inner_text() == "within 3.0 s"  # 4 chunks of 12 frames, 16 a second
        page.tab.keyboard.press("Enter")
        page.until(lambda: page.acks)
        page.tab.click("#looks >> text=night")
        control = page.state("page.control")
        page.until(lambda: page.acks[-1].prompt == control)
        stream = next(one for one in made.streams if "night" in one.prompts)
        assert stream.blends[-1][1:] == (4, "linear", False)


def test_words_are_offered_while_typing(visit: Open, reading: str) -> None:
    page = visit(reading)
    page.tab.click("#text")
    page.tab.keyboard.type("ca")
    assert page.tab.locator("#words button").all_inner_texts() == ["cat", "camera", "camel"]
    page.tab.click("#words >> text=camel")
    assert prompt_of(page) == "camel "
    assert not page.tab.locator("#words").is_visible()
    assert not page.tab.locator("#unknown").is_visible()
    page.tab.keyboard.type("1")
    assert not page.tab.locator("#words").is_visible()  # a code is no word


def test_unknown_words_are_said_to_be_unknown(visit: Open, reading: str) -> None:
    page = visit(reading)
    page.tab.fill("#text", "night, a unicorn moves left")
    text = page.tab.locator("#unknown").inner_text()
    assert "does not know" in text
    assert "unicorn" in text
    assert "moves" not in text
    page.shoot("unknown-word")


def test_a_model_that_reads_any_word_calls_none_unknown(visit: Open, stand_in: str) -> None:
    page = visit(stand_in)
    page.tab.fill("#text", "a unicorn")
    assert not page.tab.locator("#unknown").is_visible()
    assert page.tab.locator("#looks button").count() == 0


def test_example_prompts_are_used(visit: Open) -> None:
    with running(lambda: MovingPicture(size=128, words=WORDS)) as made:
        page = visit(f"http://localhost:{made.port}/")
        page.tab.click("[data-example=kite]")
        page.until(lambda: page.frames)
        assert "kite moves left" in prompt_of(page)
        assert "kite moves left" in made.streams[0].prompts[-1]


# ---- motion from elsewhere


def test_motion_of_a_video_is_shown_beside_its_source(visit: Open, stand_in: str, video: Path) -> None:
    page = visit(stand_in)
    assert not page.tab.locator("#source").is_visible()
    page.tab.set_input_files("#video", str(video))
    assert "slides.mp4" in page.has_said("follows")
    page.until(lambda: page.acks and (page.acks[-1].kinds == Kind.PATH).sum() > 50)
    assert page.tab.locator("#preview").is_visible()
    assert page.state("page.transfer")
    page.shoot("motion-video")
    page.tab.click("#back")
    page.until(lambda: set(page.acks[-1].kinds.tolist()) == {Kind.GRID})
    assert not page.tab.locator("#source").is_visible()


def turns(page: Visit) -> bool:
    """Whether the points of the newest chunks go back to where they began."""
    x = [np.nanmedian(ack.points[ack.kinds == Kind.PATH][..., 0]) for ack in page.acks[-3:]]
    return bool(np.ptp(x) > 0.01)


def test_video_goes_on_again_and_again_or_holds(visit: Open, stand_in: str, video: Path) -> None:
    page = visit(stand_in)
    page.tab.set_input_files("#video", str(video))
    page.until(lambda: page.acks and page.acks[-1].chunk >= 4 and turns(page))  # 16 frames are over long since
    page.tab.uncheck("#loop")
    page.until(lambda: not turns(page))
    page.tab.check("#loop")
    page.until(lambda: turns(page))


def test_webcam_has_a_preview_and_a_start(visit: Open, stand_in: str) -> None:
    page = visit(stand_in, permissions=["camera"])
    page.tab.click("#webcam")
    page.until(lambda: page.tab.locator("#webcam-start").is_visible())
    page.until(lambda: page.state("document.getElementById('preview').videoWidth > 0"))
    assert not page.frames  # nothing moves before the start
    page.shoot("webcam")
    page.tab.click("#webcam-start")
    page.until(lambda: page.swing() > 0.003)
    page.tab.click("#webcam")
    assert not page.tab.locator("#source").is_visible()


# ---- files


def test_preview_has_the_size_of_the_stream(visit: Open, stand_in: str) -> None:
    page = visit(stand_in)
    assert page.state("[page.picture.naturalWidth, page.picture.naturalHeight]") == [128, 128]
    before = page.pixel(0.5, 0.45)
    page.tab.keyboard.press("Enter")
    page.until(lambda: page.state("page.frame?.index >= 2"))
    assert np.abs(np.subtract(before, page.pixel(0.5, 0.45))).max() < 12  # and does not jump


def test_the_same_file_can_be_chosen_twice(visit: Open, stand_in: str, tmp_path: Path) -> None:
    page = visit(stand_in)
    path = tmp_path / "red.png"
    Image.new("RGB", (300, 200), (200, 30, 30)).save(path)
    for _ in range(2):
        starts = page.state("page.control")
        page.tab.set_input_files("#picture", str(path))
        page.until(lambda: page.state("!!page.own"))
        page.until(lambda: page.pixel(0.5, 0.9)[0] > 180)
        page.tab.click("[data-example=balloon]")
        page.until(lambda starts=starts: page.state("page.control") > starts and page.pixel(0.5, 0.9)[0] < 120)
