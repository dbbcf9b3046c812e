"""Where sessions go, and what a simulated fleet makes of it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from benchmarks.bench_fleet import POLICIES, Fleet, Options
from ms_infer.serve.place import Seats, best, capacity

SMALL = Options(sessions=90, engines=5, seconds=120.0, crashes=3, update_seconds=5.0, restart_seconds=10.0)
RESERVED, POLLED, _, _ = POLICIES


def test_emptiest_engine_is_the_best() -> None:
    assert best([Seats(2, 4), Seats(1, 4), Seats(3, 4)]) == 1
    assert best([Seats(2, 4), Seats(3, 8)]) == 1  # by the share of its seats
    assert best([Seats(0, 0), Seats(3, 4)]) == 1  # one that takes nobody
    assert best([Seats(0, math.inf), Seats(1, math.inf)]) == 0
    assert best([Seats(4, 4), Seats(0, 0)]) is None
    assert best([]) is None


def test_capacity_is_what_the_promised_rate_leaves() -> None:
    assert capacity(0.25, 12, 10.0) == 4
    assert capacity(0.8, 12, 10.0) == 1
    assert capacity(5.0, 12, 10.0) == 1  # one is always let in
    assert capacity(0.0, 12, 10.0) == math.inf


def test_no_engine_is_fuller_than_it_may_be_when_seats_are_reserved() -> None:
    fleet, most = Fleet(SMALL, RESERVED), 0
    sit = fleet._sit

    def watched(number: int, viewer: object, engine: int) -> None:
        nonlocal most
        sit(number, viewer, engine)  # type: ignore[arg-type]
        most = max(most, *(len(one.members) for one in fleet.engines))

    fleet._sit = watched  # type: ignore[method-assign]
    fleet.run()
    assert 0 < most <= fleet.seats


def test_every_session_is_let_in_or_refused_and_none_is_lost() -> None:
    fleet = Fleet(SMALL, RESERVED)
    told = fleet.run()
    assert told.asked > SMALL.sessions
    assert not fleet.viewers
    assert not fleet.lost
    assert told.chunks > 0.9 * told.watched / SMALL.chunk_seconds - told.asked * 2


def test_same_seed_is_the_same_fleet() -> None:
    assert Fleet(SMALL, RESERVED).run() == Fleet(SMALL, RESERVED).run()
    assert Fleet(SMALL, RESERVED).run() != Fleet(replace(SMALL, seed=1), RESERVED).run()


@pytest.mark.parametrize("seed", range(3))
def test_reserving_seats_keeps_chunks_in_time(seed: int) -> None:
    options = replace(SMALL, seed=seed, sessions=100)
    reserved, polled = (Fleet(options, policy).run() for policy in (RESERVED, POLLED))
    assert reserved.late * 20 < polled.late
    assert reserved.frozen / reserved.watched < polled.frozen / polled.watched
