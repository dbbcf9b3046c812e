"""Pictures in: files, bytes, PIL images and arrays to uint8 RGB of the stream's size."""

from __future__ import annotations

import io
import logging
import struct
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ms_infer.errors import ConfigError

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 64 * 2**20
"""Largest picture that is decoded, in pixels: 64 Mpx, 192 MiB as RGB."""
BACKGROUND = (255, 255, 255)
"""What shows through transparent pixels: white."""

_ORIENTATION = 0x0112  # EXIF tag
_DAMAGED = (OSError, SyntaxError, ValueError, LookupError, EOFError, TypeError, ZeroDivisionError, struct.error)
_log = logging.getLogger(__name__)


def load_image(
    source: str | Path | bytes | Image | NDArray[Any], height: int, width: int, *, max_pixels: int = MAX_PIXELS
) -> NDArray[np.uint8]:
    """A picture as uint8 [height, width, 3]: upright, opaque, centre-cropped to the aspect, resized (Lanczos).

    `source` is a file, its bytes, a PIL image, or an array [H, W], [H, W, 1 | 3 | 4] of uint8 or of floats in 0..1.
    EXIF rotation is applied, transparency is laid over white, every mode becomes RGB (16-bit grey is scaled by 1/257),
    of an animation the first picture is taken. ConfigError for a missing or damaged file, something that is no
    picture, or more than `max_pixels` pixels (checked before decoding).
    """
    if min(height, width) < 1:
        raise ConfigError(f"a picture needs a positive size, not {height}x{width}")
    name = str(source) if isinstance(source, (str, Path)) else f"the given {type(source).__name__}"
    image = _open(source, name)
    check_pixels(image.size, name, max_pixels)
    if image is not source:  # JPEG decodes straight to 1/2, 1/4 or 1/8 when that is still large enough
        side = 2 * max(height, width)
        image.draft(None, (side, side))
    try:
        image.load()
    except _DAMAGED as error:
        raise ConfigError(f"{name} is damaged or cut off: {error}") from error
    return fitted(_opaque(_upright(image, name)), height, width)


def image_size(source: str | Path | bytes | Image | NDArray[Any]) -> tuple[int, int]:
    """(height, width) of an upright picture, without decoding it; errors as `load_image`."""
    name = str(source) if isinstance(source, (str, Path)) else f"the given {type(source).__name__}"
    image = _open(source, name)
    try:
        sideways = image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
    except _DAMAGED:
        sideways = False
    return (image.width, image.height) if sideways else (image.height, image.width)


def _open(source: Any, name: str) -> Image:
    from PIL import Image

    if isinstance(source, Image.Image):
        return source
    if isinstance(source, np.ndarray):
        return Image.fromarray(_as_bytes(source))
    if isinstance(source, (str, Path)):
        if not Path(source).is_file():
            raise ConfigError(f"there is no picture at {source}")
        handle: Any = Path(source)
    elif isinstance(source, (bytes, bytearray, memoryview)):
        handle = io.BytesIO(source)
    else:
        raise ConfigError(f"a picture is a path, bytes, a PIL image or an array, not {type(source).__name__}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is lower
            return Image.open(handle)
    except Image.DecompressionBombError as error:
        raise ConfigError(_too_big(name, str(error), MAX_PIXELS)) from error
    except _DAMAGED as error:
        raise ConfigError(f"{name} is not a picture that Pillow can read (PNG, JPEG, WebP, ...)") from error


def _as_bytes(array: NDArray[Any]) -> NDArray[np.uint8]:
    """uint8 [H, W] or [H, W, 3 | 4] of an array that holds a picture."""
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or 0 in array.shape or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise ConfigError(f"a picture array is [H, W] or [H, W, 1 | 3 | 4], got {list(array.shape)}")
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype.kind != "f" or not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
        raise ConfigError(f"a picture array is uint8, or floats within 0..1, got {array.dtype}; scale it first")
    return np.asarray(np.rint(array.astype(np.float64) * 255), np.uint8)


def _too_big(name: str, found: str, limit: int) -> str:
    return (
        f"{name} has too many pixels ({found}); at most {limit / 2**20:g} Mpx are read, because only the stream's size "
        "is kept: make it smaller first, for example `ffmpeg -i IN -vf scale=4096:-1 OUT.jpg`"
    )


def check_pixels(size: tuple[int, int], name: str, limit: int) -> None:
    if size[0] * size[1] > limit:
        raise ConfigError(_too_big(name, f"{size[0]}x{size[1]}", limit))
    if min(size) < 1:
        raise ConfigError(f"{name} has no pixels")


def _upright(image: Image, name: str) -> Image:
    from PIL import ImageOps

    try:
        turned = image.getexif().get(_ORIENTATION, 1) != 1
        return ImageOps.exif_transpose(image) if turned else image
    except _DAMAGED as error:  # broken metadata must not lose a good picture
        _log.warning("%s: EXIF rotation is unreadable and ignored (%s)", name, error)
        return image


def _opaque(image: Image) -> Image:
    """RGB without transparency."""
    from PIL import Image

    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        return Image.fromarray(_eight_bits(np.asarray(image))).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        ground = Image.new("RGBA", layer.size, (*BACKGROUND, 255))
        return Image.alpha_composite(ground, layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bits(grey: NDArray[Any]) -> NDArray[np.uint8]:
    """Grey of more than 8 bits or floats: full scale is 65535 for integers above 255, 1.0 for floats up to 1."""
    values = np.nan_to_num(grey.astype(np.float64), posinf=0.0, neginf=0.0)
    largest = values.max(initial=0.0)
    if grey.dtype.kind == "f":
        scale = 255.0 if largest <= 1 else 1.0
    else:
        scale = 1 / 257 if grey.dtype == np.uint16 or largest > 255 else 1.0
    return np.asarray(np.clip(np.rint(values * scale), 0, 255), np.uint8)


def fitted(image: Image, height: int, width: int, *, pixel_shape: float = 1.0) -> NDArray[np.uint8]:
    """uint8 [height, width, 3] of the largest centred part; `pixel_shape` is a pixel's width over its height."""
    from PIL import Image

    if image.size != (width, height) or pixel_shape != 1:
        scale = min(image.width * pixel_shape / width, image.height / height)
        across, down = width * scale / pixel_shape, height * scale
        left, top = (image.width - across) / 2, (image.height - down) / 2
        right, bottom = min(left + across, image.width), min(top + down, image.height)
        image = image.resize((width, height), Image.Resampling.LANCZOS, box=(max(left, 0), max(top, 0), right, bottom))
    return np.array(image, np.uint8)
