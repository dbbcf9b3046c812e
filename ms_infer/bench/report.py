"""What `ms-bench` says: one JSON document for machines, a table for people, a verdict against an older run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ms_infer.bench.floor import Floor, work_of_pass
from ms_infer.bench.run import OPENING_FRAMES, Measurement
from ms_infer.bench.stats import NOISY_VARIATION, average_fps, deadline_misses, slope, summarise
from ms_infer.config import StreamConfig
from ms_infer.errors import ConfigError

SCHEMA = "ms_infer.bench/1"
FLOOR_ERROR = "the floor is wrong: the stream was at {share:.0%} of it, and nothing is faster than its floor"
EXPLANATIONS = {
    "chunk": "from taking the control to all frames of the chunk in host memory",
    "begin": "before the first pass: inputs from the host, roll of the sink, track latents",
    "denoise": "all denoising passes of the transformer (on CUDA: with the first noise and the sink's roll)",
    "decode": "latents to uint8 frames on the host",
    "write_cache": "the clean pass that writes the chunk's final keys and values",
    "fps": "RGB frames over wall time, sink and window full",
    "81-frame fps": "the same over the first 81 frames of a stream, whose first chunk is shorter (the paper's number)",
    "first frame": "from start() with a picture to the first chunk's frames, in a warm process",
    "control latency": "from setting tracks at a random moment to the frames made with them",
    "deadline misses": "chunks that took longer than their frames play",
    "jitter": "p99 / p50 of the chunk",
    "slope": "trend of the chunk time over the chunk index (medians of 20 blocks, least squares, 95 % interval)",
    "cpu time": "processor time of all threads per chunk; unlike wall time it hides what else the machine does",
    "roofline": "least time of products and attention at this machine's measured ceilings, over the time taken",
}


def document(
    run: Measurement,
    config: StreamConfig,
    *,
    facts: dict[str, Any],
    floor: Floor | None = None,
    target_fps: float | None = None,
) -> dict[str, Any]:
    """Plain values of one run. `facts`: engine, precision, device, source, command and environment, as they are."""
    target = target_fps or config.fps
    result = {
        "schema": SCHEMA,
        **facts,
        "config": config.to_dict(),
        "fps": run.fps,
        f"fps_{OPENING_FRAMES}_frames": average_fps(run.opening_ms, run.opening_frames, OPENING_FRAMES),
        "first_frame_ms": run.first_frame_ms,
        "brief": not run.opening_ms,
        "control_ms": summarise(run.control_ms).to_dict(),
        "stages": {stage: summarise(samples).to_dict() for stage, samples in run.stages.items()},
        "cpu_ms": summarise(run.cpu_ms).to_dict(),
        "slope": slope(run.chunk_ms).to_dict(),
        "cpu_slope": slope(run.cpu_ms).to_dict(),
        "deadline": {
            "fps": target,
            "misses": deadline_misses(run.chunk_ms, run.frames, target),
            "chunks": len(run.chunk_ms),
        },
        "memory": run.memory,
        "samples": {"chunk_ms": run.chunk_ms, "cpu_ms": run.cpu_ms, "control_ms": run.control_ms},
    }
    if floor is not None:
        result["roofline"] = roofline(result, config, floor)
    return result


def roofline(result: dict[str, Any], config: StreamConfig, floor: Floor) -> dict[str, Any]:
    """The floor, the chunk's work and the share of the floor that the transformer's passes reached.

    Nothing is faster than its floor: instead of a share above 1 there is an `error`, which says so.
    """
    stages = result["stages"]
    spent = sum(stages[name]["p50"] for name in ("denoise", "write_cache") if name in stages)
    passes = len(config.schedule.timesteps) + 1
    work = work_of_pass(config).total * passes
    share = floor.chunk_ms(config) / spent if spent else 0.0
    return {
        **floor.to_dict(),
        "floor_ms": floor.chunk_ms(config),
        "chunk_flops": work,
        "reached_flops": work / spent * 1e3 if spent else 0.0,
        "share": share if share <= 1 else None,
        "error": None if share <= 1 else FLOOR_ERROR.format(share=share),
    }


def table(result: dict[str, Any], *, explain: bool = False) -> Any:
    """A rich renderable for people."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False)
    for column in ("stage, ms", "p50", "p95", "p99", "max"):
        grid.add_column(column, justify="left" if column == "stage, ms" else "right")
    rows = {**result["stages"], "cpu time": result["cpu_ms"]}
    for stage, values in rows.items():
        grid.add_row(stage, *(f"{values[name]:.1f}" for name in ("p50", "p95", "p99", "max")))
    parts: list[Any] = [Text(headline(result), style="bold"), grid, *map(Text, lines(result))]
    parts += [Text(warning, style="yellow") for warning in warnings(result)]
    if not result["environment"]["gpus"] or result["device"] == "cpu":
        parts.append(Text("measured on a CPU: not a GPU performance result", style="bold"))
    if explain:
        parts += [Text(f"{name}: {text}", style="dim") for name, text in EXPLANATIONS.items()]
    return Group(*parts)


def headline(result: dict[str, Any]) -> str:
    config, context = result["config"], result["config"]["context"]
    sizes = ", ".join(f"{name} {context[f'{name}_frames']}" for name in ("chunk", "sink", "window"))
    steps = len(config["schedule"]["timesteps"])
    return (
        f"{result['device_name']} · {config['width']}x{config['height']} · {config['model']['name']} · latent frames: "
        f"{sizes} · {steps}+1 passes · {result['precision']} · {result['engine']}"
    )


def lines(result: dict[str, Any]) -> list[str]:
    """The sentences under the table."""
    memory, trend, late = result["memory"], result["slope"], result["deadline"]
    margin = "∞" if trend["margin"] is None else f"{trend['margin'] * 1e6:.1f}"
    told = [
        f"fps {result['fps']:.{1 if result['fps'] >= 1 else 3}f} · {_beyond_steady(result)}"
        f"deadline misses {late['misses']} / {late['chunks']} at {late['fps']:g} fps",
        f"constant: slope {trend['ms_per_chunk'] * 1e6:+.1f} ± {margin} µs / 1000 chunks "
        f"({'flat' if trend['flat'] else 'NOT flat'}, drift {trend['drift']:+.2%}) · p99/p50 "
        f"{result['stages']['chunk']['jitter']:.3f} (cpu time {result['cpu_ms']['jitter']:.3f})",
        f"memory: {memory['device_bytes_per_chunk']:.0f} B allocated on the device a chunk · "
        + ("" if result["brief"] else f"Python {memory['python_bytes_per_chunk']:+.0f} B a chunk · ")
        + f"resident memory {memory['resident_growth_bytes'] / 2**20:+.1f} MiB",
    ]
    roof = result.get("roofline")
    if roof:
        told.append(
            f"roofline: {roof['error'] or format(roof['share'], '.0%')} ({roof['reached_flops'] / 1e12:.2f} TFLOP/s; "
            f"floor {roof['floor_ms']:.1f} ms: "
            f"products {roof['gemm_flops'] / 1e12:.2f}, attention {roof['attention_flops'] / 1e12:.2f} TFLOP/s, "
            f"copy {roof['copy_bytes'] / 1e9:.1f} GB/s)"
        )
    return told


def _beyond_steady(result: dict[str, Any]) -> str:
    """What a brief measurement leaves out."""
    if result["brief"]:
        return ""
    control = result["control_ms"]
    return (
        f"81-frame fps {result[f'fps_{OPENING_FRAMES}_frames']:.1f} · first frame {result['first_frame_ms']:.0f} ms · "
        f"control latency p50 {control['p50']:.0f} p95 {control['p95']:.0f} ms · "
    )


def warnings(result: dict[str, Any]) -> list[str]:
    """What makes the numbers less certain."""
    told, chunk = [], result["stages"]["chunk"]
    if chunk["variation"] > NOISY_VARIATION:
        told.append(
            f"the chunk time varies by {chunk['variation']:.1%}: lock the clocks or free the machine "
            f"(load {result['environment']['load_1min']} on {result['environment']['cores']} cores)"
        )
    if chunk["count"] < 100:
        told.append(f"only {chunk['count']} chunks: p99 is hardly more than the maximum; use --chunks 500")
    return told


def compare(result: dict[str, Any], old_path: str | Path, limit: float) -> list[str]:
    """Regressions beyond `limit` (0.05 = 5 %) against an older document; ConfigError when the two do not compare."""
    try:
        old = json.loads(Path(old_path).read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{old_path} is not readable ({error}); give a file written by --json-out") from None
    if not isinstance(old, dict) or old.get("schema") != SCHEMA:
        raise ConfigError(f"{old_path} is not of the schema {SCHEMA}; measure the old version again with --json-out")
    same = ("config", "engine", "precision", "device_name")
    differ = [name for name in same if json.dumps(old.get(name)) != json.dumps(result[name])]
    if differ:
        raise ConfigError(f"{old_path} was measured with another {', '.join(differ)}; compare like with like")
    found = []
    if result["fps"] < old["fps"] * (1 - limit):
        found.append(f"fps {old['fps']:.2f} -> {result['fps']:.2f}")
    for point in ("p50", "p95"):
        before, now = (document["stages"]["chunk"][point] for document in (old, result))
        if now > before * (1 + limit):
            found.append(f"chunk {point} {before:.2f} -> {now:.2f} ms")
    return found
