"""What a fleet costs beside plain `ms-serve`, and how long the picture stands still when an engine dies.

    python benchmarks/bench_fleet_live.py                # a stand-in of 0.1 s a chunk and 13 MB state
    python benchmarks/bench_fleet_live.py demo
    python benchmarks/bench_fleet_live.py --kills 8
    python benchmarks/bench_fleet_live.py --head         # what goes on without Ray's head, and for how long

Both serve one page on this machine. A frame's way is from the end of its chunk to the page, the pace included, which is
the same in both. Processor time is that of all processes of the server, the engine's included. With kills a state is
kept after every chunk, so that there is next to nothing to make again. Frames that are missing are numbers that never
came; dropped are those that the server says it let fall for a page whose link still had others on its way.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tyro

from benchmarks.bench_serve import CONTROL, FRAME, HELLO, SEEN, STATS, wait_until_ready

if TYPE_CHECKING:
    from ms_infer.fleet.config import FleetConfig

STAND_IN = "tests.fleet.stand_in:StandIn"
TICKS = os.sysconf("SC_CLK_TCK")
SERVER = """
import sys
from ms_infer.fleet.config import FleetConfig
from ms_infer.serve.app import create_app
from ms_infer.serve.web.transport import bind, make_server
config = FleetConfig.from_dict({settings!r})
serving = config.serving()
make_server(create_app(serving, config.opener()), serving, lambda port: print(port, flush=True)).run([bind(serving)])
"""


@dataclass(frozen=True)
class Options:
    """Drive both and print what they cost."""

    source: tyro.conf.Positional[str] = "stand-in"
    seconds: float = 30.0
    warm_up: float = 5.0
    fps: float = 24.0
    kills: int = 0
    """Engines that are killed, each once the one before is back, instead of counting what it costs."""
    head: bool = False
    """Kill Ray's head instead, and see what goes on."""
    port: int = 8650
    watch: int = 0
    """Only be a page, of a server that listens to this port."""


@dataclass
class Seen:
    """Arrivals of frames: number, when, and milliseconds since their chunk was made."""

    frames: list[tuple[int, float, float]] = field(default_factory=list)
    dropped: int = 0
    """Frames that the server let fall as a newer one came before the link took them; told once a second."""
    before: int = 0
    """Of these, those that are not counted."""
    ended: str = ""

    def begin(self) -> None:
        """Count from here on."""
        self.frames.clear()
        self.before = self.dropped

    def told(self) -> str:
        ways = np.array([way for _, _, way in self.frames])
        numbers = [number for number, _, _ in self.frames]
        missing = numbers[-1] - numbers[0] + 1 - len(set(numbers))
        counts = f"{len(numbers)} frames, {missing} missing, {self.dropped - self.before} dropped"
        return f"{counts}; way p50 {np.median(ways):.1f} p95 {np.percentile(ways, 95):.1f}"


async def visit(port: int, until: Callable[[], bool], seen: Seen) -> None:
    """A page that drags once, and reads."""
    from websockets.asyncio.client import connect
    from websockets.exceptions import ConnectionClosed

    async with connect(f"ws://127.0.0.1:{port}/ws", max_size=None, compression=None, open_timeout=60) as socket:
        said = 0

        async def send(do: str, **content: object) -> None:
            nonlocal said
            said += do != "join"
            text = json.dumps({"do": do, "id": said, "t": time.monotonic() * 1e3, **content})
            await socket.send(bytes([CONTROL]) + text.encode())

        await send("join", version=2)
        count = 0
        try:
            while not until():
                data = await socket.recv(decode=False)
                count += 1
                await socket.send(struct.pack("<BI", SEEN, count))
                if data[0] == HELLO:
                    await send("camera", x=0.3, zoom=0.1)
                    await send("start", seed=5)
                elif data[0] == STATS:
                    seen.dropped = json.loads(data[1:]).get("dropped", seen.dropped)
                elif data[0] == FRAME:
                    now = time.monotonic()
                    _, number, _, made_ms = struct.unpack_from("<IIId", data, 6)
                    seen.frames.append((number, now, now * 1e3 - made_ms))
        except ConnectionClosed as end:
            seen.ended = str(end)


def family(process: int) -> list[int]:
    """A process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found, todo = [], [process]
    while todo:
        found.append(todo.pop())
        todo += children.get(found[-1], [])
    return found


def processor_seconds(processes: list[int]) -> dict[str, float]:
    """Time that they have taken, threads included, by the first word of what they are."""
    taken: dict[str, float] = {}
    for process in processes:
        with suppress(OSError):
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            name = Path(f"/proc/{process}/cmdline").read_text().split("\0")[0].rpartition("/")[2].split(".")[0]
            taken[name] = taken.get(name, 0.0) + (int(fields[11]) + int(fields[12])) / TICKS
    return taken


def count(options: Options, port: int, processes: Callable[[], list[int]], name: str) -> Seen:
    """Play, and print the way of a frame and its processor time."""
    seen, begun = Seen(), time.monotonic()
    state: dict[str, Any] = {}

    def over() -> bool:
        now = time.monotonic() - begun
        if now > options.warm_up and "at" not in state:
            seen.begin()
            state.update(at=now, taken=processor_seconds(processes()))
        return now > options.warm_up + options.seconds

    asyncio.run(visit(port, over, seen))
    taken = {
        n: 1e3 * (s - state["taken"].get(n, 0)) / len(seen.frames) for n, s in processor_seconds(processes()).items()
    }
    parts = ", ".join(f"{n} {ms:.2f}" for n, ms in sorted(taken.items(), key=lambda one: -one[1]) if ms >= 0.05)
    print(f"{name}: {seen.told()} ms; {sum(taken.values()):.2f} ms of processor time a frame ({parts})", flush=True)
    return seen


def settings(options: Options, port: int) -> FleetConfig:
    from ms_infer.fleet.config import FleetConfig

    opens = STAND_IN if options.source == "stand-in" else ""
    source = "demo" if options.source == "stand-in" else options.source
    return FleetConfig(
        source=source, opens=opens, port=port, fps=options.fps, rest=False, min_fps=0.01, codec="jpeg",
        save_chunks=1 if options.kills else 4, cpus=0.1, gateway_cpus=0.1,
    )  # fmt: skip


def plain(options: Options) -> None:
    config = settings(options, options.port).to_dict()
    server = subprocess.Popen([sys.executable, "-c", SERVER.format(settings=config)], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        port = server.stdout.readline().strip()
        wait_until_ready(port)
        count(options, int(port), lambda: family(server.pid), "plain ms-serve")
    finally:
        server.terminate()
        server.wait(30)


def fleet(options: Options) -> None:
    from ms_infer.fleet.deploy import run
    from ms_infer.fleet.local import begin_local

    config = settings(options, options.port + 1)
    begin_local(config)
    import ray
    from ray import serve

    try:
        run(config)
        wait_until_ready(str(config.port))
        own = os.getpid()
        if options.kills or options.head:
            (kill_head if options.head else kill_engines)(options, config)
        else:
            count(options, config.port, lambda: [one for one in family(own) if one != own], "fleet")
    finally:
        if not options.head:
            serve.shutdown()
        ray.shutdown()


def kill_engines(options: Options, config: FleetConfig) -> None:
    """The longest gap between two frames after each kill."""
    from tests.fleet.live import Fleet

    found, seen, kills = Fleet(config, Path()), Seen(), list[float]()
    begun = looked = time.monotonic()

    def over() -> bool:
        nonlocal looked
        now = time.monotonic()
        due = (kills[-1] + 8 if kills else begun + options.warm_up) < now and looked + 1 < now
        if due and len(kills) < options.kills and seen.frames:
            looked = now
            if len(found.status()["engines"]) == config.replicas:  # the one that was killed is back
                pid = found.busy_engine()[1]
                kills.append(time.monotonic())
                os.kill(pid, signal.SIGKILL)
        return len(kills) == options.kills and now > kills[-1] + 8

    asyncio.run(visit(config.port, over, seen))
    times = np.array([at for _, at, _ in seen.frames])
    for at in kills:
        near = times[(times > at - 1) & (times < at + 7)]
        print(f"killed after {at - begun:.1f} s: longest gap {1e3 * np.diff(near).max():.0f} ms")
    print(seen.told(), "ms;", seen.ended or "the socket stayed open")


def kill_head(options: Options, config: FleetConfig) -> None:
    """How long frames still come; the page is a process of its own, for this one ends with the cluster."""
    watching = [*sys.orig_argv, "--watch", str(config.port)]
    with subprocess.Popen(watching) as page:
        time.sleep(options.warm_up + 5)
        heads = [one for one in family(os.getpid()) if "gcs_server" in Path(f"/proc/{one}/cmdline").read_text()]
        os.kill(heads[0], signal.SIGKILL)
        print(f"killed the head {options.warm_up + 5:.0f} s after the page was begun", flush=True)
        page.wait()


def watch(options: Options) -> None:
    """A page that tells what it sees."""
    seen, begun = Seen(), time.monotonic()
    seconds = options.warm_up + options.seconds
    with suppress(TimeoutError):
        asyncio.run(
            asyncio.wait_for(visit(options.watch, lambda: time.monotonic() > begun + seconds, seen), seconds + 5)
        )
    last = seen.frames[-1][1] - begun
    print(f"the last frame came after {last:.1f} s: {seen.told()} ms; {seen.ended or 'the socket stayed open'}")


def main() -> None:
    options = tyro.cli(Options)
    if options.watch:
        watch(options)
        return
    if not (options.kills or options.head):
        plain(options)
    fleet(options)
    print(f"{options}; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
