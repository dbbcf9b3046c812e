"""What `ms-serve` delivers: frames per second, lag of a control, several sessions at once, memory over a long run.

    python benchmarks/bench_serve.py demo --fps 24
    python benchmarks/bench_serve.py demo --sessions 2
    python benchmarks/bench_serve.py demo --soak 20
    python benchmarks/bench_serve.py demo --at-rest     # processor time of a session in which nothing moves

It starts the server as a process of its own and drives it over WebSockets with random drags. `--soak MINUTES` adds
prompts, pauses, camera moves and resets, and fails unless memory stays flat, every frame comes in order and nothing
goes wrong.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import struct
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tyro

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

HELLO, CONTROL, FRAME, STATS, ERROR, BYE, SEEN = 1, 2, 3, 5, 6, 7, 9
FLAT = 2.0  # percent that memory may grow by in a soak


@dataclass(frozen=True)
class Options:
    """Drive a server and print what its clients see."""

    source: tyro.conf.Positional[str] = "demo"
    seconds: float = 60.0
    warm_up: float = 10.0
    """Seconds at the start that are not counted."""
    sessions: int = 1
    fps: float | None = None
    """Rate the server is asked for; None is the model's own."""
    engine: str = "auto"
    soak: float = 0.0
    """Minutes of a soak, which replace `seconds`; 0 is none."""
    at_rest: bool = False
    """Start one session, touch nothing, and print the share of a core that the server takes."""
    seed: int = 0

    @property
    def counted(self) -> float:
        """Seconds that are counted."""
        return self.soak * 60 or self.seconds


@dataclass
class Seen:
    """What one client saw."""

    begin: float
    """What comes before is not counted."""
    arrivals: list[float] = field(default_factory=list)
    lags_ms: list[float] = field(default_factory=list)
    """From a control to the first frame made with it."""
    held_ms: list[float] = field(default_factory=list)
    """The part of each lag after the chunk was made: both processes read one clock."""
    chunk_ms: list[float] = field(default_factory=list)
    late: list[int] = field(default_factory=list)
    """The server's count of chunks that were not ready in time."""
    disorder: int = 0
    errors: list[str] = field(default_factory=list)
    last: tuple[int, int] = (-1, -1)


class Visitor:
    """One page with a restless user."""

    def __init__(self, socket: ClientConnection, options: Options, number: int, end: float) -> None:
        self.socket, self.options, self.number, self.end = socket, options, number, end
        self.seen = Seen(end - options.counted)
        self.sent: dict[int, float] = {}
        self._control = self._received = 0
        self._rng = random.Random(options.seed * 1000 + number)

    async def run(self) -> Seen:
        await self.send("join", version=2)
        while (first := await self.receive())[0] != HELLO:
            if first[0] == ERROR:
                self.seen.errors.append(first[1:].decode())
                return self.seen
        user = asyncio.create_task(self._use())
        while time.monotonic() < self.end:
            try:
                async with asyncio.timeout(1):
                    data = await self.receive()
            except TimeoutError:
                continue
            if data[0] in (ERROR, BYE):
                self.seen.errors.append(data[1:].decode())
            if data[0] == STATS:
                note_stats(self.seen, json.loads(data[1:]))
            if data[0] == FRAME:
                note_frame(self.seen, self.sent, data, resets=self.options.soak > 0)
        user.cancel()
        return self.seen

    async def receive(self) -> bytes:
        """The next message; the server is told that it came."""
        data = await self.socket.recv(decode=False)
        self._received += 1
        await self.socket.send(struct.pack("<BI", SEEN, self._received))
        return data

    async def send(self, do: str, **content: object) -> None:
        self._control += do != "join"
        text = json.dumps({"do": do, "id": self._control, "t": time.monotonic() * 1e3, **content})
        await self.socket.send(bytes([CONTROL]) + text.encode())

    async def _use(self) -> None:
        rng = self._rng
        await self.send("start", seed=self.number)
        while time.monotonic() < self.end:
            await asyncio.sleep(rng.uniform(0.1, 0.8))
            if self.options.soak and rng.random() < 0.1:
                await self._whim()
            await self._drag()

    async def _drag(self) -> None:
        rng = self._rng
        x, y = rng.uniform(0.2, 0.8), rng.uniform(0.2, 0.8)
        dx, dy = rng.uniform(-0.01, 0.01), rng.uniform(-0.01, 0.01)
        steps = rng.randrange(5, 60)
        for step in range(steps):
            phase = "down" if step == 0 else "up" if step == steps - 1 else "move"
            now = time.monotonic()
            self.sent[self._control + 1] = now
            place = (min(max(x + dx * step, 0), 1), min(max(y + dy * step, 0), 1))
            await self.send("pointers", events=[[1, phase, now * 1e3, *place]], radius=0.2)
            await asyncio.sleep(1 / 60)

    async def _whim(self) -> None:
        rng = self._rng
        do = rng.choice(["reset", "clear", "prompt", "camera", "pause"])
        if do == "prompt":
            await self.send("prompt", text=rng.choice(["night", "snow", "fog", "", "a plain day"]))
        elif do == "camera":
            await self.send("camera", x=rng.uniform(-1, 1), zoom=rng.uniform(-1, 1))
            await asyncio.sleep(1)
            await self.send("camera")
        elif do == "pause":
            await self.send("pause")
            await asyncio.sleep(rng.uniform(0, 1))
            await self.send("resume")
        else:
            await self.send(do)


async def client(address: str, options: Options, number: int, end: float) -> Seen:
    """Connect, use the page until the end, tell what came."""
    from websockets.asyncio.client import connect

    async with connect(address, max_size=None, compression=None) as socket:
        return await Visitor(socket, options, number, end).run()


def note_frame(seen: Seen, sent: dict[int, float], data: bytes, *, resets: bool) -> None:
    """Count a frame."""
    now = time.monotonic()
    chunk, index, control, made_ms = struct.unpack_from("<IIId", data, 6)
    restarted = resets and chunk == 0 and index < seen.last[1]
    seen.disorder += (chunk, index) <= seen.last and not restarted
    seen.last = (chunk, index)
    shown = [sent.pop(one) for one in list(sent) if one <= control]
    if now >= seen.begin:
        seen.arrivals.append(now)
        seen.lags_ms += [(now - at) * 1e3 for at in shown]
        seen.held_ms += [now * 1e3 - made_ms] * len(shown)


def note_stats(seen: Seen, stats: dict[str, Any]) -> None:
    """Count what the server tells of itself once a second."""
    if "chunk_ms" in stats and time.monotonic() >= seen.begin:
        seen.chunk_ms.append(stats["chunk_ms"])
        seen.late.append(stats["late"])


def describe(seen: Seen, seconds: float) -> str:
    """One session in words."""
    gaps = np.diff(seen.arrivals) * 1e3 if len(seen.arrivals) > 1 else np.zeros(1)
    lags, held = np.array(seen.lags_ms or [np.nan]), np.array(seen.held_ms or [np.nan])
    late = seen.late[-1] - seen.late[0] if seen.late else 0
    return (
        f"{len(seen.arrivals) / seconds:.1f} frames/s, gap p50 {np.median(gaps):.0f} p99 {np.percentile(gaps, 99):.0f} "
        f"ms, drag to frame p50 {np.percentile(lags, 50):.0f} p95 {np.percentile(lags, 95):.0f} ms ({len(lags)} "
        f"controls; of it made to seen p50 {np.median(held):.0f} ms), chunk p50 {np.median(seen.chunk_ms or [0]):.0f} "
        f"ms, {late} late, {seen.disorder} out of order, {len(seen.errors)} errors {seen.errors[:1]}"
    )


def memory_mib(process: int) -> float:
    """Resident memory of a process."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


async def watch_memory(process: int, end: float) -> list[float]:
    """A sample every two seconds."""
    samples = []
    while time.monotonic() < end:
        await asyncio.sleep(2)
        samples.append(memory_mib(process))
    return samples


async def rest(address: str, options: Options, process: int) -> list[str]:
    """Start a session, wait until it rests, and print what that costs."""
    from websockets.asyncio.client import connect

    async with connect(address, max_size=None, compression=None) as socket:
        visitor = Visitor(socket, options, 0, time.monotonic())
        await visitor.send("join", version=2)
        await visitor.send("start")
        resting = False
        while not resting:
            data = await visitor.receive()
            resting = data[0] == STATS and json.loads(data[1:]).get("resting") is True
        keeping = asyncio.create_task(keep_reading(visitor))
        await asyncio.sleep(2)
        before, begin = processor_seconds(process), time.monotonic()
        await asyncio.sleep(options.seconds)
        share = (processor_seconds(process) - before) / (time.monotonic() - begin)
        keeping.cancel()
    print(f"at rest: {100 * share:.1f} % of a core")
    return []


async def keep_reading(visitor: Visitor) -> None:
    while True:
        await visitor.receive()


def processor_seconds(process: int) -> float:
    """Time that a process and its threads have taken."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def drive(address: str, options: Options, process: int) -> list[str]:
    """Let clients use the server and print what they saw; returns what a soak may not hold."""
    end = time.monotonic() + options.warm_up + options.counted
    watching = asyncio.create_task(watch_memory(process, end))
    clients = await asyncio.gather(*(client(address, options, n, end) for n in range(options.sessions)))
    for number, seen in enumerate(clients):
        print(f"session {number}: {describe(seen, options.counted)}")
    samples = np.array(await watching)
    steady = samples[len(samples) // 4 :]
    third = max(len(steady) // 3, 1)
    early, late = steady[:third].mean(), steady[-third:].mean()
    growth = 100 * (late / early - 1)
    print(f"memory: {early:.0f} MiB early, {late:.0f} MiB late ({growth:+.1f} %), most {samples.max():.0f}")
    return [
        *([f"memory grew by {growth:.1f} %"] if growth > FLAT else []),
        *(f"session {n}: {seen.disorder} frames out of order" for n, seen in enumerate(clients) if seen.disorder),
        *(f"session {n}: {seen.errors[0]}" for n, seen in enumerate(clients) if seen.errors),
        *(f"session {n}: no frames" for n, seen in enumerate(clients) if not seen.arrivals),
    ]


def main() -> None:
    options = tyro.cli(Options)
    command = [sys.executable, "-c", "from ms_infer.serve.cli import main; main()", options.source, "--port", "0"]
    command += ["--engine", options.engine, "--min-fps", "0.01", "--max-sessions", str(options.sessions)]
    command += [] if options.at_rest else ["--no-rest"]
    command += [] if options.fps is None else ["--fps", str(options.fps)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        port = server.stdout.readline().strip().rstrip("/").rpartition(":")[2]
        wait_until_ready(port)
        load = os.getloadavg()[0]
        work = rest if options.at_rest else drive
        wrong = asyncio.run(work(f"ws://127.0.0.1:{port}/ws", options, server.pid))
        print(f"{options}; {os.cpu_count()} cores, load before {load:.1f}, after {os.getloadavg()[0]:.1f}")
    finally:
        server.terminate()
        server.wait(30)
    if options.soak and wrong:
        sys.exit("the soak failed: " + "; ".join(wrong))


def wait_until_ready(port: str) -> None:
    """Until the model is loaded and warm."""
    from urllib.error import URLError
    from urllib.request import urlopen

    while True:
        try:
            with urlopen(f"http://127.0.0.1:{port}/readyz"):
                return
        except URLError:
            time.sleep(0.2)


if __name__ == "__main__":
    main()
