"""Makes the first frames that come with the demo: `python -m scripts.demo_pictures --assets DIR --photographs DIR`.

Scenes are drawn from held-out assets; photographs are cropped from those of scikit-image (its folder `skimage/data`).
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from pathlib import Path

import torch
from ms_train.data.assets import Assets, load_assets
from ms_train.data.paths import Paths
from ms_train.data.render import render
from ms_train.data.scene import Scene, Thing
from PIL import Image
from torch import Tensor

SIZE = 256
VIEW_DEGREES = 65.0
SHADOW = 0.45


@dataclasses.dataclass(frozen=True)
class Picture:
    """A panorama, the way that one looks into it, and sprites: file name, place and half size in 0..1."""

    panorama: str
    yaw: float
    sprites: tuple[tuple[str, float, float, float], ...]


SCENES = {
    "kite": Picture("lobby", -2.3, (("1f408", 0.36, 0.76, 0.14), ("1fa81", 0.75, 0.51, 0.125))),
    "football": Picture("brown_photostudio_06", -2.6, (("26bd", 0.66, 0.82, 0.125),)),
    "owl": Picture("drachenfels_cellar", -1.5, (("1f995", 0.64, 0.68, 0.18), ("1f989", 0.25, 0.47, 0.15))),
}
PHOTOGRAPHS = {"coffee": ("coffee.png", 85), "chelsea": ("chelsea.png", 86), "rocket": ("rocket.jpg", 107)}
"""File, and the column at which its square begins."""


def main() -> None:
    """Write every picture into --out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--assets", type=Path, required=True, help="folder with panoramas/ and sprites/")
    parser.add_argument("--photographs", type=Path, required=True, help="skimage/data of scikit-image 0.26")
    parser.add_argument("--out", type=Path, default=Path("ms_infer/assets/demo"))
    given = parser.parse_args()
    assets = load_assets(given.assets, "held_out", size=SIZE)
    files = {kind: _held_out(given.assets, kind) for kind in ("panoramas", "sprites")}
    for name, picture in SCENES.items():
        frame = render(assets, _scene(assets, picture, files), torch.zeros(1, 1))[0, 0]
        pixels = frame.permute(1, 2, 0).mul(255).round().byte().numpy()
        Image.fromarray(pixels).save(given.out / f"{name}.png", optimize=True)
    for name, (file, left) in PHOTOGRAPHS.items():
        with Image.open(given.photographs / file) as image:
            square = image.convert("RGB").crop((left, 0, left + image.height, image.height))
        square = square.resize((SIZE, SIZE), Image.Resampling.LANCZOS)
        square.save(given.out / f"{name}.jpg", quality=95, subsampling=0, optimize=True)


def _held_out(folder: Path, kind: str) -> list[str]:
    """Stems in the order in which `load_assets` reads them."""
    from ms_train.data.assets import IMAGE_SUFFIXES
    from ms_train.data.held_out import held_out_names

    paths = sorted(path for path in (folder / kind).glob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    return [path.stem for path in paths if f"{kind}/{path.stem}" in held_out_names()]


def _scene(assets: Assets, picture: Picture, files: dict[str, list[str]]) -> Scene:
    return Scene(
        size=SIZE,
        panorama=torch.tensor([files["panoramas"].index(picture.panorama)]),
        focal=torch.tensor([SIZE / 2 / math.tan(math.radians(VIEW_DEGREES) / 2)]),
        heading=torch.tensor([[picture.yaw, 0.0]]),
        camera=_resting(4),
        things=tuple(_thing(files["sprites"].index(name), *place) for name, *place in picture.sprites),
        look=torch.zeros(1, dtype=torch.int64),
        look_start=torch.zeros(1),
    )


def _thing(sprite: int, x: float, y: float, half: float) -> Thing:
    return Thing(
        kind="sprite",
        index=torch.tensor([sprite]),
        present=torch.ones(1),
        ray=torch.tensor([[(x - 0.5) * SIZE, (y - 0.5) * SIZE, 0.0]]),
        half_size=torch.tensor([half * SIZE]),
        travel=_resting(2),
        pose=_resting(4),
        tilt=torch.zeros(1, 3),
        shadow=torch.full((1,), SHADOW),
    )


def _resting(channels: int) -> Paths:
    nothing: Tensor = torch.zeros(1, channels, 1)
    return Paths(nothing, torch.ones(1, 1), nothing, nothing[..., 0], torch.ones(1, 1))


if __name__ == "__main__":
    main()
