"""A picture of constancy: the time of every chunk, drawn with Pillow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIZE = (960, 400)
FRAME = (70, 40, 940, 360)
INK, DOT, MIDDLE, TAIL = (30, 30, 30), (60, 110, 200), (20, 140, 70), (200, 80, 40)


def plot_chunks(path: str | Path, chunk_ms: Sequence[float], title: str) -> None:
    """Write a PNG: chunk index to the right, milliseconds up from zero, lines at p50 and p99."""
    values = np.asarray(chunk_ms, np.float64)
    top = max(float(values.max()) * 1.1, 1e-9)
    image = Image.new("RGB", SIZE, "white")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(13)
    left, upper, right, lower = FRAME

    def height(ms: float) -> float:
        return lower - (lower - upper) * ms / top

    draw.rectangle(FRAME, outline=INK)
    draw.text((left, 14), title, INK, font)
    for tick in np.linspace(0, top, 5):
        draw.text((8, height(tick) - 8), f"{tick:7.1f}", INK, font)
        draw.line((left - 4, height(tick), left, height(tick)), INK)
    for index, ms in enumerate(values):
        x = left + (right - left) * (index + 0.5) / len(values)
        draw.ellipse((x - 1.5, height(ms) - 1.5, x + 1.5, height(ms) + 1.5), DOT)
    for percent, colour in ((50, MIDDLE), (99, TAIL)):
        ms = float(np.percentile(values, percent))
        draw.line((left, height(ms), right, height(ms)), colour)
        draw.text((right - 130, height(ms) - 18), f"p{percent} {ms:.1f} ms", colour, font)
    draw.text((left, lower + 14), f"chunk 0 .. {len(values) - 1}; milliseconds a chunk", INK, font)
    image.save(path, format="PNG")
