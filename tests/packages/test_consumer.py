"""A C++ program against the sources in the wheel: built, installed, and run from where it was installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.packages.conftest import ROOT, Environment, call

pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.skipif(shutil.which("cmake") is None, reason="no CMake"),
    pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler"),
]


@pytest.fixture(scope="module")
def installed(full: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The consumer of the C++ tests, as a project far from here with settings of its own that compile fast."""
    work = tmp_path_factory.mktemp("consumer")
    shutil.copytree(ROOT / "tests" / "cpp" / "consumer", work / "project")
    found = full.run("python", "-m", "ms_infer", "--cmake-dir").stdout.decode().strip()
    call(
        *("cmake", "-S", work / "project", "-B", work / "build", "-DCMAKE_BUILD_TYPE=None", "-DCMAKE_UNITY_BUILD=ON"),
        *(f"-Dms_infer_DIR={found}", f"-DPython_EXECUTABLE={full.python}"),
        variables=full.variables,
    )
    call("cmake", "--build", work / "build", "-j", "1", variables=full.variables)
    call("cmake", "--install", work / "build", "--prefix", work / "installed")
    shutil.rmtree(work / "build")
    return work / "installed"


@pytest.mark.parametrize("program", ["consumer_cpp", "consumer_c"])
def test_the_installed_program_streams_the_bundle(program: str, installed: Path, bundle: Path) -> None:
    assert "chunk 0: 9 frames" in call(installed / "bin" / program, bundle)


def test_what_is_installed_looks_for_nothing_in_the_build(installed: Path) -> None:
    for file in [*installed.glob("bin/*"), *installed.glob("lib*/*.so")]:
        dynamic = subprocess.run(["readelf", "-d", file], capture_output=True, text=True, check=True).stdout
        paths = [line for line in dynamic.splitlines() if "RUNPATH" in line or "RPATH" in line]
        assert "$ORIGIN" in "".join(paths)
        assert str(installed.parent) not in "".join(paths)


def test_the_licence_comes_with_it(installed: Path) -> None:
    assert (installed / "share" / "licenses" / "ms_infer" / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    assert sys.platform != "linux" or list(installed.glob("lib*/libms_infer.so"))
