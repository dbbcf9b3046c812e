"""One engine of a fleet: a replica of Ray Serve with the streams of its seats."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import ray
from ray import serve

from ms_infer.fleet.config import FleetConfig
from ms_infer.fleet.keeper import BEAT_SECONDS
from ms_infer.fleet.ray_links import as_array, get_keeper
from ms_infer.fleet.remote import Ask, Lost, Made
from ms_infer.fleet.seats import EngineSeats
from ms_infer.fleet.turns import GUEST, RESIDENT, Turns
from ms_infer.fleet.vault import Place
from ms_infer.serve.lane import WARM_UP_CHUNKS
from ms_infer.serve.place import capacity
from ms_infer.serve.worker import Worker

logger = logging.getLogger("ray.serve")


class Engine:
    """Methods are called by gateways (`ray_links.RayLinks`); `engine` says whom they mean.

    A call that comes to another replica than it meant raises Lost: whoever it meant is gone.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        config = FleetConfig.from_dict(settings)
        self._id = serve.get_replica_context().replica_id.unique_id
        self._node = ray.get_runtime_context().get_node_id()
        self._actor = ray.get_runtime_context().current_actor
        self._keeper, self._turns = get_keeper(config.spare), Turns()
        self._kept: dict[str, tuple[Place, str]] = {}
        self._life, self._leaving = "", False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._seats, self._capacity = self._opened(config)
        self._spawn(self._report_for_ever())

    def _opened(self, config: FleetConfig) -> tuple[EngineSeats, float]:
        """In the engine's own thread: on a GPU graphs are captured, which no other may disturb."""

        def opened() -> tuple[EngineSeats, float]:
            seats, worker = EngineSeats(config.opener(), config.keep), Worker()
            make = seats.warm()
            for _ in range(WARM_UP_CHUNKS):
                worker.measure(make)
            fed = capacity(worker.chunk_seconds, seats.config.context.span(1).rgb_frames, config.min_fps)
            return seats, min(fed, config.max_sessions)

        return self._turns.at_once(opened)

    # ---- streams

    async def step(self, engine: str, seat: str, place: Place, asks: list[Ask], keep: bool) -> Made:
        """Make the chunk at a place, and keep the state behind it if that is wanted."""
        self._check(engine)
        chunk = await self._turns.run(RESIDENT, lambda: self._seats.step(seat, Place(*place), asks))
        if keep:
            self._spawn(self._keep(seat))
        kept, life = self._kept.get(seat, (Place(0, 0), ""))
        frames = chunk.frames
        return Made(chunk.index, frames, chunk.first_rgb_frame, chunk.control_id, dict(chunk.timings), kept, life)

    async def adopt(self, engine: str, seat: str, place: Place, log: list[list[Ask]], restore: bool) -> None:
        """Take in a stream from the newest state (if that is to be restored), and make again what came since."""
        self._check(engine)
        state = None
        if restore:
            found = await self._keeper.newest.remote(seat)
            if found is None or Place(*found[0]) != Place(*place):
                raise Lost("a newer state has come in between")
            state = bytes(found[1])
        self._kept.pop(seat, None)
        await self._turns.run(GUEST, lambda: self._seats.adopt(seat, Place(*place), state, []))
        for chunk, asks in enumerate(log, place[1]):  # one by one: residents come in between
            at = Place(place[0], chunk)
            await self._turns.run(GUEST, lambda at=at, asks=asks: self._seats.step(seat, at, asks))  # type: ignore[misc]

    async def state(self, engine: str, seat: str, place: Place, asks: list[Ask]) -> bytes:
        """The exact state of a stream."""
        self._check(engine)
        return await self._turns.run(GUEST, lambda: self._seats.state(seat, Place(*place), asks))

    async def embed(self, engine: str, prompt: Any) -> Any:
        """See `Stream.embed`; beside the chunks."""
        self._check(engine)
        return await asyncio.to_thread(self._seats.embed, prompt)

    async def drop(self, engine: str, seat: str) -> None:
        """A stream has ended."""
        self._check(engine)
        await self._turns.run(GUEST, lambda: self._seats.drop(seat))
        self._kept.pop(seat, None)

    async def watch(self, engine: str) -> None:
        """Returns after a moment: a caller learns at once when the engine dies."""
        self._check(engine)
        await asyncio.sleep(BEAT_SECONDS)

    def _check(self, engine: str) -> None:
        if engine != self._id or self._leaving:
            raise Lost(f"engine {engine} is not there any more")

    # ---- the keeper

    async def _keep(self, seat: str) -> None:
        try:
            place, state = await self._turns.run(GUEST, lambda: self._seats.kept(seat))
            newest, life = await self._keeper.keep.remote(seat, place, as_array(state))
            self._kept[seat] = Place(*newest), life
        except Lost:  # the stream has ended
            pass
        except ray.exceptions.RayError as error:
            logger.warning("the state of stream %s could not be kept: %s", seat, type(error).__name__)

    async def _report_for_ever(self) -> None:
        while not self._leaving:
            try:
                await self._report()
            except ray.exceptions.RayError as error:
                logger.warning("engine %s cannot reach the keeper: %s", self._id, type(error).__name__)
            except Exception as error:  # it must go on reporting
                logger.error("engine %s could not report", self._id, exc_info=error)
            await asyncio.sleep(BEAT_SECONDS)

    async def _report(self) -> None:
        report = self._keeper.report.remote
        heard = await report(self._id, self._actor, self._node, self._capacity, self._seats.held)
        if heard.life != self._life:
            await self._keeper.describe.remote(self._seats.config.to_dict())
        for seat in heard.drop:
            await self._turns.run(GUEST, lambda seat=seat: self._seats.drop(seat))  # type: ignore[misc]
        if heard.leave:
            await self._leave()
        elif heard.life != self._life and self._life:  # all states are lost: keep them again, now
            await asyncio.gather(*(self._keep(seat) for seat in self._seats.held))
        self._life = heard.life

    async def _leave(self) -> None:
        """Hand everything over; from then on every call is Lost."""
        if self._leaving:
            return
        self._leaving = True
        await asyncio.gather(*(self._keep(seat) for seat in self._seats.held))
        await self._keeper.lose.remote(self._id)
        await self._turns.run(GUEST, self._seats.close)

    async def __del__(self) -> None:  # Ray Serve has let the calls end, and will kill this replica
        await self._leave()

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
