"""The script that asks a GPU everything in one call, rehearsed without one."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from scripts import gpu_carry, gpu_check
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
    assert [step.name for step in STEPS if step.call == 2] == ["tensorrt", "train"]
    assert sum(step.limit_s for step in STEPS if step.call == 2) <= 8 * 60


@pytest.mark.timeout(1800)
def test_the_whole_script_is_rehearsed_and_says_that_it_is_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = gpu_check.main(["--rehearse", "--out", str(tmp_path), "--minutes", "29"])
    assert code == 0, (tmp_path / "gpu_check.log").read_text()
    told = capsys.readouterr().out
    assert "nothing below was measured on a GPU" in told
    assert "a wheel came in two parts" in told
    content = json.loads((tmp_path / "gpu_check.json").read_text())
    assert content["rehearsal"]
    assert [one["name"] for one in content["results"]] == [step.name for step in STEPS]
    files = list(tmp_path.iterdir())
    assert len(files) <= 8
    assert max(file.stat().st_size for file in files) < 16 << 20


def a_wheel(folder: Path) -> Path:
    """One of incompressible content."""
    path = folder / "some_library-1-cp312-cp312-linux_x86_64.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("some_library/__init__.py", "NUMBER = 7")
        wheel.writestr("some_library/lib.so", np.random.default_rng(0).bytes(100_000))
    return path


def test_a_library_is_carried_in_two_parts_and_put_together(tmp_path: Path) -> None:
    build = tmp_path / "build"
    assert gpu_carry.unpacked(build) is None, "nothing was sent"
    parts = gpu_carry.cut([a_wheel(tmp_path)], build)
    sizes = [(part / "content").stat().st_size for part in parts]
    assert abs(sizes[0] - sizes[1]) <= 1
    site = gpu_carry.unpacked(build)
    assert site is not None
    assert (site / "some_library" / "__init__.py").read_text() == "NUMBER = 7"
    assert len((site / "some_library" / "lib.so").read_bytes()) == 100_000
    assert gpu_carry.unpacked(build) == site, "once"


def test_parts_that_are_missing_or_strange_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = tmp_path / "build"
    first, second = gpu_carry.cut([a_wheel(tmp_path)], build)
    (second / "content").write_bytes(b"of another time")
    with pytest.raises(RuntimeError, match="do not belong together"):
        gpu_carry.unpacked(build)
    (first / "content").unlink()
    with pytest.raises(RuntimeError, match="lacks part1: send each part"):
        gpu_carry.unpacked(build)
    monkeypatch.setattr(gpu_carry, "MOST_BYTES", 1000)
    with pytest.raises(ValueError, match="1 or more, and at most 0"):
        gpu_carry.cut([a_wheel(tmp_path)], build)


def test_benchmarks_are_collected_without_the_servers_packages() -> None:
    absent = ("websockets", "starlette", "uvicorn", "pydantic", "av", "cv2", "openvino", "onnx", "onnxruntime")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({absent!r})); import pytest; "
        "sys.exit(pytest.main(['benchmarks', '--collect-only', '-q', '-p', 'no:cacheprovider']))"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout[-2000:]
