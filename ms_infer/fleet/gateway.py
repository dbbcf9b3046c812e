"""A gateway: ms-serve, whose lanes are seats on engines elsewhere, and whose sessions another gateway can find."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from typing import Any

from ms_infer.config import StreamConfig
from ms_infer.errors import DeviceError
from ms_infer.fleet.keeper import Found, Order
from ms_infer.fleet.ray_links import RayLinks, soon
from ms_infer.fleet.remote import RemoteStream
from ms_infer.serve.directory import Moving
from ms_infer.serve.hub import Hub
from ms_infer.serve.lane import Lane
from ms_infer.serve.making import StreamLike
from ms_infer.serve.session import Session
from ms_infer.serve.shared import Context

logger = logging.getLogger("ray.serve")
CARD_SECONDS = 1.0
"""Time between two cards of a session: what another gateway knows of it beside its stream."""
READY_SECONDS = 0.2
"""Time between two looks for a keeper that does not answer, or for an engine that is not there yet."""


class SeatLane(Lane):
    """One session's lane: a thread of its own, and the seat of its stream."""

    def __init__(self, links: RayLinks, config: StreamConfig, engine: str, seat: str, save_chunks: int) -> None:
        super().__init__(self._remote)
        self.config, self.seat = config, seat
        self.stream = RemoteStream(links, config, seat, engine, save_chunks)
        self.worker.begin()

    def _remote(self) -> StreamLike:
        return self.stream


class FleetLanes:
    """Lends seats that the keeper reserves. Listens to the keeper, and moves streams whose engine dies or leaves."""

    config: StreamConfig

    def __init__(self, keeper: Any, name: str, context: Context, save_chunks: int, find_hub: Callable[[], Hub]) -> None:
        self.keeper, self.name, self.context, self._save_chunks = keeper, name, context, save_chunks
        context.route = name
        self._find_hub = find_hub
        self._links = RayLinks(keeper)
        self._lanes: dict[str, SeatLane] = {}
        self._order: Order | None = None
        self._watched: dict[str, asyncio.Task[None]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def hub(self) -> Hub:
        """Whose lanes these are."""
        return self._find_hub()

    async def warm_up(self) -> None:
        self._tasks = [asyncio.create_task(work) for work in (self._listen(), self._tell_all())]
        while self._order is None or self._order.config is None or not self._order.capacity:
            await asyncio.sleep(READY_SECONDS)
        self.config = StreamConfig.from_dict(self._order.config)

    async def admit(self, *, first: bool) -> Lane | None:
        seat = secrets.token_hex(8)
        engine = await soon(lambda: self.keeper.reserve.remote(seat, self.name, first), None)
        if engine is None:
            return None
        self._lanes[seat] = SeatLane(self._links, self.config, engine, seat, self._save_chunks)
        return self._lanes[seat]

    async def leave(self, lane: Lane) -> None:
        assert isinstance(lane, SeatLane), "it was lent here"
        if self._lanes.pop(lane.seat, None) is not None:
            await lane.close()
            await soon(lambda: self.keeper.free.remote(lane.seat), None)

    @property
    def used(self) -> int:
        return 0 if self._order is None else self._order.used

    @property
    def capacity(self) -> float:
        return 0 if self._order is None else self._order.capacity

    async def close(self) -> None:
        for task in (*self._tasks, *self._watched.values()):
            task.cancel()
        await asyncio.gather(*self._tasks, *self._watched.values(), return_exceptions=True)

    # ---- the keeper

    async def _listen(self) -> None:
        while True:
            order = await soon(lambda: self.keeper.listen.remote(self.name, list(self._lanes), self._order), None)
            if order is None:
                await asyncio.sleep(READY_SECONDS)
                continue
            self._order = order
            self._watch(order)
            self._count()
            for name in order.hand_over:
                if name in self.hub.sessions:
                    self.context.spawn(self.hub.move(self.hub.sessions[name], wanted=True))
            if order.leave and not self.hub.draining:
                self.context.spawn(self.hub.drain())

    def _watch(self, order: Order) -> None:
        self._watched = {n: task for n, task in self._watched.items() if n in order.engines or not task.done()}
        for engine in order.engines:
            if engine not in self._watched or self._watched[engine].done():
                self._watched[engine] = asyncio.create_task(self._watch_one(engine))
        leaving = [name for name, leaves in order.engines.items() if leaves]
        for engine in {lane.stream.engine_id for lane in self._lanes.values()} & set(leaving):
            self._relocate(engine)

    async def _watch_one(self, engine: str) -> None:
        if await self._links.watch(engine):
            logger.warning("engine %s has died", engine)
            self._relocate(engine)
            await soon(lambda: self.keeper.lose.remote(engine), None)
        else:
            await asyncio.sleep(READY_SECONDS)

    def _relocate(self, engine: str) -> None:
        for lane in self._lanes.values():
            if lane.stream.engine_id == engine:
                self.context.spawn(self._move(lane, engine))

    async def _move(self, lane: SeatLane, engine: str) -> None:
        def move() -> None:
            if lane.stream.engine_id == engine:
                lane.stream.relocate()

        try:
            await lane.call(move)
        except (DeviceError, RuntimeError) as error:  # the next chunk tells the session
            logger.warning("stream %s cannot be moved now: %s", lane.seat, error)

    # ---- cards

    async def _tell_all(self) -> None:
        while True:
            await asyncio.sleep(CARD_SECONDS)
            sessions = list(self.hub.sessions.values())
            await asyncio.gather(*(self.tell(session) for session in sessions), return_exceptions=True)

    async def tell(self, session: Session) -> None:
        """Let the keeper know the newest of a session, without its stream."""
        if session.state == "stopped" or not isinstance(session.lane, SeatLane):
            return
        saved = await session.save(stream=False)
        light = await asyncio.to_thread(saved.pack)
        stream = session.lane.stream
        tell = self.keeper.tell.remote
        await soon(lambda: tell(session.id, session.key, stream.seat, self.name, stream.place, light), None)

    def _count(self) -> None:
        assert self._order is not None, "the caller has one"
        streams = [lane.stream for lane in self._lanes.values()]
        metrics = self.context.metrics
        metrics.unprotected.set(sum(one.needs_state and one.kept_by != self._order.life for one in streams))
        metrics.capacity.set(self._order.capacity)
        metrics.reserved.set(self._order.used)


class KeeperDirectory:
    """Where sessions are kept when a gateway goes away, and found again by another one."""

    def __init__(self, lanes: FleetLanes) -> None:
        self._lanes = lanes

    async def save(self, session: str, key: str, data: bytes) -> bool:
        lanes = self._lanes
        lane = lanes.hub.sessions[session].lane
        assert isinstance(lane, SeatLane), "it was lent here"
        kept: bool = await soon(lambda: lanes.keeper.save.remote(session, key, lane.seat, lanes.name, data), False)
        return kept

    async def opened(self, session: str) -> None:
        await self._lanes.tell(self._lanes.hub.sessions[session])

    async def find(self, session: str, key: str) -> bytes | None:
        begun = time.monotonic()
        found = Found(*await soon(lambda: self._lanes.keeper.find.remote(session, key), Found(None)))
        logger.info("session %s: asked the keeper for %.1f s", session[:16], time.monotonic() - begun)
        if found.moving:
            raise Moving
        return found.data
