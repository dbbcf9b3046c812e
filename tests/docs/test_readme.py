"""The README: every line of code in it runs as it stands, and its links lead somewhere."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, blocks
from tests.docs.running import RUN, environment, run

README = ROOT / "README.md"
BIN = Path(sys.executable).parent


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with what `make` needs of a clone, and an environment that is already there."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "install.py").write_text("raise SystemExit('the test must install nothing')\n")
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "bin").symlink_to(BIN)
    for extras in re.findall(r"\.installed-([\w,]+)", (ROOT / "Makefile").read_text()):
        (tmp_path / ".venv" / f".installed-{extras}").touch()
    return tmp_path


@pytest.mark.timeout(1800)
def test_every_line_of_code_runs_as_it_stands(clone: Path, exported: Path) -> None:
    found = blocks(README)
    variables = environment(clone)
    for block in found:
        run(block, clone, variables, exported)

    assert len(found) >= 3
    assert not [block.line for block in found if block.language not in RUN or block.not_run]
    for made in ("demo.mp4", "demo.jpg", "out.mp4", "stream.safetensors"):
        assert (clone / made).stat().st_size > 1_000, made


def test_links_lead_to_files_of_the_repository() -> None:
    text = README.read_text()
    local = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]

    assert len(local) > 15
    assert not [link for link in local if not (ROOT / link.partition("#")[0]).exists()]


@pytest.mark.parametrize("target", ["demo", "live", "test", "docs"])
def test_make_knows_the_targets_that_the_pages_name(target: str, clone: Path) -> None:
    done = subprocess.run(["make", "-n", target], cwd=clone, capture_output=True, text=True, check=True)

    assert "install.py" not in done.stdout  # the environment is there
    assert ".venv/bin/" in done.stdout
