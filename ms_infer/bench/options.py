"""What a user asks `ms-bench` for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from ms_infer.cli.model import ModelOptions


@dataclass(frozen=True)
class BenchOptions(ModelOptions):
    """Measure a stream: frames per second, latency and its constancy."""

    source: tyro.conf.Positional[str] = "demo"
    """"demo", a checkpoint file or folder, or a bundle made by ms-export."""
    fps: tyro.conf.FlagCreatePairsOff[bool] = False
    """Measure the stream (what happens without --env or --floor anyway)."""
    floor: tyro.conf.FlagCreatePairsOff[bool] = False
    """Measure this machine's ceilings (products, attention, copy); with --fps also the share reached."""
    project: str | None = None
    """h100, h200, b200 or rtx5090: print what the preset named as source should reach there, by arithmetic, and stop.
    With --fps on such a GPU, what was measured stands beside it."""
    env: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print device, driver, library versions and settings, and stop."""
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
    brief: tyro.conf.FlagCreatePairsOff[bool] = False
    """Only fill the context and measure, without anything before and after: for models whose chunk takes long. Give
    --warm-up 0 with it for the fewest chunks."""
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
