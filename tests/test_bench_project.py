"""`ms-bench --project`: arithmetic that says what it is."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean

import pytest

from ms_infer import ConfigError
from ms_infer.bench.cli import main
from ms_infer.bench.floor import work_of_pass
from ms_infer.bench.project import DEVICES, project, table
from ms_infer.config import preset

MODEL = "motionstream-1.3b"


@pytest.mark.parametrize(("precision", "goal"), [("bf16", 67), ("fp8", 80)])
def test_the_paper_sized_model_is_projected_above_its_goal_on_an_h100(precision: str, goal: int) -> None:
    assert mean(project("h100", MODEL, precision).fps) >= goal


def test_the_work_is_that_of_the_passes() -> None:
    denoise, decode, clean = project("h100", MODEL).stages
    one = work_of_pass(preset(MODEL))

    assert denoise.products == 3 * one.linear
    assert 0.95 * one.linear < clean.products < one.linear
    assert clean.attention == pytest.approx(one.attention * 29 / 30)
    assert decode.convolutions > 1e12
    assert all(stage.ms_best < stage.ms_worst for stage in (denoise, decode, clean))


def test_faster_devices_are_projected_faster() -> None:
    fps = {device: project(device, MODEL).fps[0] for device in DEVICES}
    assert fps["rtx5090"] < fps["h100"] < fps["h200"] < fps["b200"]


def test_it_never_reads_as_a_measurement(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--project", "h100", MODEL, "--json-out", str(tmp_path / "p.json")]) == 0
    shown = capsys.readouterr()
    assert "projected, not measured" in shown.out
    assert "measured ms" not in shown.out
    assert "nothing was measured" in shown.err
    assert json.loads((tmp_path / "p.json").read_text())["kind"] == "projected"


def test_what_was_measured_has_a_column_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    Console().print(table(project("h100", MODEL), {"denoise": 123.4}))
    head = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("stage"))
    assert head.split("  ")[-2].strip() == "projected ms"
    assert head.rstrip().endswith("measured ms")


def test_unknown_devices_and_precisions_are_refused() -> None:
    with pytest.raises(ConfigError, match="h100, h200, b200, rtx5090"):
        project("a100", MODEL)
    with pytest.raises(ConfigError, match="bf16 or fp8"):
        project("h100", MODEL, "fp32")
