"""Engines are libraries of their own: a program starts without them, and what is missing is named."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.cpp.conftest import needs_compiler

pytestmark = needs_compiler

MISSING = 4
SHIPPED = ("libopenvino.so", "libopenvino_intel_cpu_plugin", "libopenvino_ir_frontend", "libtbb.so")
CHECK = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
library.ms_last_error.restype = ctypes.c_char_p
print(library.ms_engine_check(b"openvino"), library.ms_last_error().decode())
"""


def vendor_folder() -> Path:
    spec = find_spec("openvino")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("no OpenVINO")
    return Path(spec.submodule_search_locations[0]) / "libs"


@pytest.fixture
def shipped(build: Path, tmp_path: Path) -> Path:
    """A folder with the library and its engine, which knows no other place to look."""
    for file in (build / "ms_infer" / "cpp").glob("libms_infer*.so*"):
        shutil.copy(file, tmp_path / file.name)
    engine, vendor = tmp_path / "libms_infer_openvino.so", os.fsencode(vendor_folder())
    engine.write_bytes(engine.read_bytes().replace(vendor, b"$ORIGIN".ljust(len(vendor), b"/")))
    return tmp_path


def ship(folder: Path, *names: str) -> None:
    """Put the vendor's libraries of these names beside ours."""
    for name in names:
        for file in vendor_folder().glob(f"{name}*"):
            shutil.copy(file, folder / file.name)


def checked(folder: Path) -> tuple[int, str]:
    """Status and words of a program that loads the library of this folder and asks for the engine."""
    command = [sys.executable, "-c", CHECK, folder / "libms_infer.so"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    status, _, words = done.stdout.strip().partition(" ")
    return int(status), words


def test_a_program_starts_without_the_engines_library(shipped: Path) -> None:
    (shipped / "libms_infer_openvino.so").unlink()
    status, words = checked(shipped)
    assert status == MISSING
    assert "put libms_infer_openvino.so beside libms_infer" in words


def test_a_missing_vendor_library_is_named(shipped: Path) -> None:
    status, words = checked(shipped)
    assert status == MISSING
    assert "libopenvino.so" in words


@pytest.mark.parametrize("left_out", ["libopenvino_intel_cpu_plugin", "libopenvino_ir_frontend"])
def test_a_missing_part_of_openvino_is_named(shipped: Path, left_out: str) -> None:
    ship(shipped, *(name for name in SHIPPED if name != left_out))
    status, words = checked(shipped)
    assert status == MISSING
    assert f"needs {left_out} beside libopenvino" in words


def test_four_libraries_are_all_that_a_program_ships(shipped: Path, bundle: Path, build: Path) -> None:
    ship(shipped, *SHIPPED)
    size = sum(file.stat().st_size for name in SHIPPED for file in shipped.glob(f"{name}*"))
    print(f"OpenVINO's share: {size / 2**20:.0f} MiB")
    assert checked(shipped)[0] == 0
    subprocess.run(["cmake", "--build", build, "--target", "embed"], check=True, capture_output=True)
    program = build / "ms_infer" / "cpp" / "examples" / "embed"
    environment = {**os.environ, "LD_LIBRARY_PATH": str(shipped)}
    done = subprocess.run([program, bundle], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "chunk 2" in done.stdout
