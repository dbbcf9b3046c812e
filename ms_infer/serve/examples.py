"""Pictures to begin with, those of the demo model and some drawn here: each has a thing that asks to be dragged."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from ms_infer.demo import demo_examples
from ms_infer.errors import ConfigError
from ms_infer.media import load_image

UNIT = 512  # height at which a picture is drawn, before it is made small
Colour = tuple[int, int, int]


class Examples:
    """The pictures that go with a source, by name; the first one is shown at first."""

    def __init__(self, source: str) -> None:
        shipped = demo_examples() if source == "demo" else []
        self._shipped = {example.image.stem: example.image for example in shipped}
        first, *others = DRAWINGS
        self.names = (first, *self._shipped, *(name for name in others if name not in self._shipped))

    def picture(self, name: str, height: int, width: int) -> NDArray[np.uint8]:
        """uint8 [height, width, 3], the same every time; ConfigError for an unknown name."""
        if name in self._shipped:
            return load_image(self._shipped[name], height, width)
        if name not in DRAWINGS:
            raise ConfigError(f"there is no example of that name; there are {', '.join(self.names)}")
        drawn = DRAWINGS[name](round(UNIT * width / height))
        return np.asarray(drawn.resize((width, height), Image.Resampling.LANCZOS), np.uint8)


def _ground(width: int, top: Colour, bottom: Colour, *, grain: float = 3.0) -> Image.Image:
    """A vertical gradient with a little grain."""
    part = (np.arange(UNIT) / UNIT)[:, None, None]
    colours = np.array(top) * (1 - part) + np.array(bottom) * part
    noise = np.random.default_rng(7).normal(0, grain, (UNIT, width, 1))
    return Image.fromarray(np.clip(colours + noise, 0, 255).astype(np.uint8))


def _glow(image: Image.Image, x: float, y: float, radius: float, colour: Colour, strength: int = 150) -> None:
    mask = Image.new("L", image.size, 0)
    ImageDraw.Draw(mask).ellipse(_box(x, y, radius), fill=strength)
    image.paste(colour, (0, 0), mask.filter(ImageFilter.GaussianBlur(radius * 0.45)))


def _box(x: float, y: float, across: float, down: float | None = None) -> tuple[float, float, float, float]:
    down = across if down is None else down
    return x - across, y - down, x + across, y + down


def _sphere(image: Image.Image, x: float, y: float, radius: float, colour: Colour) -> None:
    """A ball, lit from the upper left."""
    row, column = np.mgrid[0:UNIT, 0 : image.width]
    across, down = (column - x) / radius, (row - y) / radius
    inside = across**2 + down**2
    depth = np.sqrt(np.clip(1 - inside, 0, 1))
    light = np.clip(0.38 + 0.75 * (-0.45 * across - 0.55 * down + 0.7 * depth), 0.2, 1.25)
    shine = np.clip(-0.5 * across - 0.6 * down + 0.62 * depth, 0, 1) ** 18 * 190
    pixels = np.clip(np.array(colour) * light[..., None] + shine[..., None], 0, 255).astype(np.uint8)
    mask = Image.fromarray((np.clip((1 - np.sqrt(inside)) * radius, 0, 1) * 255).astype(np.uint8))
    image.paste(Image.fromarray(pixels), (0, 0), mask)


def _hills(pen: ImageDraw.ImageDraw, width: int, height: float, swing: float, phase: float, colour: Colour) -> None:
    line = [
        (x, height + swing * math.sin(x / 130 + phase) + swing / 2 * math.sin(x / 57)) for x in range(0, width + 9, 8)
    ]
    pen.polygon([*line, (width, UNIT), (0, UNIT)], fill=colour)


def _cloud(image: Image.Image, x: float, y: float, size: float) -> None:
    mask = Image.new("L", image.size, 0)
    pen = ImageDraw.Draw(mask)
    for dx, dy, radius in ((-1.1, 0.25, 0.55), (-0.4, -0.1, 0.8), (0.4, 0.0, 0.7), (1.1, 0.28, 0.5), (0.0, 0.35, 0.7)):
        pen.ellipse(_box(x + dx * size, y + dy * size, radius * size, radius * size * 0.7), fill=215)
    image.paste((255, 255, 255), (0, 0), mask.filter(ImageFilter.GaussianBlur(size * 0.12)))


def _balloon(width: int) -> Image.Image:
    image = _ground(width, (94, 160, 222), (214, 234, 246))
    _cloud(image, width * 0.2, 120, 44)
    _cloud(image, width * 0.84, 190, 34)
    pen = ImageDraw.Draw(image)
    _hills(pen, width, 400, 20, 0.4, (122, 168, 128))
    _hills(pen, width, 448, 16, 2.2, (82, 138, 92))
    x, y, radius = width * 0.5, 186.0, 66
    for side in (-1, 1):
        pen.line([(x + side * 38, y + 46), (x + side * 15, y + 110)], fill=(90, 66, 48), width=4)
    pen.polygon([(x - 46, y + 43), (x + 46, y + 43), (x + 16, y + 90), (x - 16, y + 90)], fill=(196, 52, 44))
    _sphere(image, x, y, radius, (226, 66, 54))
    pen = ImageDraw.Draw(image)
    for part in (0.72, 0.3):
        pen.arc(_box(x, y, radius * part, radius), 0, 360, fill=(250, 222, 150), width=6)
    pen.rounded_rectangle(_box(x, y + 118, 20, 14), 5, fill=(138, 92, 56), outline=(92, 60, 38), width=4)
    return image


def _ball(width: int) -> Image.Image:
    image = _ground(width, (168, 206, 232), (226, 238, 240))
    pen = ImageDraw.Draw(image)
    _hills(pen, width, 236, 12, 1.0, (136, 180, 124))
    _hills(pen, width, 290, 6, 0.0, (104, 158, 84))
    rng = np.random.default_rng(3)
    for _ in range(width * 2):
        root, y = rng.uniform(0, width), rng.uniform(300, UNIT)
        shade = int(rng.integers(-22, 22))
        pen.line(
            [(root, y), (root + rng.uniform(-3, 3), y - rng.uniform(6, 14))],
            fill=(92 + shade, 150 + shade, 72 + shade),
            width=2,
        )
    x, y = width * 0.46, 330.0
    mask = Image.new("L", image.size, 0)
    ImageDraw.Draw(mask).ellipse(_box(x + 12, y + 76, 84, 20), fill=120)
    image.paste((40, 66, 36), (0, 0), mask.filter(ImageFilter.GaussianBlur(8)))
    _sphere(image, x, y, 80, (244, 176, 48))
    return image


def _boat(width: int) -> Image.Image:
    image = _ground(width, (66, 74, 132), (250, 176, 120))
    _glow(image, width * 0.72, 270, 60, (255, 236, 190), 235)
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 296, width, UNIT), fill=(54, 92, 128))
    for row in range(302, UNIT, 13):
        light = min(255, 84 + (row - 296) // 6)
        for left in range(row * 37 % 84 - 20, width + 84, 84):
            pen.line([(left, row), (left + 40, row)], fill=(light, light + 40, 176), width=3)
    x, y = width * 0.4, 330.0
    pen.polygon([(x - 72, y), (x + 72, y), (x + 48, y + 36), (x - 52, y + 36)], fill=(150, 58, 46))
    pen.rectangle((x - 72, y - 4, x + 72, y + 5), fill=(240, 226, 206))
    pen.line([(x, y), (x, y - 146)], fill=(84, 60, 44), width=7)
    pen.polygon([(x + 7, y - 142), (x + 7, y - 13), (x + 72, y - 13)], fill=(250, 246, 236))
    pen.polygon([(x - 7, y - 125), (x - 7, y - 13), (x - 53, y - 13)], fill=(236, 220, 196))
    return image


def _planet(width: int) -> Image.Image:
    image = _ground(width, (12, 14, 34), (40, 28, 66))
    _glow(image, width * 0.2, 400, 150, (84, 52, 130), 110)
    pen = ImageDraw.Draw(image)
    rng = np.random.default_rng(11)
    for _ in range(width // 3):
        x, y, radius = rng.uniform(0, width), rng.uniform(0, UNIT), rng.uniform(0.8, 2.6)
        pen.ellipse(_box(x, y, radius), fill=(255, 250, 230))
    x, y = width * 0.52, 250.0
    pen.arc(_box(x, y, 106, 30), 180, 360, fill=(214, 190, 150), width=11)
    _sphere(image, x, y, 66, (92, 168, 196))
    ImageDraw.Draw(image).arc(_box(x, y, 106, 30), 0, 180, fill=(236, 212, 170), width=11)
    _sphere(image, width * 0.83, 110, 28, (206, 200, 190))
    return image


def _fish(width: int) -> Image.Image:
    image = _ground(width, (66, 176, 196), (14, 66, 104))
    pen = ImageDraw.Draw(image)
    _hills(pen, width, 452, 12, 0.0, (206, 186, 132))
    for stem in (0.1, 0.17, 0.86, 0.93):
        line = [(width * stem + 12 * math.sin(y / 26 + stem * 40), y) for y in range(466, 270, -8)]
        pen.line(line, fill=(42, 126, 82), width=13, joint="curve")
    x, y = width * 0.5, 236.0
    pen.polygon([(x + 56, y), (x + 104, y - 40), (x + 92, y), (x + 104, y + 40)], fill=(236, 116, 40))
    pen.polygon([(x - 8, y - 44), (x + 36, y - 76), (x + 42, y - 30)], fill=(236, 116, 40))
    pen.ellipse(_box(x, y, 76, 50), fill=(250, 146, 56))
    for stripe in (-24, 20):
        pen.chord(_box(x + stripe, y, 10, 47), 0, 360, fill=(255, 240, 220))
    pen.ellipse(_box(x - 50, y - 10, 11), fill="white")
    pen.ellipse(_box(x - 52, y - 10, 6), fill=(20, 26, 40))
    for dx, dy, radius in ((-130, -60, 10), (-150, -110, 14), (-122, -150, 8)):
        pen.ellipse(_box(x + dx, y + dy, radius), outline=(214, 244, 250), width=4)
    return image


DRAWINGS: dict[str, Callable[[int], Image.Image]] = {
    "balloon": _balloon,
    "ball": _ball,
    "boat": _boat,
    "planet": _planet,
    "fish": _fish,
}
