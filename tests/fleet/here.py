"""A fleet in one process, without Ray: engines that can be killed, the real keeper, and what gateways call."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ms_infer.errors import DeviceError
from ms_infer.fleet.keeper import Keeper
from ms_infer.fleet.remote import Ask, Lost, Made, RemoteStream
from ms_infer.fleet.seats import EngineSeats
from ms_infer.fleet.vault import Place
from tests.fleet.stand_in import StandIn

Result = TypeVar("Result")


class EngineHere:
    """One engine; `step` may be made to die before or after its chunk."""

    def __init__(self, opens: Callable[[], Any], capacity: float = 2.0) -> None:
        self.seats, self.capacity = EngineSeats(opens, "auto"), capacity
        self.alive = True
        self.dies_in: int | None = None
        """Steps until it dies in the middle of one."""
        self.replayed = 0


class Here:
    """`Links` over engines of this process; the keeper runs in a loop of its own."""

    def __init__(self, engines: int = 2, opens: Callable[[], Any] = lambda: StandIn(seconds=0.0, size=1000)) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.keeper = self.begin_keeper()
        self.engines = {f"e{number}": EngineHere(opens) for number in range(engines)}
        self.report()

    def begin_keeper(self) -> Keeper:
        """A new life of the keeper: it knows nothing."""

        async def made() -> Keeper:
            async def dead(actor: Any) -> bool:
                return actor is not None and not self.engines[actor].alive

            return Keeper(0.0, dead=dead)

        self.keeper = self.run(made())
        return self.keeper

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def report(self) -> None:
        """All that live tell that they are there."""
        for name, engine in self.engines.items():
            if engine.alive:
                heard = self.run(self.keeper.report(name, name, f"node-{name}", engine.capacity, engine.seats.held))
                for seat in heard.drop:
                    engine.seats.drop(seat)
                self.run(self.keeper.describe(engine.seats.config.to_dict()))

    def stream(self, seat: str = "s", save_chunks: int = 4) -> RemoteStream:
        engine = self.run(self.keeper.reserve(seat, "g", False))
        assert engine is not None, "the fleet is full"
        config = self.engines[engine].seats.config
        return RemoteStream(self, config, seat, engine, save_chunks)

    def leave(self, name: str) -> None:
        """An engine hands over everything, as it does when it is stopped."""
        for seat in self.engines[name].seats.held:
            self._keep(name, seat)
        self.run(self.keeper.lose(name))
        self.engines[name].alive = False

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    # ---- Links

    def step(self, engine: str, seat: str, place: Place, asks: list[Ask], *, keep: bool) -> Made:
        one = self._alive(engine)
        chunk = one.seats.step(seat, place, asks)
        if one.dies_in is not None:
            one.dies_in -= 1
            one.alive = one.dies_in > 0
            self._alive(engine)
        kept, life = self._keep(engine, seat) if keep else (Place(0, 0), "")
        return Made(chunk.index, chunk.frames, chunk.first_rgb_frame, 0, chunk.timings, kept, life)

    def adopt(self, engine: str, seat: str, place: Place, log: list[list[Ask]], *, restore: bool) -> None:
        one = self._alive(engine)
        found = self.run(self.keeper.newest(seat)) if restore else None
        one.seats.adopt(seat, place, None if found is None else found[1].tobytes(), log)
        one.replayed += len(log)

    def state(self, engine: str, seat: str, place: Place, asks: list[Ask]) -> bytes:
        return self._alive(engine).seats.state(seat, place, asks)

    def embed(self, engine: str, prompt: Any) -> NDArray[np.float32]:
        embedded: NDArray[np.float32] = self._alive(engine).seats.embed(prompt)
        return embedded

    def move(self, seat: str, away_from: str, wanted: Place) -> tuple[str, Place | None]:
        found = self.run(self.keeper.move(seat, away_from, wanted, False))
        if found is None:
            raise DeviceError("no free seat")
        return found

    def end(self, engine: str, seat: str) -> None:
        self.engines[engine].seats.drop(seat)

    def _keep(self, engine: str, seat: str) -> tuple[Place, str]:
        place, state = self.engines[engine].seats.kept(seat)
        return self.run(self.keeper.keep(seat, place, np.frombuffer(state, np.uint8)))

    def _alive(self, engine: str) -> EngineHere:
        if not self.engines[engine].alive:
            raise Lost("killed")
        return self.engines[engine]
