"""Frames per second of the CPU engines on the same student, weights and threads, in interleaved bursts.

    python benchmarks/bench_engines.py [--threads 2] [--bursts 5] [--chunks 6] [--bundle DIR] [--json FILE]

Prints, per engine, the best burst: milliseconds per chunk by the wall clock and by the CPU time of the process. On a
busy machine the wall clock says little; the CPU time of one thread (--threads 1) then still compares the engines. Of
engines that run exported stages also the CPU time of each.
Frames include everything of a steady chunk: points, track latents, passes, decoding to bytes, clean pass.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from ms_export.onnx_engine import open_onnx
from ms_export.rollouts import run_chunk
from ms_export.stimulus import example_image, example_player

from ms_infer.bundle.manifest import Manifest, load_manifest
from ms_infer.demo import demo_bundle
from ms_infer.engines.base import Engine, plan_chunk
from ms_infer.engines.host import HostRunner
from ms_infer.engines.open import load_source
from ms_infer.engines.openvino import open_openvino
from ms_infer.engines.staged import StagedEngine
from ms_infer.engines.torch import TorchEngine
from ms_infer.tracks.player import TrackPlayer

WARM_UP = 4
"""Chunks before the first burst: sink and window are full, every stage has run."""
BASE = "torch fp32"


@dataclass
class Row:
    """Best burst of one engine, per chunk."""

    engine: str
    wall_ms: float = float("inf")
    cpu_ms: float = float("inf")
    stages: dict[str, float] = field(default_factory=dict)
    """Best wall milliseconds of the parts of a chunk."""
    stages_cpu: dict[str, float] = field(default_factory=dict)
    """Least CPU milliseconds of each exported stage, all its calls in a chunk together."""
    copied_bytes_per_pass: int | None = None


def openers(manifest: Manifest, threads: int) -> dict[str, Callable[[], Engine]]:
    """The engines to compare; all hold the weights of the demo student."""
    return {
        BASE: lambda: TorchEngine(load_source("demo").student, device="cpu", precision="fp32"),
        "torch bf16": lambda: TorchEngine(load_source("demo").student, device="cpu", precision="bf16"),
        "onnxruntime fp32": lambda: open_onnx(manifest, threads=threads),
        "openvino fp32": lambda: open_openvino(manifest, precision="fp32", threads=threads),
        "openvino bf16": lambda: open_openvino(manifest, precision="bf16", threads=threads),
    }


class Runner:
    """One engine in the middle of a stream."""

    def __init__(self, name: str, engine: Engine) -> None:
        self.row, self.engine, self.index = Row(name), engine, 0
        self.spent: Counter[str] = Counter()
        self.player: TrackPlayer | None = example_player(engine.config)
        engine.reset()
        engine.set_text(engine.embed(""))
        engine.set_image(example_image(engine.config.height, engine.config.width))
        if isinstance(engine, StagedEngine):
            self.row.copied_bytes_per_pass = engine.runner.array(
                "denoise", "x"
            ).nbytes  # x_next becomes the next pass's x
            if isinstance(engine.runner, HostRunner):
                self._watch(engine.runner)
        for _ in range(WARM_UP):
            self.chunk()

    def _watch(self, runner: HostRunner) -> None:
        """Sum the CPU time of every stage."""
        call = runner._stages.call

        def timed(stage: str, side: int) -> None:
            start = time.process_time()
            call(stage, side)
            self.spent[stage] += (time.process_time() - start) * 1e3

        runner._stages.call = timed  # type: ignore[method-assign]

    def chunk(self) -> None:
        self.spent.clear()
        run_chunk(self.engine, plan_chunk(self.engine.config, self.index, self.player, 0))
        self.index += 1

    def burst(self, chunks: int) -> None:
        """Time some chunks and keep the best."""
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(chunks):
            self.chunk()
            self.parts()
        self.row.wall_ms = min(self.row.wall_ms, (time.perf_counter() - wall) * 1e3 / chunks)
        self.row.cpu_ms = min(self.row.cpu_ms, (time.process_time() - cpu) * 1e3 / chunks)

    def parts(self) -> None:
        """Keep the best times of the parts of the newest chunk."""
        for name, took in self.engine.stage_ms().items():
            self.row.stages[name] = min(self.row.stages.get(name, float("inf")), took)
        for name, took in self.spent.items():
            self.row.stages_cpu[name] = min(self.row.stages_cpu.get(name, float("inf")), took)


def compare(manifest: Manifest, *, threads: int, bursts: int, chunks: int, only: Sequence[str] = ()) -> list[Row]:
    """Run all engines in turns, `bursts` times."""
    torch.set_num_threads(threads)
    chosen = {name: make for name, make in openers(manifest, threads).items() if not only or name in only}
    runners = [Runner(name, make()) for name, make in chosen.items()]
    for _ in range(bursts):
        for runner in runners:
            runner.burst(chunks)
    return [runner.row for runner in runners]


def table(rows: Sequence[Row], manifest: Manifest, threads: int) -> str:
    """The comparison for people; fps counts the RGB frames of a steady chunk."""
    config = manifest.config
    frames = config.context.span(1).rgb_frames
    load = os.getloadavg()[0]
    lines = [
        f"{config.model.name} {config.width}x{config.height}, {frames} frames a chunk, "
        f"{len(config.schedule.timesteps)}+1 passes, {threads} threads of {os.cpu_count()} cores, load {load:.1f}",
        f"{'engine':<18}{'wall ms':>9}{'fps':>8}{'x':>6}{'cpu ms':>9}{'x':>6}  parts (wall ms)",
    ]
    base = next((row for row in rows if row.engine == BASE), rows[0])
    for row in rows:
        parts = " ".join(f"{name} {ms:.1f}" for name, ms in row.stages.items())
        lines.append(
            f"{row.engine:<18}{row.wall_ms:>9.1f}{frames * 1e3 / row.wall_ms:>8.1f}{base.wall_ms / row.wall_ms:>6.2f}"
            f"{row.cpu_ms:>9.1f}{base.cpu_ms / row.cpu_ms:>6.2f}  {parts}"
        )
        if row.stages_cpu:
            lines.append("  stages (cpu ms)  " + " ".join(f"{name} {ms:.1f}" for name, ms in row.stages_cpu.items()))
    copied = next((row.copied_bytes_per_pass for row in rows if row.copied_bytes_per_pass), None)
    if copied:
        lines.append(f"copied by us per pass: {copied} bytes (the latents; caches stay inside the engine)")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--bursts", type=int, default=5)
    parser.add_argument("--chunks", type=int, default=6)
    parser.add_argument("--bundle", type=Path, default=None)
    parser.add_argument("--only", nargs="*", default=())
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    manifest = load_manifest(options.bundle or demo_bundle())
    rows = compare(manifest, threads=options.threads, bursts=options.bursts, chunks=options.chunks, only=options.only)
    print(table(rows, manifest, options.threads))
    if options.json:
        values: dict[str, Any] = {
            "threads": options.threads,
            "load": os.getloadavg(),
            "rows": [asdict(r) for r in rows],
        }
        options.json.write_text(json.dumps(values, indent=1))


def test_steady_chunk_of_openvino(benchmark: Any) -> None:
    """One chunk of the demo bundle in the default precision."""
    if not (demo_bundle() / "manifest.json").is_file():
        pytest.skip("needs a bundle: ms-export demo")
    engine = open_openvino(demo_bundle())
    runner = Runner(f"openvino {engine.precision}", engine)
    benchmark(runner.chunk)


if __name__ == "__main__":
    main()
