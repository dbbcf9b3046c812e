"""The C++ library, built once and where the whole check builds it, and the bundles that it opens."""

from __future__ import annotations

import ctypes
import fcntl
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from ctypes import c_size_t, c_void_p
from pathlib import Path

import pytest

from ms_infer import Model
from tests.cpp.native import Library, NativeModel

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "cpp"

needs_compiler = [
    pytest.mark.skipif(shutil.which("cmake") is None, reason="no CMake"),
    pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler"),
]


def run(*command: str | Path) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}:\n{done.stdout[-4000:]}{done.stderr[-4000:]}"


@pytest.fixture(scope="session")
def build() -> Iterator[Path]:
    """The same build folder as scripts/test.py uses, so that nothing is compiled twice."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with open(BUILD / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run("cmake", "-S", ".", "-B", BUILD, f"-DPython_EXECUTABLE={sys.executable}")
        run("cmake", "--build", BUILD, "-j", "2", "--target", "ms_infer", "ms_infer_probe", "script_c", "script_cpp")
        yield BUILD


@pytest.fixture(scope="session")
def probe(build: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(next((build / "tests" / "cpp").glob("libms_infer_probe.*"))))
    library.ms_probe_player.restype = c_void_p
    library.ms_probe_config.restype = c_size_t
    return library


@pytest.fixture(scope="session")
def library(build: Path) -> Library:
    return Library(next((build / "ms_infer" / "cpp").glob("libms_infer.so")))


@pytest.fixture(scope="session")
def bundle(build: Path) -> Path:
    pytest.importorskip("openvino", reason="no OpenVINO")
    run(sys.executable, ROOT / "tests/cpp/make_bundles.py", "openvino", build / "bundles" / "openvino")
    return build / "bundles" / "openvino"


@pytest.fixture(scope="session")
def grey_bundle(build: Path) -> Path:
    """Image tokens, grey frames behind the image, and a window that moves."""
    pytest.importorskip("openvino", reason="no OpenVINO")
    run(sys.executable, ROOT / "tests/cpp/make_bundles.py", "grey", build / "bundles" / "grey")
    return build / "bundles" / "grey"


@pytest.fixture(scope="session")
def opened(library: Library) -> Iterator[Callable[[Path], tuple[Model, NativeModel]]]:
    """A bundle in both libraries, for streams in fp32 through OpenVINO: its stages are compiled once each."""
    models: dict[Path, tuple[Model, NativeModel]] = {}

    def open_both(bundle: Path) -> tuple[Model, NativeModel]:
        if bundle not in models:
            python = Model(bundle, engine="openvino", precision="fp32")
            models[bundle] = python, NativeModel(library, bundle, engine="openvino", precision="fp32")
        return models[bundle]

    yield open_both
    for python, _ in models.values():
        python.close()
    models.clear()
