"""A running fleet, what tests do to it, and what a page sees meanwhile."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np
from numpy.typing import NDArray
from websockets.exceptions import WebSocketException

from ms_infer.fleet.config import FleetConfig
from ms_infer.serve.wire.encode import JpegEncoder
from ms_infer.serve.wire.grades import JPEG, halved
from tests.serve.live import Page, Running, running

Result = TypeVar("Result")
PATIENCE = 240.0
"""Seconds for what takes one where nothing else runs: processes start slowly on a busy machine."""


@dataclass
class Fleet:
    config: FleetConfig
    steps: Path
    """Folder with a file per process that makes a chunk."""

    @property
    def server(self) -> Running:
        return Running(self.config.port, None)

    def status(self) -> dict[str, Any]:
        import ray

        from ms_infer.fleet.ray_links import find_keeper

        found: dict[str, Any] = ray.get(find_keeper().status.remote())
        return found

    def until_ready(self) -> None:
        """All engines can be seated, nobody sits, and the gateways answer."""

        def ready() -> bool:
            told = self.status()
            homes = [one for one in told["engines"].values() if not one["leaving"]]
            alive = set(told["engines"]) <= set(self.pids("Engine"))
            return alive and len(homes) == self.config.replicas and not told["streams"]

        until(ready)
        until(self.answers)

    def answers(self) -> bool:
        """Whether a gateway lets pages in."""
        try:
            with self.server.http(timeout=PATIENCE) as http:
                return http.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def pids(self, kind: str) -> dict[str, int]:
        """Processes of the replicas that run, by their ids."""
        from ray.serve.context import _get_global_client

        applications = _get_global_client().get_serve_details()["applications"]
        return {
            replica["replica_id"]: replica["pid"]
            for application in applications.values()
            for name, deployment in application["deployments"].items()
            for replica in deployment["replicas"]
            if name == kind and replica["state"] == "RUNNING"
        }

    def busy_engine(self) -> tuple[str, int]:
        """The engine that has a stream, and its process."""
        name = next(name for name, one in self.status()["engines"].items() if one["streams"])
        return name, self.pids("Engine")[name]

    def kill_engine(self, *, in_a_step: bool = False) -> str:
        name, pid = self.busy_engine()
        mark = self.steps / str(pid)
        until(lambda: mark.exists() == in_a_step)
        os.kill(pid, signal.SIGKILL)
        mark.unlink(missing_ok=True)
        return name

    def kill_keeper(self) -> None:
        import ray

        from ms_infer.fleet.ray_links import find_keeper

        os.kill(ray.get(find_keeper().__ray_call__.remote(lambda _: os.getpid())), signal.SIGKILL)

    def update_engines(self) -> None:
        """Returns once all are new."""
        from ms_infer.fleet.deploy import ENGINES, deploy, engines

        self.config = replace(self.config, save_chunks=self.config.save_chunks + 1)
        deploy(engines(self.config.to_dict()), ENGINES, None)

    def update_gateways(self) -> None:
        """Returns once all are new."""
        from ms_infer.fleet.deploy import GATEWAYS, deploy, gateways

        self.config = replace(self.config, save_chunks=self.config.save_chunks + 1)
        deploy(gateways(self.config.to_dict()), GATEWAYS, "/")

    def begin_again(self, **changes: Any) -> None:
        """The whole fleet anew, with other settings."""
        import ray
        from ray import serve

        from ms_infer.fleet.deploy import ENGINES, GATEWAYS, run
        from ms_infer.fleet.ray_links import find_keeper

        for name in (GATEWAYS, ENGINES):
            serve.delete(name)
        ray.kill(find_keeper())
        self.config = replace(self.config, **changes)
        run(self.config)
        self.until_ready()


def until(wanted: Callable[[], Any], seconds: float = PATIENCE) -> None:
    end = time.monotonic() + seconds
    while not wanted():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def begin(page: Page, seed: int = 5) -> None:
    """Set things moving in a way that depends on nothing but the frames."""
    page.send("camera", x=0.3, zoom=0.15)
    page.send("path", points=[[0.4, 0.4], [0.6, 0.5], [0.4, 0.6]], seconds=6, radius=0.2)
    page.send("start", seed=seed)


def shown(page: Page) -> int:
    """Chunks of which a frame has come."""
    return page.frames[-1].chunk + 1 if page.frames else 0


def play(page: Page, chunks: int) -> None:
    page.until(lambda: shown(page) >= chunks, PATIENCE)


def beside(page: Page, work: Callable[[], Result]) -> Result:
    """Do something while the page goes on reading: a server lets frames fall that a slow page would get too late."""
    with ThreadPoolExecutor(1) as pool:
        doing = pool.submit(work)
        page.until(doing.done, PATIENCE)
        return doing.result()


class Plain:
    """The pictures that plain ms-serve makes of the same, frame by frame."""

    def __init__(self, make: Callable[[], Any], fps: float, chunks: int, seed: int = 5) -> None:
        self.frames: list[NDArray[np.uint8]] = []

        def recorded() -> Any:
            stream = make()
            step, start = stream.step, stream.start

            def begun(*what: Any, **named: Any) -> None:
                self.frames.clear()
                start(*what, **named)

            def stepped() -> Any:
                chunk = step()
                self.frames.extend(chunk.frames)
                return chunk

            stream.step, stream.start = stepped, begun
            return stream

        with running(recorded, fps=fps, codec="jpeg") as made, Page(made) as page:
            begin(page, seed)
            play(page, 2)
            page.send("pause")
            page.until(lambda: page.stats.get("state") == "paused")
            self.sent = {one.index: one.picture for one in page.frames}
            (session,) = made.app.state.hub.sessions.values()
            while len(self.frames) < chunks * session.chunk_frames:  # the rest as fast as it goes
                session.lane.worker.call(session.maker.make)

    def has(self, index: int, picture: bytes) -> bool:
        """Whether a picture is that of plain ms-serve, in the grade that the link had at that time."""
        if picture == self.sent.get(index):
            return True
        frame = self.frames[index]
        grades = [(grade, halved(frame) if grade.half else frame) for grade in JPEG]
        return picture in [JpegEncoder(grade.quality).encode(one, key=True)[0] for grade, one in grades]


def come_back(page: Page) -> Page:
    """Another page with the session of one that has ended: it asks until it has it, as ms-serve's own does."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with suppress(WebSocketException, OSError):
            back = Page(page.server, join=False, open_timeout=PATIENCE)
            back.join(session=page.hello["session"], key=page.hello["key"])
            if back.hello:
                return back
            assert {error["reason"] for error in back.errors} <= {"loading"}
            back.socket.close()
        time.sleep(0.5)
    raise AssertionError("the session did not come back in time")


def check(page: Page, plain: Plain, first: int = 0, dropped: int = 0) -> None:
    """Every frame came once, in order, as plain ms-serve makes it, and nothing went wrong.

    dropped: frames of connections before this one that the server let fall.
    """
    indices = [one.index for one in page.frames]
    page.stats.pop("dropped", None)
    page.until(lambda: "dropped" in page.stats, PATIENCE)
    missing = set(range(first, indices[-1] + 1)) - set(indices)
    assert indices == sorted(set(indices))
    assert len(missing) <= page.stats["dropped"] + dropped  # for a page that read too slowly, and no other reason
    chunks = [one.chunk for one in page.acks if one.first >= first]
    assert chunks == list(range(chunks[0], chunks[0] + len(chunks)))
    assert all(plain.has(one.index, one.picture) for one in page.frames[: len(indices)])
    assert not page.errors
    assert not page.byes
