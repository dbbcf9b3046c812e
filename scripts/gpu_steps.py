"""The steps of `scripts/gpu_check.py`: each prints what it found, the gist last, and exits with 0 when it holds."""

from __future__ import annotations

import csv
import json
import os
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ms_infer import Stream
from ms_infer.bench.environment import environment
from ms_infer.bench.floor import measure_floor
from ms_infer.bench.project import DEVICES, project
from ms_infer.bench.report import document
from ms_infer.bench.run import BenchPlan, measure
from ms_infer.bench.work import stream_facts
from ms_infer.checkpoint import Student, load_student, parts, random_student
from ms_infer.checkpoint import student as students
from ms_infer.config import StreamConfig, VaeConfig, preset
from ms_infer.config.presets import PRESETS
from ms_infer.engines.torch import attention
from ms_infer.engines.torch.captured import FusedEngine
from ms_infer.engines.torch.fused import load_kernels
from ms_infer.engines.torch.timing import clock_of, samples_ms
from scripts import gpu_carry

REHEARSAL = os.environ.get("GPU_CHECK_REHEARSE") == "1"
DEVICE = torch.device("cpu" if REHEARSAL else "cuda:0")
OUT = Path(os.environ.get("GPU_CHECK_OUT", "."))
BUILD = Path(__file__).resolve().parents[1] / "build"
TRAIN_MINUTES = 3.5


def settings(model: str, *, layers: int | None = None) -> StreamConfig:
    """A preset with a tiny decoder; in a rehearsal a tiny model of its kind."""
    if REHEARSAL:
        from tests.tiny import tiny_config

        return tiny_config(dim=64, ffn_dim=128, heads=2, size=32)
    config = preset(model)
    own = config.model.vae
    tiny = VaeConfig(kind="tiny", latent_channels=own.latent_channels, spatial_stride=own.spatial_stride)
    return replace(config, model=replace(config.model, vae=tiny, layers=layers or config.model.layers))


def drawn(config: StreamConfig) -> Student:
    """Random weights, drawn where they are used: on a CPU 1.3 billion numbers take long."""

    def tensors(wanted: Any, seed: str, dtype: torch.dtype, device: Any) -> dict[str, torch.Tensor]:
        generator = torch.Generator(DEVICE).manual_seed(len(seed))
        found = {}
        for name, like in wanted.items():
            ones = name.endswith("gamma") or (name.endswith("weight") and like.dim() == 1)
            scale = 0.02 if like.dim() <= 1 else parts._fan_in(name.rsplit(".", 1)[-1], like.shape) ** -0.5
            values = torch.randn(like.shape, generator=generator, device=DEVICE, dtype=torch.float32).mul_(scale)
            found[name] = (torch.ones_like(values) if ones else values).to(dtype)
        return found

    students.random_tensors = tensors
    return random_student(config, device=DEVICE, dtype=torch.float32 if REHEARSAL else torch.bfloat16)


def engine_of(student: Student, precision: str) -> FusedEngine:
    """As `Stream` opens it on a GPU."""
    return FusedEngine(
        student, device=str(DEVICE), precision="fp32" if REHEARSAL and precision == "bf16" else precision
    )


def smoke() -> str:
    """A captured chunk equals an eager one, bit for bit on replay."""
    student = drawn(settings("motionstream-1.3b", layers=2))
    made = {}
    for graphs in ("0", "1"):
        os.environ["MS_INFER_NO_CUDA_GRAPH"] = graphs
        with Stream(engine_of(student, "bf16"), seed=3) as stream:
            stream.start()
            made[graphs] = [stream.step().frames for _ in range(6)]
    del os.environ["MS_INFER_NO_CUDA_GRAPH"]
    equal = [np.array_equal(a, b) for a, b in zip(*made.values(), strict=True)]
    alive = len({frames.tobytes() for frames in made["0"]}) == len(equal)
    assert all(equal), f"captured and eager chunks differ: {equal}"
    assert alive, "all chunks are alike"
    name = "the CPU" if REHEARSAL else torch.cuda.get_device_name(DEVICE)
    return f"{len(equal)} captured chunks equal eager ones bit for bit on {name}, torch {torch.__version__}"


def bench(model: str, chunks: int) -> str:
    """bf16 and fp8 from one student in one process, each with its floor."""
    student, found = drawn(settings(model)), {}
    plan = BenchPlan(chunks=3 if REHEARSAL else chunks, warm_up=2 if REHEARSAL else 10, controls=2)
    for precision in ("bf16", "fp8"):
        engine = engine_of(student, precision)
        engine.warm_up()
        with Stream(engine) as stream:
            facts = {**stream_facts(stream), "source": f"random weights, {model}", "command": sys.argv}
            run = measure(stream, plan)
            floor = measure_floor(stream.config, str(DEVICE), engine.precision)
            found[precision] = document(run, stream.config, facts={**facts, "environment": environment()}, floor=floor)
        (OUT / f"bench-{model}.json").write_text(json.dumps(found))
        print(precision, {name: round(values["p50"], 2) for name, values in found[precision]["stages"].items()})
    told = [
        f"{name} {one['fps']:.1f} fps, p99/p50 {one['stages']['chunk']['jitter']:.3f}" for name, one in found.items()
    ]
    wrong = [one["roofline"]["error"] for one in found.values() if one["roofline"]["error"]]
    assert REHEARSAL or not wrong, "; ".join([*told, *wrong])
    told[0] = ("tiny model on a CPU: " if REHEARSAL else "measured ") + told[0]
    return f"{', '.join(told)}{_beside(model, found['bf16']['device_name'])}"


def _beside(model: str, device_name: str) -> str:
    """What was projected for this device, where it is one that we project."""
    key = next((key for key in DEVICES if key in device_name.lower().replace(" ", "")), None)
    if key is None:
        return ""
    worst, best = project(key, model).fps
    return f"; projected bf16 {worst:.0f}-{best:.0f} fps"


def kernels() -> str:
    """Attention at the real shapes, ours beside the libraries', for the context and for the text; tiles of ours."""
    config = settings("motionstream-1.3b")
    candidates = attention.implementations(DEVICE, load_kernels(DEVICE))
    dtype, found = (torch.float32 if REHEARSAL else torch.bfloat16), {}
    for name, keys in (("context", config.cache_tokens), ("text", config.model.text.tokens)):
        _, measured = attention.choose(candidates, config, torch.zeros(1, device=DEVICE, dtype=dtype), keys=keys)
        found[name] = {one.name: [one.ms, one.error] for one in measured}
        print(name, {one.name: round(one.ms, 3) for one in measured})
    if not REHEARSAL:
        found["tiles"] = {
            str(tile): _tile_ms(config, tile) for tile in ((128, 64, 8, 3), (128, 128, 8, 2), (64, 64, 4, 2))
        }
        print("tiles of the pointer form", found["tiles"])
    (OUT / "kernels.json").write_text(json.dumps(found))
    return "; ".join(
        f"{where}: {min(times, key=lambda one: times[one][0])} is fastest"
        for where, times in found.items()
        if where != "tiles"
    )


def _tile_ms(config: StreamConfig, numbers: tuple[int, int, int, int]) -> float | None:
    """Milliseconds of our attention with another tile; None where it does not run."""
    from ms_kernels import sink_window_attention, window_attention
    from ms_kernels.tiles import Tile

    kept = window_attention.attention_tile
    window_attention.attention_tile = lambda *_: Tile(*numbers)
    shape = (1, config.model.heads, config.cache_tokens, config.model.head_dim)
    k, v = (torch.randn(shape, device=DEVICE).bfloat16() for _ in range(2))
    state = torch.tensor([config.cache_tokens, 0, 0], dtype=torch.int32, device=DEVICE)
    try:
        q = k[:, :, : config.chunk_tokens].contiguous()
        times = samples_ms(lambda: sink_window_attention(q, k, v, state, form="pointer"), clock_of(DEVICE), repeats=10)
        return float(np.median(times))
    except (RuntimeError, ValueError) as error:
        print(numbers, "does not run:", error)
        return None
    finally:
        window_attention.attention_tile = kept


def stages() -> str:
    """Where the time of a chunk goes: by kernels, over three chunks."""
    from torch.profiler import ProfilerActivity, profile

    engine = engine_of(drawn(settings("motionstream-1.3b")), "bf16")
    engine.warm_up()
    with Stream(engine) as stream:
        stream.start()
        for _ in range(6):
            stream.step()
        kinds = [ProfilerActivity.CPU] if REHEARSAL else [ProfilerActivity.CUDA]
        with profile(activities=kinds) as profiler:
            timings = [stream.step().timings for _ in range(3)][-1]
    order = "self_cpu_time_total" if REHEARSAL else "self_device_time_total"
    report = profiler.key_averages().table(sort_by=order, row_limit=40, max_name_column_width=90)
    (OUT / "stages.txt").write_text(f"{timings}\n{report}\n")
    print(report)
    return "ms of a chunk: " + ", ".join(f"{name} {ms:.1f}" for name, ms in timings.items())


def tensorrt() -> str:
    """Go or no-go: the library starts, and says of a plan whether it runs here."""
    from ms_infer.engines.tensorrt.library import load
    from ms_infer.engines.tensorrt.stage import new_runtime

    site = _carried_in_two_parts() if REHEARSAL else gpu_carry.unpacked(BUILD)
    if site is not None:
        sys.path.insert(0, str(site))
        os.environ["PYTHONPATH"] = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    library = load("auto")
    if REHEARSAL:
        import carried

        return f"{library.name} {library.version} is there, its runtime needs a driver; {carried.WORDS}"
    new_runtime(library)
    print(f"{library.name} {library.version} starts", flush=True)
    import pytest

    code = pytest.main(["tests/gpu/test_tensorrt.py", "-q", "-x", "-p", "no:cacheprovider"])
    assert code == 0, "the TensorRT tests do not pass"
    return f"{library.name} {library.version}: engines load, compute and are captured"


def _carried_in_two_parts() -> Path | None:
    """A wheel that goes the way of the library's."""
    folder = Path(tempfile.mkdtemp())
    with zipfile.ZipFile(folder / "carried-1-cp312-cp312-any.whl", "w") as wheel:
        wheel.writestr("carried.py", "WORDS = 'a wheel came in two parts'")
    gpu_carry.cut([*folder.glob("*.whl")], folder)
    return gpu_carry.unpacked(folder)


def train() -> str:
    """The demo's whole recipe, from the autoencoder to a student file, in the time that a call leaves."""
    from ms_train import recipe

    runs = Path(tempfile.mkdtemp()) if REHEARSAL else BUILD / "gpu_train"
    assets, whose = BUILD / "assets", "carried assets"
    if REHEARSAL or not assets.is_dir():
        from tests.test_train_data import write_assets

        assets, whose = write_assets(Path(tempfile.mkdtemp())), "made-up assets: speed only"
    if REHEARSAL:
        PRESETS["demo"] = replace(PRESETS["demo"], height=64, width=64)
        recipe.recipe(assets, runs, scale="smoke", device="cpu")
    else:
        recipe.recipe(assets, runs, scale="gpu", minutes=TRAIN_MINUTES, device=str(DEVICE))
    steps = {}
    for curve in sorted(runs.glob("*/curves.csv")):
        rows = list(csv.DictReader(curve.read_text().splitlines()))
        steps[curve.parent.name] = int(rows[-1]["step"]) if rows else 0
        print(curve.parent.name, rows[-1] if rows else "no step")
    student = load_student(runs / "demo.safetensors")
    whole = student.missing == student.unused == () and student.refiner is not None
    assert whole, "the student that was trained is not whole"
    content = (runs / "demo.safetensors").read_bytes()  # two files: cat trained.safetensors.? puts them together
    half = -(-len(content) // 2)
    for number in range(2):
        (OUT / f"trained.safetensors.{number + 1}").write_bytes(content[number * half : (number + 1) * half])
    told = ", ".join(f"{name} {count}" for name, count in steps.items())
    return f"a student from {whose}; steps: {told}"


WORK: dict[str, Callable[[], str]] = {
    "smoke": smoke,
    "bench-1.3b": lambda: bench("motionstream-1.3b", 300),
    "bench-5b": lambda: bench("wan2.2-5b", 100),
    "kernels": kernels,
    "stages": stages,
    "tensorrt": tensorrt,
    "train": train,
}


if __name__ == "__main__":
    print(WORK[sys.argv[1]]())
