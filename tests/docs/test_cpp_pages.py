"""The C++ projects of the pages build against the library and run, file by file as they stand."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, blocks
from tests.test_cpp import build, bundle  # noqa: F401 (fixtures: the build folder that all C++ checks share)

pytestmark = [
    pytest.mark.skipif(shutil.which("cmake") is None, reason="no CMake"),
    pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler"),
]


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", ["tutorial.md", "howto/cpp.md"])
def test_the_project_of_a_page_builds_and_streams(page: str, build: Path, bundle: Path, tmp_path: Path) -> None:  # noqa: F811
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
