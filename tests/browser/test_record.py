"""The film of the page: what is waited for is cut out, the rest keeps its time."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from scripts.record_page import Film, Options, write


def picture(red: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), (red, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def film(*shown: tuple[float, int, bool]) -> Film:
    """Of times, colours, and whether it was on."""
    made = Film()
    for at, red, on in shown:
        made.on = on
        made.take(at, picture(red))
    return made


def reds(made: Film, fps: int) -> list[int]:
    return [Image.open(io.BytesIO(one)).convert("RGB").getpixel((0, 0))[0] for one in made.at_rate(fps)]  # type: ignore[index]


def test_film_has_an_even_rate() -> None:
    assert reds(film((0.0, 10, True), (0.1, 20, True), (0.5, 30, True), (1.0, 40, True)), 4) == [10, 20, 30, 30, 40]


def test_what_was_waited_for_is_cut_out() -> None:
    made = film((0.0, 10, True), (0.5, 20, True), (0.6, 90, False), (9.5, 90, False), (9.6, 30, True), (10.1, 40, True))
    assert 90 not in reds(made, 10)
    assert made.frames[-1][0] - made.frames[0][0] == pytest.approx(1.1)


@pytest.mark.parametrize("suffix", [".webp", ".gif"])
def test_animated_picture_is_written_within_its_size(tmp_path: Path, suffix: str) -> None:
    made, out = film((0.0, 10, True), (0.5, 200, True), (1.0, 90, True)), tmp_path / f"live{suffix}"
    size = write(made, Options(out=out, width=32, fps=4))
    assert size == out.stat().st_size
    written = Image.open(out)
    assert written.size == (32, 24)
    assert written.n_frames >= 3  # type: ignore[attr-defined]
    with pytest.raises(SystemExit, match="bytes are more than 10"):
        write(made, Options(out=out, width=32, fps=4, most_bytes=10))
