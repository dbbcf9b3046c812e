"""Panoramas, sprites and textures of the generator, read once into uint8 tensors."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ms_infer.errors import ConfigError
from ms_train.data.held_out import held_out_names

Split = Literal["train", "held_out", "all"]

# Sizes for pictures of 128 pixels; larger pictures get more
PANORAMA_SIZE = (384, 768)  # rows, columns: near one texel a pixel at 65 degrees
LARGEST = (512, 1024)  # rows, columns of a panorama at most
SPRITE_SIZE = 48
TEXTURE_SIZE = 128
SPRITE_POINTS = 96
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


@dataclass
class Assets:
    """Pictures of one split, on one device."""

    panoramas: Tensor
    """uint8 [P, 3, rows, columns + 1]; the last column repeats the first, so that sampling wraps."""
    sprites: Tensor
    """uint8 [S, 4, side, side]; colour is not premultiplied."""
    sprite_points: Tensor
    """float32 [S, 96, 2]: opaque points of each sprite, in units of its half size."""
    textures: Tensor
    """uint8 [X, 3, side, side]; without any, scenes have no solids."""
    panorama_names: list[str]
    sprite_names: list[str]
    texture_names: list[str]

    @property
    def device(self) -> torch.device:
        return self.panoramas.device

    def to(self, device: torch.device) -> Assets:
        """The same assets on another device."""
        return replace(
            self,
            panoramas=self.panoramas.to(device),
            sprites=self.sprites.to(device),
            sprite_points=self.sprite_points.to(device),
            textures=self.textures.to(device),
        )


def load_assets(folder: Path | str, split: Split = "train", *, size: int = 128) -> Assets:
    """Read `folder`/{panoramas,sprites,textures}, as fine as pictures of `size` pixels need; textures may be absent.

    "held_out" keeps the names of `held_out.txt`; a folder that knows none of them gives all its
    files, so that evaluation runs on assets it has never seen. Raises ConfigError on an empty folder.
    """
    root = Path(folder)
    rows, columns = (min(round(side * size / 128), most) for side, most in zip(PANORAMA_SIZE, LARGEST, strict=True))
    sprite_size, texture_size = round(SPRITE_SIZE * size / 128), round(TEXTURE_SIZE * size / 128)
    panoramas = _choose(root, "panoramas", split)
    sprites = _choose(root, "sprites", split)
    textures = _choose(root, "textures", split) if (root / "textures").is_dir() else []
    wrapped = torch.stack([_read(path, "RGB", (rows, columns)) for path in panoramas])
    cut_out = torch.stack([_read_sprite(path, sprite_size) for path in sprites])
    return Assets(
        panoramas=torch.cat([wrapped, wrapped[..., :1]], dim=-1),
        sprites=cut_out,
        sprite_points=torch.stack([opaque_points(sprite[3]) for sprite in cut_out]),
        textures=_stack([_read(path, "RGB", (texture_size, texture_size)) for path in textures], texture_size),
        panorama_names=[_scene_name(path.stem) for path in panoramas],
        sprite_names=[sprite_name(path.stem) for path in sprites],
        texture_names=[_scene_name(path.stem) for path in textures],
    )


def _stack(pictures: list[Tensor], side: int) -> Tensor:
    return torch.stack(pictures) if pictures else torch.zeros(0, 3, side, side, dtype=torch.uint8)


def sprite_name(stem: str) -> str:
    """Words of the Unicode name of an emoji file: "1f349" -> "watermelon"."""
    names = [unicodedata.name(chr(int(code, 16)), "") for code in stem.split("-") if _is_hexadecimal(code)]
    words = " ".join(name for name in names if name and not name.startswith(("VARIATION", "ZERO WIDTH")))
    return words.lower().replace("-", " ") or stem.lower().replace("_", " ").replace("-", " ")


def _is_hexadecimal(text: str) -> bool:
    return 4 <= len(text) <= 5 and all(c in "0123456789abcdef" for c in text.lower())


def _scene_name(stem: str) -> str:
    return " ".join(word for word in stem.lower().replace("-", "_").split("_") if not word.isdigit())


def _choose(root: Path, kind: str, split: Split) -> list[Path]:
    folder = root / kind
    paths = sorted(p for p in folder.glob("*") if p.suffix.lower() in IMAGE_SUFFIXES) if folder.is_dir() else []
    if not paths:
        raise ConfigError(f"{folder} holds no pictures; --assets needs panoramas/, sprites/ and, for solids, textures/")
    held = [path for path in paths if f"{kind}/{path.stem}" in held_out_names()]
    if split == "all" or (split == "held_out" and not held):
        return paths
    return held if split == "held_out" else [path for path in paths if path not in held]


def _read(path: Path, mode: str, size: tuple[int, int]) -> Tensor:
    with Image.open(path) as image:
        picture = image.convert(mode).resize((size[1], size[0]), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1).contiguous()


def _read_sprite(path: Path, side: int) -> Tensor:
    """uint8 [4, side, side] with a clear margin of two pixels."""
    with Image.open(path) as image:
        inner = image.convert("RGBA").resize((side - 4, side - 4), Image.Resampling.LANCZOS)
    canvas = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    canvas.paste(inner, (2, 2))
    return torch.from_numpy(np.asarray(canvas).copy()).permute(2, 0, 1).contiguous()


def opaque_points(alpha: Tensor) -> Tensor:
    """float32 [96, 2] of an opacity uint8 [side, side]: a spread of opaque pixels, the same every time."""
    rows, columns = torch.nonzero(alpha > 160, as_tuple=True)
    if len(rows) == 0:
        return torch.zeros(SPRITE_POINTS, 2)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(len(rows)))
    order = order.repeat(-(-SPRITE_POINTS // len(order)))[:SPRITE_POINTS]
    points = torch.stack([columns[order], rows[order]], dim=-1).float()
    return (points + 0.5) * (2.0 / alpha.shape[0]) - 1.0
