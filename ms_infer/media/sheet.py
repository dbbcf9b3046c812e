"""Contact sheets: many small pictures in one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ms_infer.errors import ConfigError
from ms_infer.files import whole_file

GAP = 2  # white pixels between two pictures
QUALITY = 92  # of a JPEG
FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP"}


def check_sheet(path: str | Path) -> None:
    """ConfigError for a name that is not that of a picture."""
    if Path(path).suffix.lower() not in FORMATS:
        raise ConfigError(f"a sheet is a picture, not {path}; name it NAME.jpg, NAME.png or NAME.webp")


def write_sheet(path: str | Path, pictures: NDArray[np.uint8]) -> None:
    """Write pictures uint8 `[rows, columns, H, W, 3]` as one, whole or not at all.

    ConfigError for a name that is not that of a picture, or when it cannot be written.
    """
    from PIL import Image

    check_sheet(path)
    path = Path(path)
    rows, columns, height, width, _ = pictures.shape
    sheet = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), 255, np.uint8)
    for row in range(rows):
        for column in range(columns):
            top, left = row * (height + GAP), column * (width + GAP)
            sheet[top : top + height, left : left + width] = pictures[row, column]
    with whole_file(path, ConfigError) as unfinished:
        Image.fromarray(sheet).save(unfinished, FORMATS[path.suffix.lower()], quality=QUALITY)
