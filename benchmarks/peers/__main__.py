"""`python -m benchmarks.peers`: our stream and the reference loop in turns, on the same weights; prints the ratio."""

from __future__ import annotations

import copy
import json
import statistics
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import tyro

from benchmarks.peers.reference import ReferenceEngine
from ms_infer import Stream
from ms_infer.bench.environment import environment
from ms_infer.bench.options import BenchOptions
from ms_infer.bench.run import BenchPlan, start
from ms_infer.bench.work import open_source, stream_facts
from ms_infer.cli.run import run_command
from ms_infer.engines.open import load_source


@dataclass(frozen=True)
class PeerOptions:
    """Measure our engine against the plain reference loop (concat cache, unfused, eager PyTorch)."""

    source: tyro.conf.Positional[str] = "demo"
    """What our stream runs: "demo", a checkpoint, or a bundle."""
    weights: str | None = None
    """Checkpoint of the reference loop, when the source is a bundle."""
    preset: str | None = None
    """With --random-weights: settings of a named model."""
    random_weights: tyro.conf.FlagCreatePairsOff[bool] = False
    """Seeded random weights for the preset (of both, or of the reference loop beside a bundle)."""
    size: str | None = None
    """HEIGHTxWIDTH of the picture, with --random-weights."""
    engine: str = "auto"
    precision: str | None = None
    device: str | None = None
    reference_precision: str | None = None
    """fp32 on a CPU and bf16 on CUDA unless told otherwise."""
    compile: tyro.conf.FlagCreatePairsOff[bool] = False
    """Also measure torch.compile of the reference loop."""
    rounds: int = 10
    """Turns; each makes `burst` chunks with every engine."""
    burst: int = 3
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    json_out: str | None = None


@dataclass
class Runner:
    """One stream and the times of its chunks, milliseconds."""

    stream: Stream
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def burst(self, count: int) -> None:
        for _ in range(count):
            wall, cpu = time.perf_counter(), time.process_time()
            self.stream.step()
            self.wall.append((time.perf_counter() - wall) * 1e3)
            self.cpu.append((time.process_time() - cpu) * 1e3)

    def summary(self) -> dict[str, Any]:
        clocks = {"wall_ms": self.wall, "cpu_ms": self.cpu}
        numbers = {name: {"min": min(samples), "p50": statistics.median(samples)} for name, samples in clocks.items()}
        return {**stream_facts(self.stream), **numbers, "chunks": len(self.wall)}


def main() -> int:
    options = tyro.cli(PeerOptions, prog="python -m benchmarks.peers")
    return run_command("peers", lambda: measure(options))


def measure(options: PeerOptions) -> str:
    """Run all in turns and print the comparison."""
    shared = BenchOptions(
        source=options.weights or options.source,
        preset=options.preset,
        random_weights=options.random_weights,
        size=options.size,
    )
    student = load_source(open_source(shared)).student
    own = student if options.random_weights and options.source == "demo" else options.source  # a bundle stays itself
    makers: list[Any] = [
        lambda: Stream(own, engine=options.engine, device=options.device, precision=options.precision),
        lambda: reference_stream(student, options, compiled=False),
    ]
    if options.compile:
        makers.append(lambda: reference_stream(student, options, compiled=True))
    runners = [Runner(make()) for make in makers]
    for runner in runners:
        start(runner.stream, BenchPlan())
        context = runner.stream.config.context
        for _ in range(-(-context.cache_frames // context.chunk_frames) + 2):
            runner.stream.step()
    for _ in range(options.rounds):
        for runner in runners:
            runner.burst(options.burst)
    result: dict[str, Any] = {
        "schema": "ms_infer.peers/1",
        "environment": environment(),
        "size": [runners[0].stream.config.height, runners[0].stream.config.width],
        "runs": [runner.summary() for runner in runners],
        "ratios": [ratios(runners[0], other) for other in runners[1:]],
    }
    print(json.dumps(result) if options.json else words(result))
    if options.json_out:
        with open(options.json_out, "w", encoding="utf-8") as file:
            file.write(json.dumps(result, indent=1) + "\n")
    return f"ok: {result['ratios'][0]['wall_min']:.2f}x the reference loop"


def reference_stream(student: Any, options: PeerOptions, *, compiled: bool) -> Stream:
    own = copy.deepcopy(student)  # engines move and join the weights they are given
    engine = ReferenceEngine(own, device=options.device, precision=options.reference_precision, compiled=compiled)
    return Stream(engine)


def ratios(ours: Runner, other: Runner) -> dict[str, float]:
    """How many times faster ours is: fastest chunks and medians, wall and processor time."""
    return {
        "wall_min": min(other.wall) / min(ours.wall),
        "wall_p50": statistics.median(other.wall) / statistics.median(ours.wall),
        "cpu_min": min(other.cpu) / min(ours.cpu),
        "cpu_p50": statistics.median(other.cpu) / statistics.median(ours.cpu),
    }


def words(result: dict[str, Any]) -> str:
    told = [f"{result['environment']['cpu']}, load {result['environment']['load_1min']}"]
    for run in result["runs"]:
        wall, cpu = run["wall_ms"], run["cpu_ms"]
        told.append(
            f"{run['engine']} {run['precision']} on {run['device_name']}: wall min {wall['min']:.1f} p50 "
            f"{wall['p50']:.1f} ms · cpu min {cpu['min']:.1f} p50 {cpu['p50']:.1f} ms ({run['chunks']} chunks)"
        )
    for run, ratio in zip(result["runs"][1:], result["ratios"], strict=True):
        told.append(f"ours is {', '.join(f'{v:.2f}x ({k})' for k, v in ratio.items())} against {run['engine']}")
    return "\n".join(told)


if __name__ == "__main__":
    sys.exit(main())
