"""Benchmarks run on one CPU thread, or on CUDA where there is one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from ms_infer.checkpoint import Student, random_student
from ms_infer.config import preset
from tests.tiny import tiny_student

torch.set_num_threads(1)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
Timed = Callable[[Callable[[], Any]], None]


@pytest.fixture(scope="session")
def student() -> Student:
    """The demo's sizes when times are taken, a tiny model in a smoke test (--benchmark-disable)."""
    return random_student(preset("demo"))


@pytest.fixture
def small() -> Student:
    return tiny_student(dim=64, ffn_dim=128, size=64)


@pytest.fixture
def timed(benchmark: Any) -> Timed:
    """Times work that ends on the device; with --benchmark-disable it runs once."""

    def run(work: Callable[[], Any]) -> None:
        def waited() -> None:
            work()
            if DEVICE == "cuda":
                torch.cuda.synchronize()

        if benchmark.disabled:
            benchmark(waited)
            return
        benchmark.pedantic(waited, rounds=20, warmup_rounds=3, iterations=1)

    return run
