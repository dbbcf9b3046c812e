"""Where sessions are kept when their server goes away, and found again by another one."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from pathlib import Path
from typing import Protocol

from ms_infer.errors import ConfigError
from ms_infer.files import whole_file

KEEP_SECONDS = 24 * 3600.0
SUFFIX = ".session"


class Moving(Exception):
    """Somebody else is being given a session: it can be found again in a moment."""


class Directory(Protocol):
    """What a server asks before it makes a session for somebody who names one."""

    async def save(self, session: str, key: str, data: bytes) -> bool:
        """Keep a session (`SessionState.pack`); False when there is no place for it."""

    async def opened(self, session: str) -> None:
        """A session is open here, under its key: servers beside this one can find it from now on."""

    async def find(self, session: str, key: str) -> bytes | None:
        """The session of this name and key, which is then the asker's alone; None when it is not here.

        Raises Moving while somebody else is being given it.
        """


class NoDirectory:
    """Keeps nothing."""

    async def save(self, session: str, key: str, data: bytes) -> bool:
        return False

    async def opened(self, session: str) -> None: ...

    async def find(self, session: str, key: str) -> bytes | None:
        return None


class FolderDirectory:
    """Keeps sessions as files of a folder for a day. Names and keys never become parts of a path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise ConfigError(f"sessions cannot be kept in {folder}: {error.strerror}; give --keep FOLDER") from None

    async def save(self, session: str, key: str, data: bytes) -> bool:
        await asyncio.to_thread(self._write, self._path(session, key), data)
        return True

    async def opened(self, session: str) -> None: ...

    async def find(self, session: str, key: str) -> bytes | None:
        return await asyncio.to_thread(self._take, self._path(session, key))

    def _path(self, session: str, key: str) -> Path:
        return self.folder / (hashlib.sha256(f"{session}\0{key}".encode()).hexdigest() + SUFFIX)

    def _write(self, path: Path, data: bytes) -> None:
        with whole_file(path, ConfigError) as unfinished:
            unfinished.write_bytes(data)
        path.chmod(0o600)

    def _take(self, path: Path) -> bytes | None:
        for old in self.folder.glob(f"*{SUFFIX}"):
            with contextlib.suppress(FileNotFoundError):  # others take theirs meanwhile
                if time.time() - old.stat().st_mtime > KEEP_SECONDS:
                    old.unlink()
        own = path.with_suffix(".taken")
        try:
            path.rename(own)  # only one of two who ask at the same time finds it
        except FileNotFoundError:
            return None
        data = own.read_bytes()
        own.unlink()
        return data
