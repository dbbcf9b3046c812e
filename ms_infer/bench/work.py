"""Does what `ms-bench` was asked for: measure, print, write, compare."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from ms_infer.bench.environment import environment, gpus
from ms_infer.bench.floor import measure_floor
from ms_infer.bench.options import BenchOptions
from ms_infer.bench.plot import plot_chunks
from ms_infer.bench.project import project
from ms_infer.bench.project import table as projected_table
from ms_infer.bench.report import compare, document, headline, table
from ms_infer.bench.run import BenchPlan, measure
from ms_infer.cli.run import parse_size, set_logging
from ms_infer.config import StreamConfig, VaeConfig, preset
from ms_infer.errors import ConfigError, MotionStreamError
from ms_infer.stream import Stream

if TYPE_CHECKING:
    from ms_infer.checkpoint import Student


def bench(options: BenchOptions, command: Sequence[str]) -> str:
    """Do what the options ask for; returns the closing message. MotionStreamError when a gate fails."""
    set_logging(verbose=options.verbose, quiet=options.quiet)
    limit = parse_percent(options.fail_above)
    if options.env or (options.floor and not options.fps):
        _write(environment() if options.env else _floor_only(options), options, shown=True)
        return "ok"
    if options.project and not options.fps:
        return _projected(options, {})
    result = measure_stream(options, command)
    if options.project:
        if options.project not in result["device_name"].lower().replace(" ", ""):
            raise ConfigError(
                f"--project {options.project} with --fps: this is {result['device_name']}; leave --fps out"
            )
        measured = {name: values["p50"] for name, values in result["stages"].items()}
        return _projected(options, measured)
    if not options.quiet:
        Console(stderr=options.json, soft_wrap=True).print(table(result, explain=options.explain))
    _write(result, options, shown=False)
    if options.plot:
        plot_chunks(options.plot, result["samples"]["chunk_ms"], headline(result))
    return _verdict(result, options, limit)


def _projected(options: BenchOptions, measured: dict[str, float]) -> str:
    """The tables of --project: the precision asked for, else bf16 and fp8."""
    assert options.project is not None, "bench() looked"
    model = options.preset or options.source
    precisions = [options.precision] if options.precision else ["bf16"] if measured else ["bf16", "fp8"]
    found = [project(options.project, model, precision) for precision in precisions]
    if not options.quiet:
        console = Console(stderr=options.json, soft_wrap=True)
        for one in found:
            console.print(projected_table(one, measured))
    _write({"kind": "projected", "projections": [one.to_dict() for one in found]}, options, shown=False)
    return "ok: projected, nothing was measured" if not measured else "ok: projected beside measured"


def measure_stream(options: BenchOptions, command: Sequence[str]) -> dict[str, Any]:
    """The whole measurement as one plain document."""
    names = ("chunks", "seconds", "warm_up", "controls", "brief")
    plan = BenchPlan(**{name: getattr(options, name) for name in names})
    source = open_source(options)
    with Stream(source, engine=options.engine, device=options.device, precision=options.precision) as stream:
        random = options.random_weights
        name = f"random weights, preset {options.preset or 'demo'}" if random else Path(options.source).name
        facts = {**stream_facts(stream), "source": name, "command": list(command), "environment": environment()}
        progress = Console(stderr=True, quiet=options.quiet or not sys.stderr.isatty())
        run = measure(stream, plan, progress=lambda step: progress.print(f"ms-bench: {step} …"))
        floor = measure_floor(stream.config, facts["device"], facts["precision"]) if options.floor else None
        return document(run, stream.config, facts=facts, floor=floor, target_fps=options.target_fps)


def stream_facts(stream: Stream) -> dict[str, Any]:
    """Engine, precision and device of a stream."""
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
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return str(torch.cuda.get_device_name(device))
    found = gpus()
    return found[0]["name"] if found else device


def open_source(options: BenchOptions) -> str | Student:
    """What the stream is opened with."""
    if not options.random_weights and (options.size or options.tiny_decoder):
        raise ConfigError("--size and --tiny-decoder change the model: give --preset NAME --random-weights too")
    from ms_infer.cli.model import say_notes
    from ms_infer.engines.open import find_bundle, load_source

    if options.random_weights:
        from ms_infer.checkpoint import random_student

        return random_student(random_config(options))
    given = options.given()
    if not given.names and (options.source == "demo" or find_bundle(options.source, "torch", None) is not None):
        return options.source
    complete = load_source(options.source, given)
    say_notes("ms-bench", complete.notes)
    return complete.student


def random_config(options: BenchOptions) -> StreamConfig:
    """Settings for --random-weights."""
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
    from ms_infer.engines.torch.needs import check_device

    config = random_config(options) if options.random_weights else preset(options.preset or "demo")
    device = check_device(options.device)
    precision = options.precision or ("bf16" if device.type == "cuda" else "fp32")
    floor = measure_floor(config, str(device), precision)
    return {**floor.to_dict(), "device": str(device), "model": config.model.name, "floor_ms": floor.chunk_ms(config)}


def _write(document: dict[str, Any], options: BenchOptions, *, shown: bool) -> None:
    """The JSON of a result: printed where it is asked for or `shown`, and to a file."""
    if options.json or shown:
        print(json.dumps(document, indent=None if options.json else 2))
    if options.json_out:
        Path(options.json_out).write_text(json.dumps(document, indent=1) + "\n")


def _verdict(result: dict[str, Any], options: BenchOptions, limit: float) -> str:
    if options.min_fps is not None and result["fps"] < options.min_fps:
        raise MotionStreamError(f"{result['fps']:.2f} fps is below --min-fps {options.min_fps:g}")
    if options.compare:
        slower = compare(result, options.compare, limit)
        if slower:
            raise MotionStreamError(f"slower than {options.compare} by more than {limit:.0%}: {'; '.join(slower)}")
    if (error := result.get("roofline", {}).get("error")) is not None:
        raise MotionStreamError(f"{error}; measure again with --floor on an idle machine")
    return f"ok: {result['fps']:.1f} fps, chunk p50 {result['stages']['chunk']['p50']:.1f} ms"
