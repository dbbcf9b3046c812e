"""The keeper: one actor of the fleet that knows who sits where, and has the newest state of every stream."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ms_infer.fleet.place import Places, expired
from ms_infer.fleet.vault import Card, Place, Vault

logger = logging.getLogger("ray.serve")
NAME, NAMESPACE = "ms-fleet-keeper", "ms-fleet"
BEAT_SECONDS = 0.5
"""Time between two reports of an engine, and how long a gateway listens before it says again that it is there."""
LOOK_SECONDS = 1.0
"""Time between two looks at who was not heard of, and whom Ray Serve is stopping."""
SILENT_SECONDS = 5.0
"""One that was not heard of for so long is gone."""
HANDOVER_SECONDS = 10.0
"""How long a stream waits for the engine that leaves, and a session for the gateway that still has it."""
SEAT_SECONDS = 30.0
"""How long a stream that lost its engine waits for a free seat."""


class Heard(NamedTuple):
    """What an engine is told when it reports."""

    life: str
    """Of the keeper: another one has lost all states."""
    drop: list[str]
    """Streams that it has, and should not."""
    leave: bool
    """Whether it takes nobody any more, and hands over what it has."""


class Order(NamedTuple):
    """What a gateway is told when it listens."""

    life: str
    engines: dict[str, bool]
    """Those that are there; whether they leave."""
    hand_over: list[str]
    """Sessions for which somebody waits elsewhere."""
    leave: bool
    """Whether the gateway itself is being stopped."""
    capacity: float
    used: int
    config: dict[str, Any] | None
    """Settings of the streams, once an engine is there."""


class Found(NamedTuple):
    """What a gateway is told that asks for a session."""

    data: bytes | None
    """The newest of it, for the asker alone; None when there is none."""
    moving: bool = False
    """Somebody else is being given it: it is there again in a moment."""


class Keeper:
    """Asynchronous: all calls share one event loop.

    stopping: tells the replicas that Ray Serve is stopping, from any thread. dead: whether an engine's actor is gone.
    """

    def __init__(
        self,
        spare: float,
        stopping: Callable[[], set[str]] = set,
        dead: Callable[[Any], Awaitable[bool]] | None = None,
    ) -> None:
        self.life = secrets.token_hex(4)
        self.places, self.vault = Places(spare), Vault()
        self.config: dict[str, Any] | None = None
        self._stopping, self._dead, self._leaving = stopping, dead, set[str]()
        self._actors: dict[str, Any] = {}
        self._gateways: dict[str, float] = {}
        self._seat_gateways: dict[str, str] = {}
        self._hand_over: dict[str, list[str]] = {}
        self._began = time.monotonic()
        self._changed = asyncio.Condition()
        self._task = asyncio.get_running_loop().create_task(self._watch())

    # ---- engines

    async def report(self, engine: str, actor: Any, node: str, capacity: float, seats: list[str]) -> Heard:
        """An engine tells, every BEAT_SECONDS, that it is there and what it has."""
        self._actors[engine] = actor
        self.places.report(engine, node, capacity, time.monotonic())
        if engine in self._leaving:
            self.places.leave(engine)
        young = time.monotonic() - self._began < HANDOVER_SECONDS
        for seat in seats if young else []:
            self.places.adopt(seat, engine)
        await self._tell()
        drop = [seat for seat in seats if self.places.seats.get(seat) != engine]
        return Heard(self.life, drop, self.places.engines[engine].leaving)

    async def keep(self, seat: str, place: Place, state: NDArray[np.uint8]) -> tuple[Place, str]:
        """Keep the state of a stream; what is kept now, and by which life."""
        place = self.vault.keep(seat, Place(*place), state.tobytes())
        await self._tell()
        return place, self.life

    async def newest(self, seat: str) -> tuple[Place, NDArray[np.uint8]] | None:
        """The newest state of a stream, as bytes that are handed over without another copy."""
        found = self.vault.newest(seat)
        return None if found is None else (found[0], np.frombuffer(found[1], np.uint8))

    async def describe(self, config: dict[str, Any]) -> None:
        """Settings of the streams that all engines make."""
        self.config = config

    async def lose(self, engine: str) -> None:
        """An engine is gone: it has handed over everything, or it died."""
        self.places.lose(engine)
        self._actors.pop(engine, None)
        await self._tell()

    # ---- streams

    async def reserve(self, seat: str, gateway: str, first: bool) -> str | None:
        """An engine with a seat for one more stream."""
        engine = self.places.reserve(seat, first=first)
        if engine is not None:
            self._seat_gateways[seat] = gateway
        return engine

    async def free(self, seat: str) -> None:
        """A stream has ended."""
        self.places.free(seat)
        self._seat_gateways.pop(seat, None)
        self.vault.forget(seat)
        await self._tell()

    async def move(self, seat: str, away_from: str, wanted: Place, dead: bool) -> tuple[str, Place | None] | None:
        """Another engine for a stream, and where its newest state stands; None when there is no seat for it.

        Unless the engine is dead, its handover is waited for: what is moved exactly need not be made again.
        """
        wanted = Place(*wanted)
        dead = dead or (self._dead is not None and await self._dead(self._actors.get(away_from)))
        if dead:
            await self.lose(away_from)
        await self._until(lambda: dead or self._handed_over(seat, away_from, wanted), HANDOVER_SECONDS)
        engine = self.places.move(seat, away_from)
        if engine is None:
            await self._until(lambda: self.places.move(seat, away_from) is not None, SEAT_SECONDS)
            engine = self.places.seats.get(seat)
        newest = self.vault.newest(seat)
        return None if engine is None else (engine, newest and newest[0])

    def _handed_over(self, seat: str, engine: str, wanted: Place) -> bool:
        newest = self.vault.newest(seat)
        return engine not in self.places.engines or (newest is not None and newest[0] == wanted)

    # ---- gateways

    async def listen(self, gateway: str, seats: list[str], known: Order | None) -> Order:
        """A gateway is there, with these streams; the answer comes when it differs from what is known, or soon."""
        self._gateways[gateway] = time.monotonic()
        self._seat_gateways.update(dict.fromkeys(seats, gateway))
        await self._until(lambda: self._order(gateway) != known, BEAT_SECONDS)
        order = self._order(gateway)
        self._hand_over.pop(gateway, None)
        self._gateways[gateway] = time.monotonic()
        return order

    def _order(self, gateway: str) -> Order:
        engines = {name: home.leaving for name, home in self.places.engines.items()}
        wanted = list(self._hand_over.get(gateway, []))
        leave = gateway in self._leaving
        used, capacity = len(self.places.seats), self.places.capacity
        return Order(self.life, engines, wanted, leave, capacity, used, self.config)

    async def tell(self, name: str, key: str, seat: str, gateway: str, place: Place, light: bytes) -> None:
        """The newest of a session, without its stream."""
        if seat in self.places.seats:  # else somebody else has taken it over
            self.vault.tell(name, key, Card(seat, gateway, Place(*place), bytes(light), time.monotonic()))

    async def save(self, name: str, key: str, seat: str, gateway: str, data: bytes) -> bool:
        """A session with its stream, which its gateway gives up; False when somebody else has it already."""
        if seat not in self.places.seats:
            return False
        self.vault.tell(name, key, Card(seat, gateway, Place(0, 0), b"", time.monotonic(), bytes(data)))
        await self._tell()
        return True

    async def find(self, name: str, key: str) -> Found:
        """A session; the gateway that has it is asked to hand it over first."""
        if self.vault.moving(name, key, time.monotonic()):
            return Found(None, moving=True)
        card = self.vault.ask(name, key)
        if card is None:
            return Found(None)
        if card.whole is None and card.gateway in self._gateways:
            self._hand_over.setdefault(card.gateway, []).append(name)
            await self._tell()
            await self._until(lambda: self._session_free(name, key, card.gateway), HANDOVER_SECONDS)
        data = self.vault.take(name, key, time.monotonic())
        await self.free(card.seat)
        return Found(data)

    def _session_free(self, name: str, key: str, gateway: str) -> bool:
        card = self.vault.card(name, key)
        return card is None or card.whole is not None or gateway not in self._gateways

    # ---- operators

    async def status(self) -> dict[str, Any]:
        """What there is, for people."""
        engines = {
            name: {
                "node": home.node,
                "capacity": home.capacity,
                "streams": len(self.places.on(name)),
                "leaving": home.leaving,
            }
            for name, home in self.places.engines.items()
        }
        return {
            "engines": engines,
            "gateways": sorted(self._gateways),
            "streams": len(self.places.seats),
            "waiting": len(self.places.waiting),
            "states": len(self.vault.seats),
            "bytes": self.vault.nbytes,
            "drained": sorted(self.places.drained),
        }

    async def drain(self, node: str) -> list[str]:
        """Let the engines of a node hand over what they have, and take nobody ever after; those engines."""
        found = self.places.drain(node)
        await self._tell()
        return found

    # ---- time

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _until(self, done: Callable[[], bool], seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds), self._changed:
                await self._changed.wait_for(done)
            return True
        except TimeoutError:
            return False

    async def _watch(self) -> None:
        """For ever: notice who is gone, and who is being stopped."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self._look()
            except Exception as error:  # it must go on looking
                logger.warning("the keeper could not look round", exc_info=error)

    async def _look(self) -> None:
        now = time.monotonic()
        self._leaving = await asyncio.to_thread(self._stopping)
        for engine in self._leaving & set(self.places.engines):
            self.places.leave(engine)
        for engine in expired({n: h.heard for n, h in self.places.engines.items()}, now, SILENT_SECONDS):
            await self.lose(engine)
        for gateway in expired(self._gateways, now, SILENT_SECONDS):
            del self._gateways[gateway]
        self.vault.tidy(now, set(self._gateways))
        if now - self._began > HANDOVER_SECONDS:
            for seat in [s for s in self.places.seats if self._seat_gateways.get(s) not in self._gateways]:
                self.places.free(seat)
        await self._tell()
