"""Compile, never interpret: decided before a kernel is decorated, so for the whole process."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

import pytest

os.environ["TRITON_INTERPRET"] = "0"
os.environ.setdefault("TRITON_CACHE_DIR", str(Path(__file__).parents[2] / "build" / "triton"))

if "ms_kernels.jit" in sys.modules and sys.modules["ms_kernels.jit"].INTERPRETED:
    raise pytest.UsageError("the kernels are already loaded for the interpreter; run `pytest tests/aot` on its own")


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """Folder and manifest of every kernel for every architecture, sizes of the 1.3B model."""
    from ms_kernels.aot import MissingToolError, build, join_fatbins, write_manifest
    from ms_kernels.aot_specs import KERNELS, Profile
    from ms_kernels.tiles import ARCHITECTURES

    folder = tmp_path_factory.mktemp("kernels")
    manifest = build(folder, list(KERNELS), ARCHITECTURES, Profile())
    with contextlib.suppress(MissingToolError):  # the tests of fatbins are skipped without the toolkit
        join_fatbins(folder, manifest)
    write_manifest(folder, manifest)
    return folder, manifest
