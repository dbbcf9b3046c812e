"""The whole check: no test belongs to no suite, or to two."""

from __future__ import annotations

import tomllib
from pathlib import Path

from scripts.test import SUITES

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
