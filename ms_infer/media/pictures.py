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

from ms_infer.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from PIL.Image import Image

    Picture = str | Path | bytes | Image | NDArray[Any]
    """A file, its bytes, a PIL image or an array; see `load_image`."""

MAX_PIXELS = 64 * 2**20
"""Largest picture that is decoded, in pixels: 64 Mpx, 192 MiB as RGB."""
BACKGROUND = (255, 255, 255)
"""What shows through transparent pixels: white."""

_ORIENTATION = 0x0112  # EXIF tag
_DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    LookupError,
    EOFError,
    TypeError,
    ZeroDivisionError,
    RuntimeError,  # what libheif and libavif find
    struct.error,
)
_HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}  # brands of the container
_AVIF = {b"avif", b"avis"}
_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")
_PROFILED = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # colours of an ICC profile: Pillow's mode
_log = logging.getLogger(__name__)


def load_image(source: Picture, height: int, width: int, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """A picture as uint8 sRGB [height, width, 3]: upright, opaque, centre-cropped to the aspect, resized (Lanczos).

    `source` is a file, its bytes, a PIL image, or an array [H, W], [H, W, 1 | 3 | 4] of uint8 or of floats in 0..1.
    EXIF rotation and ICC profile are applied, transparency is laid over white, every mode becomes RGB (16-bit grey is
    scaled by 1/257), of an animation the first picture is taken. ConfigError for a missing or damaged file, something
    that is no picture, or more than `max_pixels` pixels (checked before decoding); MissingExtraError for HEIC and AVIF
    where the extra [heic] is not installed.
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
    return fitted(_opaque(_srgb(_eight_bits(_upright(image, name)), name)), height, width)


def image_size(source: Picture) -> tuple[int, int]:
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
        return _decoder(handle)
    except Image.DecompressionBombError as error:
        raise ConfigError(_too_big(name, str(error), MAX_PIXELS)) from error
    except _DAMAGED as error:
        if _register(handle, name):
            return _open(source, name)
        raise ConfigError(f"{name} is not a picture that Pillow can read (PNG, JPEG, WebP, ...)") from error


def _decoder(handle: Path | io.BytesIO) -> Image:
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is lower
        return Image.open(handle)


def _register(handle: Path | io.BytesIO, name: str) -> bool:
    """Whether Pillow has learned to read this kind of picture just now; MissingExtraError when it would have to."""
    from PIL import Image, features

    brands = _brands(handle)
    if brands & _AVIF and not features.check("avif"):
        raise MissingExtraError(f"{name} is AVIF, which Pillow reads from 11.3 on: pip install 'ms-infer[heic]'")
    if brands & _AVIF or not brands & _HEIC or "HEIF" in Image.OPEN:
        return False
    try:
        import pillow_heif
    except ImportError as error:
        raise MissingExtraError(f"{name} is HEIC, which needs pillow-heif: pip install 'ms-infer[heic]'") from error
    pillow_heif.register_heif_opener()
    return True


def _brands(handle: Path | io.BytesIO) -> set[bytes]:
    """Kinds of pictures that an ISO media file says to hold."""
    if isinstance(handle, Path):
        with handle.open("rb") as file:
            head = file.read(256)
    else:
        head = handle.getvalue()[:256]
    if head[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(head[:4], "big"), len(head))
    return {head[at : at + 4] for at in range(8, end, 4) if at != 12}  # 12: a version


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


def _eight_bits(image: Image) -> Image:
    """Grey of more than 8 bits or of floats as mode L; others as they are."""
    from PIL import Image

    if image.mode not in ("I", "F") and not image.mode.startswith("I;"):
        return image
    grey = Image.fromarray(_scaled(np.asarray(image)))
    grey.info = {name: image.info[name] for name in ("icc_profile",) if name in image.info}
    return grey


def _scaled(grey: NDArray[Any]) -> NDArray[np.uint8]:
    """Full scale is 65535 for integers above 255, 1.0 for floats up to 1."""
    values = np.nan_to_num(grey.astype(np.float64), posinf=0.0, neginf=0.0)
    largest = values.max(initial=0.0)
    if grey.dtype.kind == "f":
        scale = 255.0 if largest <= 1 else 1.0
    else:
        scale = 1 / 257 if grey.dtype == np.uint16 or largest > 255 else 1.0
    return np.asarray(np.clip(np.rint(values * scale), 0, 255), np.uint8)


def _srgb(image: Image, name: str) -> Image:
    """The picture in sRGB when it carries an ICC profile of something else, with its transparency."""
    profile = image.info.get("icc_profile")
    if not profile:
        return image
    try:
        return _through_profile(image, profile)
    except (*_DAMAGED, ImportError) as error:  # broken metadata must not lose a good picture
        _log.warning("%s: its colour profile is unusable and ignored (%s)", name, error)
        return image


def _through_profile(image: Image, data: bytes) -> Image:
    """RGB or RGBA; ValueError when the profile is for other colours than the picture's."""
    from PIL import ImageCms

    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
        mode = _PROFILED.get(profile.profile.xcolor_space.strip())
        if mode is None or (mode == "CMYK") != (image.mode == "CMYK"):
            raise ValueError(f"for {profile.profile.xcolor_space.strip()}, the picture is {image.mode}")
        layer = image.convert("RGBA") if image.mode in _ALPHA or "transparency" in image.info else None
        colours = image if layer is None else layer.convert("RGB")
        colours = colours if colours.mode == mode else colours.convert(mode)
        target = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(colours, profile, target, outputMode="RGB")
    except ImageCms.PyCMSError as error:
        raise ValueError(str(error)) from error
    assert converted is not None, "only a conversion in place returns nothing"
    if layer is not None:
        converted.putalpha(layer.getchannel("A"))
    converted.info.pop("icc_profile", None)
    return converted


def _opaque(image: Image) -> Image:
    """RGB without transparency."""
    from PIL import Image

    if image.mode in _ALPHA or "transparency" in image.info:
        layer = image.convert("RGBA")
        ground = Image.new("RGBA", layer.size, (*BACKGROUND, 255))
        return Image.alpha_composite(ground, layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


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
