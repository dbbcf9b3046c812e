"""Work in turns: what is urgent overtakes what waits, never what runs."""

from __future__ import annotations

import asyncio
import threading

import pytest

from ms_infer.fleet.turns import GUEST, RESIDENT, Turns


def test_residents_come_before_guests_each_in_their_order() -> None:
    async def work() -> list[str]:
        turns, gate, done = Turns(), threading.Event(), list[str]()
        running = asyncio.create_task(turns.run(GUEST, gate.wait))
        await asyncio.sleep(0)
        names = [(GUEST, "g1"), (RESIDENT, "r1"), (GUEST, "g2"), (RESIDENT, "r2")]
        waiting = [asyncio.create_task(turns.run(rank, lambda name=name: done.append(name))) for rank, name in names]  # type: ignore[misc]
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(running, *waiting)
        return done

    assert asyncio.run(work()) == ["r1", "r2", "g1", "g2"]


def test_who_gives_up_keeps_nobody_waiting() -> None:
    async def work() -> list[str]:
        turns, gate, done = Turns(), threading.Event(), list[str]()
        running = asyncio.create_task(turns.run(RESIDENT, gate.wait))
        await asyncio.sleep(0)
        first, second = (
            asyncio.create_task(turns.run(RESIDENT, lambda name=name: done.append(name)))  # type: ignore[misc]
            for name in ("first", "second")
        )
        await asyncio.sleep(0)
        running.cancel()  # its work goes on in the thread
        first.cancel()
        gate.set()
        await second
        await turns.run(GUEST, lambda: done.append("last"))
        return done

    assert asyncio.run(work()) == ["second", "last"]


def test_failure_is_its_askers_alone() -> None:
    async def work() -> int:
        turns = Turns()
        with pytest.raises(ZeroDivisionError):
            await turns.run(RESIDENT, lambda: 1 // 0)
        return await turns.run(RESIDENT, lambda: 7)

    assert asyncio.run(work()) == 7
    assert Turns().at_once(lambda: 3) == 3
