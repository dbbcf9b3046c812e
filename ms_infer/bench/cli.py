"""`ms-bench`: how fast a stream is on this machine, and how constant."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from ms_infer.cli.run import parse_size, run_command, set_logging
from ms_infer.errors import ConfigError, MotionStreamError

if TYPE_CHECKING:
    from ms_infer.bench.floor import Floor
    from ms_infer.checkpoint import Student
    from ms_infer.config import StreamConfig
    from ms_infer.stream import Stream


@dataclass(frozen=True)
class BenchOptions:
    """Measure a stream: frames per second, latency and its constancy."""

    source: tyro.conf.Positional[str] = "demo"
    """"demo", a checkpoint file or folder, or a bundle made by ms-export."""
    fps: tyro.conf.FlagCreatePairsOff[bool] = False
    """Measure the stream (what happens without --env or --floor anyway)."""
    floor: tyro.conf.FlagCreatePairsOff[bool] = False
    """Measure this machine's ceilings (products, attention, copy); with --fps also the share reached."""
    env: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print device, driver, library versions and settings, and stop."""
    preset: str | None = None
    """Settings of a named model instead of the source's own; needs --random-weights or a checkpoint."""
    random_weights: tyro.conf.FlagCreatePairsOff[bool] = False
    """Seeded random weights for the preset: the same speed, no download."""
    tiny_decoder: tyro.conf.FlagCreatePairsOff[bool] = False
    """With --random-weights: a tiny autoencoder in place of the preset's own."""
    size: str | None = None
    """HEIGHTxWIDTH of the picture, with --random-weights."""
    engine: str = "auto"
    """auto, torch, openvino or tensorrt."""
    device: str | None = None
    """cuda, cuda:1 or cpu; the best one by default."""
    precision: str | None = None
    """fp32, bf16, fp16 or fp8; by default what is best for the device."""
    seconds: float = 10.0
    """Length of the measurement, after warm-up."""
    chunks: int | None = None
    """Measure this many chunks instead."""
    warm_up: int = 20
    """Chunks before the measurement, after sink and window are full."""
    controls: int = 10
    """Control changes for the control latency; 0 leaves it out."""
    target_fps: float | None = None
    """Playback rate of the deadline; the stream's own by default."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print exactly one JSON document on stdout; the table goes to stderr."""
    json_out: str | None = None
    """Write the JSON document to a file."""
    plot: str | None = None
    """Draw the time of every chunk to a PNG file."""
    compare: str | None = None
    """An older --json-out file: fail when this run is slower."""
    fail_above: str = "5%"
    """How much slower is too slow."""
    min_fps: float | None = None
    """Fail below this many frames per second."""
    explain: tyro.conf.FlagCreatePairsOff[bool] = False
    """Say what each number means."""
    verbose: Annotated[bool, tyro.conf.arg(aliases=["-v"])] = False
    quiet: Annotated[bool, tyro.conf.arg(aliases=["-q"])] = False
    debug: bool = False
    """Show the trace of an error."""


def main(args: Sequence[str] | None = None) -> int:
    """Entry point of `ms-bench`; returns the exit code."""
    options = tyro.cli(BenchOptions, prog="ms-bench", args=args)
    command = ["ms-bench", *(sys.argv[1:] if args is None else args)]
    return run_command("ms-bench", lambda: bench(options, command), debug=options.debug)


def bench(options: BenchOptions, command: Sequence[str]) -> str:
    """Do what the options ask for; returns the closing words. MotionStreamError when a gate fails."""
    from ms_infer.bench.environment import environment

    set_logging(verbose=options.verbose, quiet=options.quiet)
    limit = parse_percent(options.fail_above)
    if options.env:
        return _told(environment(), options)
    if options.floor and not options.fps:
        return _told(_floor_only(options), options)
    result = measure_stream(options, command)
    _write(result, options)
    return _verdict(result, options, limit)


def measure_stream(options: BenchOptions, command: Sequence[str]) -> dict[str, Any]:
    """The whole measurement as one plain document."""
    from ms_infer.bench.environment import environment
    from ms_infer.bench.report import document
    from ms_infer.bench.run import BenchPlan, measure
    from ms_infer.stream import Stream

    plan = BenchPlan(chunks=options.chunks, seconds=options.seconds, warm_up=options.warm_up, controls=options.controls)
    source = open_source(options)
    with Stream(source, engine=options.engine, device=options.device, precision=options.precision) as stream:
        facts = {**stream_facts(stream), "source": _source_words(options), "command": list(command)}
        facts["environment"] = environment()
        run = measure(stream, plan, progress=lambda words: _say(words, options))
        floor = _floor(stream.config, facts) if options.floor else None
        return document(run, stream.config, facts=facts, floor=floor, target_fps=options.target_fps)


def stream_facts(stream: Stream) -> dict[str, Any]:
    """Engine, precision and device of a stream."""
    from ms_infer.bench.environment import environment

    engine: Any = stream._engine
    device = str(getattr(engine, "device", "cuda" if engine.name == "tensorrt" else "cpu"))
    name = _gpu_name(device) if device.startswith("cuda") else environment()["cpu"]
    facts = {"engine": engine.name, "precision": engine.precision, "device": device, "device_name": name}
    chosen = getattr(getattr(engine, "attend", None), "implementation", None)
    if chosen is not None:
        measured = {one.name: one.ms for one in engine.attention_measured if math.isfinite(one.ms)}
        facts["attention"] = {"chosen": chosen.name, "measured_ms": measured}
    return facts


def _gpu_name(device: str) -> str:
    """Name of a CUDA device, from PyTorch where it sees one, else from the driver."""
    from ms_infer.bench.environment import gpus

    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return str(torch.cuda.get_device_name(device))
    found = gpus()
    return found[0]["name"] if found else device


def open_source(options: BenchOptions) -> str | Student:
    """What the stream is opened with."""
    if not options.random_weights:
        if options.size or options.tiny_decoder:
            raise ConfigError("--size and --tiny-decoder change the model: give --preset NAME --random-weights too")
        if options.preset is None:
            return options.source
        from ms_infer.checkpoint import load_student

        return load_student(options.source, preset=options.preset)
    from ms_infer.checkpoint import random_student

    return random_student(random_config(options))


def random_config(options: BenchOptions) -> StreamConfig:
    """Settings for --random-weights."""
    from ms_infer.config import VaeConfig, preset

    config = preset(options.preset or "demo")
    if options.size:
        height, width = parse_size(options.size)
        config = replace(config, height=height, width=width)
    if options.tiny_decoder:
        own = config.model.vae
        tiny = VaeConfig(kind="tiny", latent_channels=own.latent_channels, spatial_stride=own.spatial_stride)
        config = replace(config, model=replace(config.model, vae=tiny))
    return config


def parse_percent(text: str) -> float:
    """5% -> 0.05."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%?", text)
    if found is None:
        raise ConfigError(f"--fail-above {text!r} should be a percentage, for example 5%")
    return float(found[1]) / 100


def _floor_only(options: BenchOptions) -> dict[str, Any]:
    from ms_infer.config import preset
    from ms_infer.engines.torch.plain import check_device

    config = random_config(options) if options.random_weights else preset(options.preset or "demo")
    device = check_device(options.device)
    precision = options.precision or ("bf16" if device.type == "cuda" else "fp32")
    floor = _floor(config, {"device": str(device), "precision": precision})
    return {**floor.to_dict(), "device": str(device), "model": config.model.name, "floor_ms": floor.chunk_ms(config)}


def _floor(config: StreamConfig, facts: dict[str, Any]) -> Floor:
    import torch

    from ms_infer.bench.floor import measure_floor

    return measure_floor(config, torch.device(facts["device"]), facts["precision"])


def _source_words(options: BenchOptions) -> str:
    if options.random_weights:
        return f"random weights, preset {options.preset or 'demo'}"
    return options.source if options.source == "demo" else Path(options.source).name


def _told(values: dict[str, Any], options: BenchOptions) -> str:
    """Print plain values; JSON either way, because people can read it too."""
    text = json.dumps(values, indent=None if options.json else 2)
    print(text)
    if options.json_out:
        Path(options.json_out).write_text(text + "\n")
    return "ok"


def _write(result: dict[str, Any], options: BenchOptions) -> None:
    from rich.console import Console

    from ms_infer.bench.report import headline, table

    if not options.quiet:
        Console(stderr=options.json, soft_wrap=True).print(table(result, explain=options.explain))
    if options.json:
        print(json.dumps(result))
    if options.json_out:
        Path(options.json_out).write_text(json.dumps(result, indent=1) + "\n")
    if options.plot:
        from ms_infer.bench.plot import plot_chunks

        plot_chunks(options.plot, result["samples"]["chunk_ms"], headline(result))


def _verdict(result: dict[str, Any], options: BenchOptions, limit: float) -> str:
    from ms_infer.bench.report import compare

    if options.min_fps is not None and result["fps"] < options.min_fps:
        raise MotionStreamError(f"{result['fps']:.2f} fps is below --min-fps {options.min_fps:g}")
    if options.compare:
        slower = compare(result, options.compare, limit)
        if slower:
            raise MotionStreamError(f"slower than {options.compare} by more than {limit:.0%}: {'; '.join(slower)}")
    return f"ok: {result['fps']:.1f} fps, chunk p50 {result['stages']['chunk']['p50']:.1f} ms"


def _say(words: str, options: BenchOptions) -> None:
    if sys.stderr.isatty() and not options.quiet:
        print(f"ms-bench: {words} …", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
