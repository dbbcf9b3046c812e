"""Files that are whole under their name or absent."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ms_infer.errors import BundleError, MotionStreamError

_LONGEST = 200


@contextmanager
def whole_file(
    path: Path,
    error: type[MotionStreamError] | None = None,
    *,
    advice: str = "",
    failures: tuple[type[Exception], ...] = (OSError,),
    sync: bool = False,
) -> Iterator[Path]:
    """A path beside `path` to write to: it takes the name when the block ends well, and is removed otherwise.

    The file gets the permissions of any new file, whatever the block gives it. sync: it is on the disk before it takes
    its name. `failures` are raised as `error`, with the advice, where one is given; an older file is then untouched.
    """
    unfinished = path.with_name(f".{_shortened(path.name)}.{os.getpid()}.unfinished")
    try:
        unfinished.touch()
        mode = unfinished.stat().st_mode
        yield unfinished
        unfinished.chmod(mode)  # safetensors makes its files private
        if sync:
            with unfinished.open("rb+") as file:
                os.fsync(file.fileno())
        unfinished.replace(path)
    except failures as failure:
        if error is None:
            raise
        raise error(f"cannot write {path}: {getattr(failure, 'strerror', None) or failure}{advice}") from None
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)


def _shortened(name: str) -> str:
    """A name that leaves room for more in the 255 bytes that file systems allow."""
    raw = name.encode()
    if len(raw) <= _LONGEST:
        return name
    return f"{raw[: _LONGEST - 17].decode(errors='ignore')}.{hashlib.sha256(raw).hexdigest()[:16]}"


def write_text(path: Path, text: str) -> None:
    """Write a small file, whole or not at all."""
    with whole_file(path, BundleError) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
