"""Which engine has the seat of which stream: pure, so that it is tested without engines and without time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ms_infer.serve.place import Seats, admits, best


@dataclass
class Home:
    """One engine."""

    node: str
    capacity: float
    heard: float
    leaving: bool = False
    """It takes nobody any more, and hands over those that it has."""


class Places:
    """Seats are reserved before they are taken. Every engine takes part from its first report on."""

    def __init__(self, spare: float = 0.0) -> None:
        self.spare = spare
        self.engines: dict[str, Home] = {}
        self.seats: dict[str, str | None] = {}
        """Seat -> engine; None for one that lost its engine and waits for another."""
        self.drained: set[str] = set()
        """Nodes that take nobody."""

    def report(self, engine: str, node: str, capacity: float, now: float) -> None:
        """An engine tells that it is there."""
        home = self.engines.setdefault(engine, Home(node, capacity, now))
        home.capacity, home.heard = capacity, now
        home.leaving = home.leaving or node in self.drained

    def reserve(self, seat: str, *, first: bool) -> str | None:
        """An engine for one more stream, None when there is none.

        first: for a session that lost its server. It has a seat somewhere, which it will give back, so it may sit down
        where no seat is free.
        """
        engines = self._engines()
        if first and best(engines) is None:
            engines = [Seats(used, capacity + used if capacity else 0) for used, capacity in engines]
        elif not first and not admits(engines, waiting=len(self.waiting), spare=self.spare):
            return None
        return self._sit(seat, engines)

    def move(self, seat: str, away_from: str) -> str | None:
        """Another engine for a stream that lost this one; None while there is no free seat. It then comes first."""
        home = self.seats.get(seat)
        if home is not None and home != away_from:
            return home
        self.seats[seat] = None
        names, engines = list(self.engines), self._engines()
        others = [Seats(0, 0) if name == away_from else one for name, one in zip(names, engines, strict=True)]
        return self._sit(seat, others) or self._sit(seat, engines)

    def free(self, seat: str) -> None:
        """A stream has ended."""
        self.seats.pop(seat, None)

    def adopt(self, seat: str, engine: str) -> None:
        """A stream of which only its engine knows."""
        self.seats.setdefault(seat, engine)

    def leave(self, engine: str) -> None:
        """An engine takes nobody any more."""
        if engine in self.engines:
            self.engines[engine].leaving = True

    def lose(self, engine: str) -> list[str]:
        """An engine is gone; the streams that lost it."""
        self.engines.pop(engine, None)
        lost = [seat for seat, home in self.seats.items() if home == engine]
        self.seats.update(dict.fromkeys(lost))
        return lost

    def drain(self, node: str) -> list[str]:
        """A node takes nobody any more; its engines."""
        self.drained.add(node)
        found = [name for name, home in self.engines.items() if home.node == node]
        for name in found:
            self.leave(name)
        return found

    def on(self, engine: str) -> set[str]:
        """Seats of an engine."""
        return {seat for seat, home in self.seats.items() if home == engine}

    @property
    def waiting(self) -> list[str]:
        """Streams that lost their engine, and have no other one yet."""
        return [seat for seat, home in self.seats.items() if home is None]

    @property
    def capacity(self) -> float:
        """Seats in all, of engines that take streams."""
        return sum(home.capacity for home in self.engines.values() if not home.leaving)

    def _engines(self) -> list[Seats]:
        used = list(self.seats.values())
        return [Seats(used.count(name), 0 if h.leaving else h.capacity) for name, h in self.engines.items()]

    def _sit(self, seat: str, engines: list[Seats]) -> str | None:
        place = best(engines)
        if place is None:
            return None
        self.seats[seat] = list(self.engines)[place]
        return self.seats[seat]


def expired(heard: dict[str, float], now: float, seconds: float) -> Iterable[str]:
    """Names that were not heard of for so long."""
    return [name for name, at in heard.items() if now - at > seconds]
