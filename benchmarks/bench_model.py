"""What one more stream of a model costs: seconds until it is made, megabytes that it holds while it runs.

    python benchmarks/bench_model.py demo --engine torch
    python benchmarks/bench_model.py bundle --engine openvino --streams 4

Opens the source, lets one stream make chunks until its context is full, then does the same with more streams, one after
the other, all kept open. The limits that are checked are those of the demo: 45 MB and 0.1 s a stream.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from dataclasses import dataclass

import tyro

from ms_infer import Model, Stream
from ms_infer.bench.run import BenchPlan, resident_bytes, start

CHUNKS = 6  # until the context of the demo is full, and one for each side of the states


@dataclass(frozen=True)
class Options:
    """Measure what one more stream costs."""

    source: tyro.conf.Positional[str] = "demo"
    engine: str = "auto"
    precision: str | None = None
    streams: int = 4
    """Streams beside the first one."""
    threads: int = 1
    most_mb: float = 45.0
    most_seconds: float = 0.1


@dataclass(frozen=True)
class Cost:
    """Of one stream."""

    seconds: float
    mb: float


def play(stream: Stream) -> Stream:
    start(stream, BenchPlan())
    for _ in range(CHUNKS):
        stream.step()
    return stream


def cost_of(model: Model, kept: list[Stream]) -> Cost:
    """Make one more stream, and let it run."""
    gc.collect()
    before, began = resident_bytes(), time.perf_counter()
    stream = model.stream()
    seconds = time.perf_counter() - began
    kept.append(play(stream))
    gc.collect()
    return Cost(seconds, (resident_bytes() - before) / 1e6)


def main() -> int:
    options = tyro.cli(Options)
    began = time.perf_counter()
    kept: list[Stream] = []
    with Model(options.source, engine=options.engine, precision=options.precision, threads=options.threads) as model:
        opened = time.perf_counter() - began
        first = cost_of(model, kept)
        costs = [cost_of(model, kept) for _ in range(options.streams)]
        for stream in kept:
            stream.close()
        document = {
            "engine": model.engine,
            "open_s": opened,
            "first": vars(first),
            "further_s": [round(cost.seconds, 4) for cost in costs],
            "further_mb": [round(cost.mb, 1) for cost in costs],
        }
    print(json.dumps(document, indent=1))
    worst_s, worst_mb = max(cost.seconds for cost in costs), max(cost.mb for cost in costs)
    good = worst_s <= options.most_seconds and worst_mb <= options.most_mb
    print(f"{'ok' if good else 'too much'}: at most {worst_s:.3f} s and {worst_mb:.1f} MB a stream", file=sys.stderr)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
