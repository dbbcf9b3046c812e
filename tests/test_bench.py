"""`ms-bench`: statistics, roofline, documents, gates and the command line; and the peers it stands beside."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.peers.__main__ import Runner, ratios
from benchmarks.peers.reference import ReferenceEngine
from ms_infer import ConfigError, ContextConfig, Stream, Tracks
from ms_infer.bench import cli as bench
from ms_infer.bench import stats as bench_stats
from ms_infer.bench.environment import environment
from ms_infer.bench.floor import Floor, measure_floor, work_of_pass
from ms_infer.bench.plot import SIZE, plot_chunks
from ms_infer.bench.report import compare, document, lines, warnings
from ms_infer.bench.run import BenchPlan, Measurement, measure
from ms_infer.bench.work import random_config
from ms_infer.config import preset
from ms_infer.engines.torch import TorchEngine
from tests.tiny import tiny_config, tiny_student, without_tracks


def test_summaries_are_percentiles() -> None:
    summary = bench_stats.summarise([float(n) for n in range(101)])

    assert (summary.p50, summary.p90, summary.p95, summary.p99, summary.max) == (50, 90, 95, 99, 100)
    assert summary.jitter == pytest.approx(1.98)
    assert bench_stats.summarise([]).count == 0


def test_slope_finds_a_trend_and_ignores_single_slow_chunks() -> None:
    noise = np.random.default_rng(0).normal(0, 1, 500)
    steady = 100 + noise
    outliers = np.where(np.arange(500) % 97 == 5, 900.0, steady)
    outliers[490:] += 300  # a hiccup at the very end, shorter than half a block
    rising = steady + 0.02 * np.arange(500)

    assert bench_stats.slope(steady).flat
    assert bench_stats.slope(outliers).flat
    trend = bench_stats.slope(rising)
    assert not trend.flat
    assert trend.ms_per_chunk == pytest.approx(0.02, abs=trend.margin)
    assert trend.drift == pytest.approx(0.1, rel=0.2)
    assert bench_stats.slope([1.0, 2.0]).margin == float("inf")


def test_deadlines_and_the_opening_average() -> None:
    assert bench_stats.deadline_misses([749.0, 751.0, 600.0], [12, 12, 9], 16) == 2
    took, frames = [300.0] + [390.0] * 9, [9] + [12] * 9
    assert bench_stats.average_fps(took, frames, 81) == pytest.approx(81 / (0.3 + 6 * 0.39))


def test_work_of_a_pass_is_that_of_the_roofline_page() -> None:
    """24.48 TFLOP at c3s1w1, 480x832, with text and image tokens (11.70 linear, 12.11 self, 0.66 cross)."""
    work = work_of_pass(preset("motionstream-1.3b"))

    assert work.linear / 1e12 == pytest.approx(11.70, abs=0.01)
    assert work.attention / 1e12 == pytest.approx(12.11 + 0.66, abs=0.02)
    floor = Floor(gemm_flops=8e14, attention_flops=8e14, copy_bytes=3e12, precision="bf16")
    assert floor.chunk_ms(preset("motionstream-1.3b")) == pytest.approx(122.4, abs=0.2)


def test_the_floor_is_measured_on_this_machine() -> None:
    config = tiny_config(dim=32, ffn_dim=64)
    floors = [measure_floor(config, "cpu", precision) for precision in ("fp32", "fp8")]

    for floor in floors:
        assert min(floor.gemm_flops, floor.attention_flops, floor.copy_bytes) > 1e6
        assert max(floor.gemm_flops, floor.attention_flops) < 1e16


PLAN = BenchPlan(chunks=4, warm_up=1, controls=2, grid=4)
FACTS: dict[str, Any] = {"engine": "torch", "precision": "fp32", "device": "cpu", "device_name": "a CPU"}


@pytest.fixture(scope="module")
def run() -> Measurement:
    with Stream(tiny_student()) as stream:
        return measure(stream, PLAN)


def result_of(run: Measurement, rate: float = 1e14) -> dict[str, Any]:
    floor = Floor(gemm_flops=rate, attention_flops=rate, copy_bytes=rate, precision="fp32")
    return document(run, tiny_config(), facts={**FACTS, "environment": environment()}, floor=floor)


def test_a_measurement_holds_every_chunk_of_the_steady_state(run: Measurement) -> None:
    assert run.frames == [12] * 4
    assert {len(samples) for samples in run.stages.values()} == {4}
    assert {"begin", "denoise", "decode", "write_cache", "chunk"} <= set(run.stages)
    assert run.opening_frames == [9, *[12] * 6]
    assert run.first_frame_ms >= run.opening_ms[0]
    assert len(run.control_ms) == 2
    assert min(run.control_ms) > 0
    assert abs(run.memory["python_bytes_per_chunk"]) < 20_000
    assert run.fps == pytest.approx(48 / run.wall_s)


def test_a_brief_measurement_makes_no_chunk_beyond_the_filled_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk of a large model on a CPU takes most of a minute."""
    with Stream(tiny_student()) as stream:
        made, step = [], stream.step
        monkeypatch.setattr(stream, "step", lambda: made.append(step()) or made[-1])
        run = measure(stream, BenchPlan(chunks=2, warm_up=0, brief=True))
        context = stream.config.context
    filling = -(-context.cache_frames // context.chunk_frames) + 1
    assert len(made) == filling + 2
    assert run.frames == [12] * 2
    said = " ".join(lines(json.loads(json.dumps(result_of(run)))))
    assert "fps" in said
    assert "control" not in said
    assert "81-frame" not in said


def test_a_model_without_tracks_is_measured_by_its_prompt() -> None:
    with Stream(without_tracks()) as stream:
        assert len(measure(stream, replace(PLAN, controls=1)).control_ms) == 1


def test_plans_that_cannot_work_are_refused() -> None:
    for wrong in ({"chunks": 0}, {"seconds": 0.0}, {"seconds": float("nan")}, {"warm_up": -1}):
        with pytest.raises(ConfigError):
            BenchPlan(**wrong)  # type: ignore[arg-type]


def test_the_document_survives_json_and_tells_people_the_same(run: Measurement) -> None:
    result = json.loads(json.dumps(result_of(run), allow_nan=False))
    told = " ".join(lines(result))

    assert result["fps"] == pytest.approx(run.fps)
    assert f"fps {run.fps:.1f}" in told
    assert "p99/p50" in told
    assert result["roofline"]["share"] == pytest.approx(
        result["roofline"]["floor_ms"] / (result["stages"]["denoise"]["p50"] + result["stages"]["write_cache"]["p50"])
    )
    assert any("only 4 chunks" in warning for warning in warnings(result))


def test_a_stream_faster_than_its_floor_is_an_error_of_the_floor(
    run: Measurement, monkeypatch: pytest.MonkeyPatch, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = json.loads(json.dumps(result_of(run, rate=1e3), allow_nan=False))
    assert result["roofline"]["share"] is None
    assert "the floor is wrong: the stream was" in result["roofline"]["error"]
    assert any("roofline: the floor is wrong" in line for line in lines(result))
    assert result_of(run)["roofline"]["error"] is None

    floor = Floor(gemm_flops=1e3, attention_flops=1e3, copy_bytes=1e3, precision="fp32")
    monkeypatch.setattr("ms_infer.bench.work.measure_floor", lambda *_: floor)
    assert cli(checkpoint, "--fps", "--floor") == 1
    assert "the floor is wrong: the stream was" in capsys.readouterr().err


def test_comparison_fails_on_a_slower_run_only(run: Measurement, tmp_path: Path) -> None:
    result = result_of(run)
    old = tmp_path / "old.json"
    old.write_text(json.dumps(result))
    slower = json.loads(json.dumps(result))
    slower["fps"] *= 0.9
    slower["stages"]["chunk"]["p50"] *= 1.2

    assert compare(result, old, 0.05) == []
    assert [words.split()[0] for words in compare(slower, old, 0.05)] == ["fps", "chunk"]
    assert compare(slower, old, 0.3) == []


@pytest.mark.parametrize(
    ("content", "words"),
    [("{", "readable"), ("[]", "schema"), ('{"schema": "other"}', "schema")],
)
def test_comparison_refuses_what_does_not_compare(run: Measurement, tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "old.json").write_text(content)
    with pytest.raises(ConfigError, match=words):
        compare(result_of(run), tmp_path / "old.json", 0.05)


def test_comparison_refuses_another_device(run: Measurement, tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text(json.dumps({**result_of(run), "device_name": "another"}))
    with pytest.raises(ConfigError, match="device_name"):
        compare(result_of(run), tmp_path / "old.json", 0.05)


def test_the_plot_shows_slow_chunks_higher(tmp_path: Path) -> None:
    plot_chunks(tmp_path / "p.png", [10.0] * 50 + [40.0], "chunks")
    with Image.open(tmp_path / "p.png") as image:
        assert image.size == SIZE
        rows = {y for x in range(80, 930) for y in range(45, 355) if image.getpixel((x, y)) == (60, 110, 200)}

    assert min(rows) < 100 < 250 < max(rows)


def test_help_is_quick_and_free_of_torch() -> None:
    code = "import sys, ms_infer.bench.cli; print(sorted({'torch', 'numpy', 'PIL'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def cli(tmp_path: Path, *arguments: str) -> int:
    small = ["--chunks", "3", "--warm-up", "0", "--controls", "1", "--quiet"]
    return bench.main([str(tmp_path / "tiny.safetensors"), *small, *arguments])


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    from ms_infer.checkpoint import save_student

    save_student(tiny_student(), tmp_path / "tiny.safetensors")
    return tmp_path


def test_the_command_prints_one_document_and_writes_files(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = checkpoint / "out.json"
    assert cli(checkpoint, "--fps", "--json", "--json-out", str(out), "--plot", str(checkpoint / "p.png")) == 0
    printed = json.loads(capsys.readouterr().out)

    assert printed == json.loads(out.read_text())
    assert (printed["source"], printed["engine"], printed["device"]) == ("tiny.safetensors", "torch", "cpu")
    assert len(printed["samples"]["chunk_ms"]) == 3
    assert str(checkpoint) not in json.dumps({k: v for k, v in printed.items() if k != "command"})
    assert cli(checkpoint, "--compare", str(out), "--fail-above", "100000%") == 0
    assert cli(checkpoint, "--min-fps", "1e9") == 1
    assert "below --min-fps" in capsys.readouterr().err


def test_the_table_says_that_a_cpu_is_no_gpu(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        str(checkpoint / "tiny.safetensors"),
        "--chunks",
        "2",
        "--warm-up",
        "0",
        "--controls",
        "0",
        "--explain",
    ]
    assert bench.main(arguments) == 0
    told = capsys.readouterr().out

    assert "not a GPU performance result" in told
    assert "81-frame fps" in told
    assert "trend of the chunk time" in told


def test_env_and_floor_print_plain_values(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--env", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["versions"]["torch"].startswith("2.")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--size", "64x64"], "--random-weights"),
        (["--random-weights", "--size", "64"], "HEIGHTxWIDTH"),
        (["--random-weights", "--preset", "nothing"], "unknown preset"),
        (["--fail-above", "much"], "percentage"),
        (["--chunks", "0"], "chunks >= 1"),
    ],
)
def test_wrong_options_say_what_to_write(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(arguments) == 1
    assert words in capsys.readouterr().err


def test_random_weights_take_size_and_decoder_of_the_options() -> None:
    options = bench.BenchOptions(preset="wan2.2-5b", random_weights=True, tiny_decoder=True, size="352x640")
    config = random_config(options)

    assert (config.height, config.width) == (352, 640)
    assert (config.model.vae.kind, config.model.vae.latent_channels, config.model.vae.spatial_stride) == (
        "tiny",
        48,
        16,
    )


CONTEXTS = {
    "relative": ContextConfig(),
    "absolute, wide": ContextConfig(sink_frames=2, window_frames=4, rope="absolute"),
    "short first chunk": ContextConfig(sink_frames=1, window_frames=2, first_chunk_frames=1),
}


@pytest.mark.parametrize("context", CONTEXTS)
def test_the_reference_loop_computes_the_same(context: str) -> None:
    latents = []
    for kind in (TorchEngine, ReferenceEngine):
        engine = kind(tiny_student(context=CONTEXTS[context]), device="cpu")
        with Stream(engine) as stream:
            stream.start(None, "a cat", Tracks.grid(4, 4).drag((0.4, 0.5), (0.8, 0.5)))
            for _ in range(7):
                stream.step()
        latents.append(engine._x.clone())

    torch.testing.assert_close(latents[1], latents[0], atol=2e-5, rtol=2e-5)


def test_ratios_compare_fastest_and_median_chunks() -> None:
    with Stream(tiny_student()) as stream:
        ours, other = Runner(stream, [10.0, 20.0, 90.0], [5.0] * 3), Runner(stream, [40.0, 60.0, 50.0], [30.0] * 3)

    assert ratios(ours, other) == {"wall_min": 4, "wall_p50": 2.5, "cpu_min": 6, "cpu_p50": 6}
