"""The script that asks a GPU everything in one call, rehearsed without one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import gpu_check
from scripts.gpu_check import STEPS, Step, done_before, run_steps

ROOT = Path(__file__).parents[1]


def python(name: str, code: str, limit_s: float = 60.0) -> Step:
    return Step(name, (sys.executable, "-c", code), limit_s)


def test_a_step_that_fails_or_hangs_stops_no_other(tmp_path: Path) -> None:
    steps = [
        python("fails", "raise SystemExit('no such kernel')"),
        python("hangs", "import time; time.sleep(60)", limit_s=1.0),
        python("works", "print('fine')"),
    ]
    results = run_steps(steps, tmp_path, minutes=5)

    assert [one.state for one in results] == ["failed", "too long", "ok"]
    assert (results[0].words, results[2].words) == ("no such kernel", "fine")
    assert {path.name for path in tmp_path.iterdir()} == {"gpu_check.log", "gpu_check.json"}


def test_what_an_earlier_call_finished_is_not_done_again(tmp_path: Path) -> None:
    steps = [python("good", "print(1)"), python("bad", "raise SystemExit(1)")]
    run_steps(steps, tmp_path / "first", minutes=5)
    done = done_before(tmp_path / "first" / "gpu_check.json", rehearse=False)
    second = run_steps(steps, tmp_path / "second", minutes=5, done=done)

    assert [one.state for one in second] == ["done before", "failed"]
    assert done_before(tmp_path / "first" / "gpu_check.json", rehearse=True) == [], "a rehearsal is another matter"
    again = done_before(tmp_path / "second" / "gpu_check.json", rehearse=False)
    assert again == ["good"]


def test_no_step_begins_without_time(tmp_path: Path) -> None:
    assert [one.state for one in run_steps([python("late", "print(1)")], tmp_path, minutes=0)] == ["no time left"]


def test_the_command_is_short_and_the_first_call_fits() -> None:
    assert len("python scripts/gpu_check.py --out $OUT") <= 300
    assert [step.name for step in STEPS][:3] == ["smoke", "bench-1.3b", "bench-5b"], "in order of worth"
    assert {step.call for step in STEPS} == {1, 2}


@pytest.mark.parametrize("name", ["smoke", "kernels"])
def test_a_rehearsal_says_that_it_is_one(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = gpu_check.main(["--rehearse", "--only", name, "--out", str(tmp_path)])
    assert code == 0, (tmp_path / "gpu_check.log").read_text()
    assert "nothing below was measured on a GPU" in capsys.readouterr().out
    assert json.loads((tmp_path / "gpu_check.json").read_text())["rehearsal"]


def test_benchmarks_are_collected_without_the_servers_packages() -> None:
    absent = ("websockets", "starlette", "uvicorn", "pydantic", "av", "cv2", "openvino", "onnx", "onnxruntime")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({absent!r})); import pytest; "
        "sys.exit(pytest.main(['benchmarks', '--collect-only', '-q', '-p', 'no:cacheprovider']))"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout[-2000:]
