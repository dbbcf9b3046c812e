"""The whole check: no test belongs to no suite, or to two; jobs that wait for time run one after the other."""

from __future__ import annotations

import threading
import tomllib
from pathlib import Path

import pytest

from scripts import test as check
from scripts.test import IN_TURN, QUICK, SUITES, jobs, side_by_side

ROOT = Path(__file__).resolve().parents[1]


def test_every_test_belongs_to_one_suite() -> None:
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    apart = {f"tests/{name}" for name in options["norecursedirs"]}
    for file in (ROOT / "tests").rglob("test_*.py"):
        folder = "/".join(file.relative_to(ROOT).parts[:2])
        suites = [name for name in SUITES if name == folder]
        if folder not in apart and f"--ignore={folder}" not in SUITES["tests"]:
            suites.append("tests")
        assert len(suites) == 1, f"{file.name} of {folder}: {suites}"


def test_jobs_that_wait_for_time_never_run_beside_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "LANES", 2)
    ran: list[str] = []
    running: set[str] = set()
    together: list[set[str]] = []
    met = threading.Barrier(2)

    def job(name: str) -> bool:
        running.add(name)
        if name in (IN_TURN[0], "tests"):
            met.wait(60)  # two lanes: a job of the one and a job of the other are there at once
        together.append(running & set(IN_TURN))
        ran.append(name)
        running.discard(name)
        return name != "docs"

    results = side_by_side({name: lambda name=name: job(name) for name in jobs()})  # type: ignore[misc]

    assert sorted(ran) == sorted(jobs())
    assert results.count(False) == 1
    assert [name for name in ran if name in IN_TURN] == list(IN_TURN)
    assert max(map(len, together)) == 1


def test_every_suite_is_run_and_a_wrong_name_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called: list[str] = []
    monkeypatch.setattr(check, "run", lambda name, _command: called.append(name) or True)
    for name in ("cpp", "page"):  # the build holds a lock while this runs in the whole check
        monkeypatch.setattr(check, name, lambda name=name: called.append(name) or True)
    monkeypatch.setattr("sys.argv", ["test.py"])
    assert check.main() == 0
    assert {*QUICK, *SUITES, "types", "docs", "cpp", "page"} <= set(called)

    called.clear()
    monkeypatch.setattr("sys.argv", ["test.py", "types", "c+"])
    assert check.main() == 2
    assert not called
    assert "no check is called c+; there are style, " in capsys.readouterr().out
