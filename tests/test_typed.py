"""Programs that use the package are type-checked against it, as a user's are against the installed one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROOT = TESTS.parent


def checked(name: str) -> subprocess.CompletedProcess[str]:
    """mypy as a user runs it: strict, without this repository's settings; the package says by py.typed what it is."""
    pytest.importorskip("mypy", reason="no mypy")
    options = ["--config-file=", "--strict", "--follow-imports=silent", f"--cache-dir={ROOT / '.mypy_cache' / 'user'}"]
    command = [sys.executable, "-m", "mypy", *options, str(TESTS / name)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_program_of_every_public_call_has_no_fault() -> None:
    done = checked("consumer.py")
    assert done.returncode == 0, done.stdout


def test_wrong_calls_are_found() -> None:
    lines = (TESTS / "consumer_wrong.py").read_text().splitlines()
    wrong = {number for number, line in enumerate(lines, 1) if line.endswith("# wrong")}
    found = {
        int(number) for number in re.findall(r"consumer_wrong.py:(\d+): error", checked("consumer_wrong.py").stdout)
    }
    assert found == wrong
    assert len(wrong) == 8


def test_dir_shows_what_is_public_and_all_of_it_is_there() -> None:
    import ms_infer

    assert dir(ms_infer) == sorted(ms_infer.__all__)
    assert all(hasattr(ms_infer, name) for name in ms_infer.__all__)
    assert {"Engine", "Hand", "Model", "Stream"} <= set(dir(ms_infer))
