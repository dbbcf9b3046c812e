"""Where the bytes of a video go: a file of its own, or what a program gave."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class Sink(Protocol):
    """An open binary file, a pipe, a socket's `makefile("wb")`, an `io.BytesIO`: whatever takes bytes."""

    def write(self, data: bytes, /) -> object: ...


class File:
    """An unbuffered file: a write is whole or raises, and after a failure nothing more is written."""

    def __init__(self, path: Path) -> None:
        self._raw = path.open("w+b", buffering=0)
        self.seek, self.tell = self._raw.seek, self._raw.tell
        self._broken: OSError | None = None

    def write(self, data: bytes) -> int:
        if self._broken is not None:
            raise OSError(self._broken.errno, self._broken.strerror)
        view = memoryview(data)
        try:
            while view:
                view = view[self._raw.write(view) or 0 :]
        except OSError as error:
            self._broken = error
            raise
        return len(data)

    def cut(self, size: int) -> None:
        """Drop what follows `size` bytes; the room is free again."""
        self._raw.seek(size)
        self._raw.truncate()
        self._broken = None

    def close(self) -> None:
        self._raw.close()


class Given:
    """What a program gave: written to as it comes, flushed at the end, never closed or wound back."""

    def __init__(self, sink: Sink, name: str = "the given file") -> None:
        self._sink, self.name, self._written = sink, name, 0

    def write(self, data: bytes) -> int:
        self._sink.write(data)
        self._written += len(data)
        return len(data)

    def tell(self) -> int:
        return self._written

    def cut(self, size: int) -> None:
        """What was written stays."""

    def close(self) -> None:
        flush = getattr(self._sink, "flush", None)
        if flush is not None:
            flush()
