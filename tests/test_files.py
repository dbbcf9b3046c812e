"""Files that are whole under their name or absent."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from ms_infer import BundleError, ConfigError, Stream
from ms_infer.checkpoint import Student, save_student
from ms_infer.files import whole_file, write_text
from ms_infer.tracks import Tracks
from tests.tiny import tiny_student


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("sync", [False, True])
def test_a_file_takes_its_name_when_the_block_ends(tmp_path: Path, sync: bool) -> None:
    target = tmp_path / "a.bin"
    with whole_file(target, sync=sync) as unfinished:
        unfinished.write_bytes(b"new")
        unfinished.chmod(0o600)
        assert (unfinished.parent, target.exists()) == (tmp_path, False)
    (tmp_path / "plain").touch()

    assert (target.read_bytes(), mode(target)) == (b"new", mode(tmp_path / "plain"))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.bin", "plain"]


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left"), KeyError("b"), KeyboardInterrupt()])
def test_a_block_that_fails_leaves_the_older_file(tmp_path: Path, failure: BaseException) -> None:
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")

    def write() -> None:
        with whole_file(target) as unfinished:
            unfinished.write_bytes(b"half")
            raise failure

    with pytest.raises(type(failure)):
        write()
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_failed_write_is_raised_as_the_error_of_the_caller(tmp_path: Path) -> None:
    target = tmp_path / "nowhere" / "a.bin"
    words = r"^cannot write .*a\.bin: No such file or directory; make room$"
    with pytest.raises(BundleError, match=words), whole_file(target, BundleError, advice="; make room"):
        raise AssertionError("there is no place to write to")
    with pytest.raises(ConfigError, match="odd"), whole_file(tmp_path / "b", ConfigError, failures=(KeyError,)):
        raise KeyError("odd")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_reach_the_disk_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(BundleError, match="No space left"), whole_file(tmp_path / "a", BundleError, sync=True):
        pass
    assert list(tmp_path.iterdir()) == []


def snapshot(student: Student, path: Path) -> None:
    with Stream(student) as stream:
        stream.start()
        stream.snapshot(path)


WRITERS: dict[str, Callable[[Path], None]] = {
    "student.safetensors": lambda path: save_student(tiny_student(), path),
    "snapshot.safetensors": lambda path: snapshot(tiny_student(), path),
    "tracks.npz": lambda path: Tracks.grid(2, 2).save(path),
    "manifest.json": lambda path: write_text(path, "{}"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_writer_makes_an_ordinary_file_and_nothing_beside_it(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    assert [file.name for file in tmp_path.iterdir()] == [name]
    (tmp_path / "plain").touch()
    assert mode(tmp_path / name) == mode(tmp_path / "plain")


def test_a_snapshot_into_no_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot write .*nowhere.s\.safetensors: No such file"):
        snapshot(tiny_student(), tmp_path / "nowhere" / "s.safetensors")
