"""A server that is stopped: nobody is taken in, what is open is saved, everybody is told, and another one goes on."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed

from ms_infer.errors import ConfigError
from ms_infer.serve.directory import KEEP_SECONDS, FolderDirectory
from tests.serve.live import Page, Running, running
from tests.serve.moving_picture import MovingPicture

FPS = 48.0
RESTART = 1012


def busy(server: Running) -> Page:
    """A page in the middle of a drag, paused."""
    page = Page(server)
    page.send("start", example="kite", seed=7)
    page.until(lambda: len(page.frames) >= 3)
    page.drag((0.5, 0.5), (0.6, 0.5), up=False)
    page.send("static", points=[[0.2, 0.2]])
    page.until(lambda: page.frames[-1].control >= page.control)
    page.send("pause")
    page.until(lambda: page.stats.get("state") == "paused")
    return page


def ended(page: Page) -> int:
    """Read to the end; the code with which the connection was closed."""
    try:
        while True:
            page.read(20)
    except ConnectionClosed as end:
        return end.rcvd.code if end.rcvd else 0


def test_session_goes_on_after_a_restart(tmp_path: Path) -> None:
    with running(fps=FPS, keep=tmp_path) as made:
        page = busy(made)
        chunk, known = page.frames[-1].chunk, {"session": page.hello["session"], "key": page.hello["key"]}
        code: list[int] = []
        reader = threading.Thread(target=lambda: code.append(ended(page)))
        reader.start()
    reader.join()
    assert code == [RESTART]
    assert page.byes[-1]["reason"] == "moved"
    assert len(list(tmp_path.iterdir())) == 1
    assert page.hello["key"] not in str(list(tmp_path.iterdir()))
    with running(fps=FPS, keep=tmp_path) as made, Page(made, join=False) as back:
        back.join(session=known["session"], key="guess")
        assert back.errors[-1]["reason"] == "gone"
        back.join(**known)
        back.until(lambda: back.hello)
        assert (back.hello["session"], back.hello["key"]) == (known["session"], known["key"])
        assert back.hello["state"] == "paused"
        assert back.hello["last_control"] == page.control
        assert not list(tmp_path.iterdir())  # it is this server's now
        with made.http() as http:
            assert "ms_infer_sessions_resumed_total 1.0" in http.get("/metrics").text
        back.send("resume")
        back.until(lambda: back.frames)
        assert back.frames[0].chunk > chunk
        assert np.array_equal(back.acks[0].kinds, page.acks[-1].kinds)
        stream = made.app.state.hub.sessions[known["session"]].stream
        assert stream.image.shape == (64, 64, 3)
        assert made.app.state.hub.sessions[known["session"]].maker.seed == 7


def test_what_was_made_is_shown_before_the_end_and_the_next_frame_follows(tmp_path: Path) -> None:
    """A stream that moves while it plays loses no frame, and shows none twice."""
    with running(fps=FPS, keep=tmp_path) as made:
        page = Page(made)
        page.send("start", example="kite", seed=7)
        page.until(lambda: len(page.frames) >= 30)
        reader = threading.Thread(target=ended, args=(page,))
        reader.start()
    reader.join()
    assert page.byes[-1]["reason"] == "moved"
    with running(fps=FPS, keep=tmp_path) as made, Page(made, join=False) as back:
        back.join(session=page.hello["session"], key=page.hello["key"])
        back.until(lambda: back.acks)
    assert back.acks[0].first == page.frames[-1].index + 1
    assert back.acks[0].chunk == page.acks[-1].chunk + 1


def test_without_a_place_to_keep_it_the_session_ends() -> None:
    with running(fps=FPS) as made:
        page = busy(made)
        code: list[int] = []
        reader = threading.Thread(target=lambda: code.append(ended(page)))
        reader.start()
    reader.join()
    assert code == [RESTART]
    assert page.byes[-1]["reason"] == "closing"


def test_nobody_is_taken_in_while_it_saves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = asyncio.Event()
    save = FolderDirectory.save

    async def slow(self: FolderDirectory, session: str, key: str, data: bytes) -> bool:
        await gate.wait()
        return await save(self, session, key, data)

    monkeypatch.setattr(FolderDirectory, "save", slow)
    with running(fps=FPS, keep=tmp_path) as made, made.http() as http:
        page, late = busy(made), Page(made, join=False)
        context = made.app.state.hub.context
        context.call_soon(lambda: context.spawn(made.app.state.hub.drain()))
        end = time.monotonic() + 60
        while http.get("/readyz").json()["status"] != "draining":
            assert time.monotonic() < end, "it does not drain"
            time.sleep(0.02)
        assert http.get("/readyz").status_code == 503
        assert http.get("/healthz").status_code == 200
        late.join()
        assert late.errors[0]["reason"] == "loading"
        context.call_soon(gate.set)
        page.until(lambda: page.byes)
        assert page.byes[0]["reason"] == "moved"
        assert "ms_infer_sessions_moved_total 1.0" in http.get("/metrics").text
        late.socket.close()


def test_session_that_cannot_be_saved_keeps_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = MovingPicture()
    monkeypatch.setattr(broken, "state", lambda: 1 / 0)
    streams = iter([broken, MovingPicture()])
    with running(lambda: next(streams), fps=FPS, max_sessions=2, min_fps=0.01, keep=tmp_path) as made:
        pages = [busy(made), busy(made)]
        readers = [threading.Thread(target=ended, args=(page,)) for page in pages]
        for reader in readers:
            reader.start()
    for reader in readers:
        reader.join()
    assert [page.byes[-1]["reason"] for page in pages] == ["closing", "moved"]


def test_kept_session_of_other_weights_is_gone(tmp_path: Path) -> None:
    class Other(MovingPicture):
        digest = "1" * 64

    with running(fps=FPS, keep=tmp_path) as made:
        page = busy(made)
    with running(Other, fps=FPS, keep=tmp_path) as made, Page(made, join=False) as back:
        back.join(session=page.hello["session"], key=page.hello["key"])
        assert back.errors[-1]["reason"] == "gone"
        assert [lane.used for lane in made.app.state.hub.lanes] == [0]
        back.join()
        back.until(lambda: back.hello)


def test_only_one_of_two_finds_a_session(tmp_path: Path) -> None:
    async def both() -> list[bytes | None]:
        directory = FolderDirectory(tmp_path)
        await directory.save("a", "key", b"data")
        return await asyncio.gather(directory.find("a", "key"), directory.find("a", "key"))

    found = asyncio.run(both())
    assert sorted(found, key=str) == sorted([b"data", None], key=str)


def test_session_that_another_server_takes_meanwhile_is_passed_over(tmp_path: Path) -> None:
    """A name that the folder still lists and whose file is gone: as it is between the two."""
    directory = FolderDirectory(tmp_path)
    (tmp_path / "listed.session").symlink_to(tmp_path / "gone")
    asyncio.run(directory.save("a", "key", b"data"))
    assert asyncio.run(directory.find("a", "key")) == b"data"


@pytest.mark.parametrize("name", ["../../etc/passwd", "a\0b", "a" * 64, ""])
def test_name_of_a_session_is_never_a_path(tmp_path: Path, name: str) -> None:
    directory = FolderDirectory(tmp_path / "kept")
    assert asyncio.run(directory.find(name, "key")) is None
    asyncio.run(directory.save(name, "key", b"data"))
    assert [path.parent for path in tmp_path.rglob("*.session")] == [tmp_path / "kept"]
    assert asyncio.run(directory.find(name, "other")) is None
    assert asyncio.run(directory.find(name, "key")) == b"data"


def test_old_sessions_are_thrown_away(tmp_path: Path) -> None:
    directory = FolderDirectory(tmp_path)
    asyncio.run(directory.save("a", "key", b"data"))
    (path,) = tmp_path.iterdir()
    assert path.stat().st_mode & 0o077 == 0
    old = time.time() - KEEP_SECONDS - 5
    os.utime(path, (old, old))
    assert asyncio.run(directory.find("a", "key")) is None
    assert not list(tmp_path.iterdir())


def test_folder_that_cannot_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="--keep"):
        FolderDirectory(tmp_path / "file" / "below")


SERVER = """
import ms_infer.serve.open
from ms_infer.serve.cli import main
from tests.serve.moving_picture import MovingPicture

ms_infer.serve.open.stream_opener = lambda config: MovingPicture
raise SystemExit(main(["demo", "--port", "0", "--fps", "48", "--keep", {folder!r}]))
"""


def test_process_that_is_told_to_end_saves_says_goodbye_and_ends(tmp_path: Path) -> None:
    """SIGTERM, as service managers send it."""
    folder = tmp_path / "kept"
    command = [sys.executable, "-c", SERVER.format(folder=str(folder))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        server = Running(int(address.rstrip("/").rpartition(":")[2]), None)
        server.until_ready()
        page = busy(server)
        process.send_signal(signal.SIGTERM)
        assert ended(page) == RESTART
        assert page.byes[-1]["reason"] == "moved"
        assert process.wait(60) == -signal.SIGTERM  # once all is done, as who sent it expects
    assert len(list(folder.iterdir())) == 1
    with running(fps=FPS, keep=folder) as made, Page(made, join=False) as back:
        back.join(session=page.hello["session"], key=page.hello["key"])
        back.until(lambda: back.hello)
        assert back.hello["state"] == "paused"
