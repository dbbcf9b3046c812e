"""What many viewers of many engines see when sessions are placed in one way or another: a simulation, no measurement.

    python benchmarks/bench_fleet.py
    python benchmarks/bench_fleet.py --seconds 3600 --seed 1

Virtual time, seeded. Sessions come in bursts, engines crash, and an update takes one engine after the other. An engine
makes one chunk at a time; a chunk is late when it is not there when the one before it has been shown. A session whose
engine crashed goes on from its newest saved state, so that the chunks since then are made again (a replay). Placing is
the server's own (`ms_infer.serve.place`).
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import tyro

from ms_infer.serve.place import Seats, admits, best


@dataclass(frozen=True)
class Policy:
    """One way to place."""

    name: str
    polled: float = 0.0
    """Seconds between two looks at how full the engines are, nothing being reserved; 0: a seat is reserved at once."""
    residents_first: bool = True
    """Chunks that are shown now are made before those of replays."""
    first: bool = True
    """Sessions that lost their engine come before new ones: some seats are kept for them."""


POLICIES = (
    Policy("reserved, residents first, seats kept"),
    Policy("the better of two, load polled every 10 s, nothing reserved", polled=10.0),
    Policy("replays take turns with residents", residents_first=False),
    Policy("no seats kept for who lost an engine", first=False),
)


@dataclass(frozen=True)
class Options:
    """Simulate a fleet and print a table."""

    sessions: int = 1000
    """That watch at the same time, on average, were nobody refused."""
    engines: int = 50
    seconds: float = 600.0
    chunk_seconds: float = 0.75
    """A chunk is shown for so long."""
    make_seconds: float = 0.034
    crashes: int = 6
    restart_seconds: float = 60.0
    update_seconds: float = 30.0
    """An engine is away for its update; the update begins after a third of the time."""
    handover_seconds: float = 0.3
    """An exact move takes so long."""
    save_chunks: int = 8
    """Chunks between two saved states: a crash makes up to so many be made again."""
    spare: float = 0.05
    """Share of the seats that is kept for sessions that lost their engine."""
    seed: int = 0


@dataclass
class Engine:
    """One engine: who is on it, and the chunks that are wanted of it (rank, due, session)."""

    alive: bool = True
    busy: bool = False
    epoch: int = 0
    """Counts its lives."""
    members: set[int] = field(default_factory=set)
    wanted: list[tuple[int, float, int]] = field(default_factory=list)


@dataclass
class Viewer:
    """One session."""

    ends: float
    engine: int | None = None
    due: float = 0.0
    made: int = 0
    replay: int = 0
    since: float = 0.0


@dataclass
class Told:
    """What came of it."""

    asked: int = 0
    refused: int = 0
    chunks: int = 0
    late: int = 0
    frozen: float = 0.0
    longest: float = 0.0
    watched: float = 0.0

    def row(self, name: str) -> str:
        hours = max(self.watched / 3600, 1e-9)
        refused, late = 100 * self.refused / max(self.asked, 1), 100 * self.late / max(self.chunks, 1)
        return f"| {name} | {refused:.1f} % | {late:.3f} % | {self.frozen / hours:.1f} | {self.longest:.1f} |"


class Fleet:
    """One run. Events are (time, number, what to do)."""

    def __init__(self, options: Options, policy: Policy) -> None:
        self.options, self.policy, self.told = options, policy, Told()
        self.random = random.Random(options.seed)
        self.engines = [Engine() for _ in range(options.engines)]
        self.viewers: dict[int, Viewer] = {}
        self.lost: list[int] = []
        """Sessions without an engine, in the order in which they lost it."""
        self.seats = int(options.chunk_seconds / options.make_seconds)
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._looked: list[int] = [0] * options.engines

    def run(self) -> Told:
        options = self.options
        self._arrivals()
        for _ in range(options.crashes):
            engine = self.random.randrange(options.engines)
            self._at(self.random.uniform(0.1, 0.9) * options.seconds, lambda engine=engine: self._crash(engine))
        for engine in range(options.engines):
            at = options.seconds / 3 + engine * options.update_seconds
            self._at(at, lambda engine=engine: self._update(engine))
        if self.policy.polled:
            self._look()
        while self._events and self._events[0][0] <= options.seconds:
            self.now, _, action = heapq.heappop(self._events)
            action()
        self.now = options.seconds
        for viewer in list(self.viewers):
            self._leave(viewer)
        return self.told

    def _at(self, time: float, action: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._events, (time, self._number, action))

    # ---- who comes and goes

    def _arrivals(self) -> None:
        """Half of them one by one, half in bursts of a twentieth of all within two seconds."""
        options, stay = self.options, 300.0
        rate = options.sessions / stay
        begin = options.sessions if options.seconds < stay else options.sessions // 2
        times = [self.random.uniform(0, 20) for _ in range(begin)]
        time = 0.0
        while time < options.seconds:
            time += self.random.expovariate(rate / 2)
            times.append(time)
        burst = max(options.sessions // 20, 2)
        time = 0.0
        while time < options.seconds:
            time += self.random.expovariate(rate / 2 / burst)
            times += [time + self.random.uniform(0, 2) for _ in range(burst)]
        for number, at in enumerate(sorted(times)):
            self._at(at, lambda number=number: self._come(number, self.random.expovariate(1 / stay)))

    def _come(self, number: int, stay: float) -> None:
        self.told.asked += 1
        engine = self._placed(new=True)
        if engine is None:
            self.told.refused += 1
            return
        viewer = self.viewers[number] = Viewer(self.now + stay, since=self.now, due=self.now + 1.0)
        self._sit(number, viewer, engine)
        self._at(viewer.ends, lambda: self._leave(number))

    def _leave(self, number: int) -> None:
        viewer = self.viewers.pop(number, None)
        if viewer is None:
            return
        self.told.watched += self.now - viewer.since
        if viewer.engine is None:
            self._freeze(self.now - viewer.due)
            self.lost.remove(number)
        else:
            self.engines[viewer.engine].members.discard(number)
            self._seat_lost()

    # ---- where they sit

    def _look(self) -> None:
        self._looked = [len(engine.members) for engine in self.engines]
        self._at(self.now + self.policy.polled, self._look)

    def _placed(self, *, new: bool) -> int | None:
        if self.policy.polled:
            return self._guessed()
        engines = [Seats(len(engine.members), self.seats if engine.alive else 0) for engine in self.engines]
        if new and self.policy.first and not admits(engines, waiting=len(self.lost), spare=self.options.spare):
            return None
        return best(engines)

    def _guessed(self) -> int | None:
        """The better of two engines, by how full they were at the last look: a router that reserves nothing."""
        alive = [index for index, engine in enumerate(self.engines) if engine.alive]
        two = self.random.sample(alive, min(2, len(alive)))
        free = [index for index in two if self._looked[index] < self.seats]
        return min(free, key=lambda index: self._looked[index], default=None)

    def _sit(self, number: int, viewer: Viewer, engine: int) -> None:
        viewer.engine = engine
        self.engines[engine].members.add(number)
        self._want(number, viewer)

    def _want(self, number: int, viewer: Viewer) -> None:
        assert viewer.engine is not None
        engine = self.engines[viewer.engine]
        rank = 1 if viewer.replay and self.policy.residents_first else 0
        heapq.heappush(engine.wanted, (rank, viewer.due, number))
        self._work(viewer.engine)

    def _seat_lost(self) -> None:
        """A seat may be free: those who lost their engine sit down first."""
        while self.lost and (engine := self._placed(new=False)) is not None:
            number = self.lost.pop(0)
            self._sit(number, self.viewers[number], engine)

    # ---- engines

    def _work(self, index: int) -> None:
        engine = self.engines[index]
        while engine.alive and not engine.busy and engine.wanted:
            _, _, number = heapq.heappop(engine.wanted)
            viewer = self.viewers.get(number)
            if viewer is None or viewer.engine != index:
                continue
            engine.busy, life = True, engine.epoch
            self._at(self.now + self.options.make_seconds, lambda n=number, life=life: self._made(index, life, n))

    def _made(self, index: int, life: int, number: int) -> None:
        engine, viewer = self.engines[index], self.viewers.get(number)
        if engine.epoch != life:
            return
        engine.busy = False
        if viewer is not None and viewer.engine == index:
            if viewer.replay:
                viewer.replay -= 1
                self._want(number, viewer)
            else:
                self._shown(number, viewer)
        self._work(index)

    def _shown(self, number: int, viewer: Viewer) -> None:
        self.told.chunks += 1
        viewer.made += 1
        if self.now > viewer.due:
            self.told.late += 1
            self._freeze(self.now - viewer.due)
        viewer.due = max(viewer.due, self.now) + self.options.chunk_seconds
        begin = max(self.now, viewer.due - self.options.chunk_seconds)  # no more than one chunk is made ahead
        self._at(begin, lambda: self._next(number, viewer))

    def _next(self, number: int, viewer: Viewer) -> None:
        if self.viewers.get(number) is viewer and viewer.engine is not None:
            self._want(number, viewer)

    def _freeze(self, seconds: float) -> None:
        if seconds > 0:
            self.told.frozen += seconds
            self.told.longest = max(self.told.longest, seconds)

    def _crash(self, index: int) -> None:
        for viewer in self._down(index, self.options.restart_seconds):
            viewer.replay = viewer.made % self.options.save_chunks
        self._seat_lost()

    def _update(self, index: int) -> None:
        """An exact move: nothing is made again, it only takes a moment."""
        for _ in self._down(index, self.options.update_seconds):
            pass
        self._at(self.now + self.options.handover_seconds, self._seat_lost)

    def _down(self, index: int, seconds: float) -> list[Viewer]:
        """The engine goes away for a time; those on it have none."""
        engine = self.engines[index]
        if not engine.alive:
            return []
        engine.alive, engine.busy, engine.epoch = False, False, engine.epoch + 1
        members, engine.members, engine.wanted = sorted(engine.members), set(), []
        for number in members:
            self.viewers[number].engine = None
        self.lost += members
        self._at(self.now + seconds, lambda: self._up(index))
        return [self.viewers[number] for number in members]

    def _up(self, index: int) -> None:
        self.engines[index].alive = True
        self._seat_lost()


def main() -> None:
    options = tyro.cli(Options)
    seats = int(options.chunk_seconds / options.make_seconds)
    print(f"{options}; {seats} seats an engine, {seats * options.engines} in all")
    print("| policy | refused | late chunks | frozen seconds per watched hour | longest |\n|---|---|---|---|---|")
    for policy in POLICIES:
        print(Fleet(options, policy).run().row(policy.name))


if __name__ == "__main__":
    main()
