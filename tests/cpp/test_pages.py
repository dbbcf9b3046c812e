"""The C++ projects of the pages build against the library and run, file by file as they stand."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.cpp.conftest import needs_compiler
from tests.docs.pages import DOCS, blocks

pytestmark = needs_compiler


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", ["tutorial.md", "howto/cpp.md"])
def test_the_project_of_a_page_builds_and_streams(page: str, build: Path, bundle: Path, tmp_path: Path) -> None:
    files = [block for block in blocks(DOCS / page) if block.file]
    assert [block.file for block in files] == ["hello/CMakeLists.txt", "hello/main.cpp"]
    for block in files:
        (tmp_path / block.file).parent.mkdir(exist_ok=True)
        (tmp_path / block.file).write_text(block.text)

    run("cmake", "--install", build, "--prefix", tmp_path / "installed")
    run(
        *("cmake", "-S", tmp_path / "hello", "-B", tmp_path / "hello" / "build"),
        f"-DCMAKE_PREFIX_PATH={tmp_path / 'installed'}",
    )
    run("cmake", "--build", tmp_path / "hello" / "build")

    assert "chunk 2: " in run(tmp_path / "hello" / "build" / "hello", bundle)
