"""Stored reference rollouts, in float32 and float64; every case runs through the same runner."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.golden import check

GOLDEN = Path(__file__).parent / "golden"
CASES = ["sf_window_sink", "ll_infinity_window_sink", "ll_switch_global_sink", "sf_i2v1"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", CASES)
def test_rollout_equals_the_reference(case: str, dtype: torch.dtype) -> None:
    result = check.check(GOLDEN / f"{case}.safetensors", dtype=dtype)

    assert result["passed"], result


@pytest.mark.parametrize(("wrong", "value"), [("sink_size", 2), ("local_attn_size", 8), ("rope", "relative")])
def test_another_context_is_far_off(tmp_path: Path, wrong: str, value: object) -> None:
    for suffix in (".json", ".safetensors"):
        shutil.copy(GOLDEN / f"sf_window_sink{suffix}", tmp_path)
    shutil.copy(GOLDEN / "weights_tiny96.safetensors", tmp_path)
    meta = json.loads((tmp_path / "sf_window_sink.json").read_text())
    (tmp_path / "sf_window_sink.json").write_text(json.dumps({**meta, wrong: value}))
    tensors = load_file(tmp_path / "sf_window_sink.safetensors")
    kept = {k: v for k, v in tensors.items() if not k.startswith("kv_final")}
    save_file(kept, tmp_path / "sf_window_sink.safetensors")

    result = check.check(tmp_path / "sf_window_sink.safetensors")

    assert result["max_abs_error"] > 1e-3


def test_the_runner_prints_one_json_line_a_case() -> None:
    cases = [str(GOLDEN / f"{case}.safetensors") for case in ("sf_i2v1", "ll_infinity_window_sink")]
    command = [sys.executable, "-m", "tests.golden.check", *cases]

    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=GOLDEN.parents[1])

    lines = [json.loads(line) for line in run.stdout.splitlines()]
    assert [line["case"] for line in lines] == ["sf_i2v1", "ll_infinity_window_sink"]
    assert all(set(line) == {"case", "max_abs_error", "passed"} for line in lines)


def test_values_that_are_not_finite_fail(tmp_path: Path) -> None:
    weights = load_file(GOLDEN / "weights_tiny96.safetensors")
    weights["head.head.bias"] = torch.full_like(weights["head.head.bias"], float("nan"))
    save_file(weights, tmp_path / "broken.safetensors")

    result = check.check(GOLDEN / "sf_i2v1.safetensors", tmp_path / "broken.safetensors")

    assert not result["passed"]
