"""Every kernel compiles for every architecture without spills, within its shared memory, on its tensor cores."""

from __future__ import annotations

import importlib
import re
from dataclasses import replace
from pathlib import Path

import ms_kernels
import pytest
import triton
from ms_kernels.aot import build, compile_spec
from ms_kernels.aot_specs import FP8_ARCHITECTURES, KERNELS, TMA_ARCHITECTURES, Profile, specs
from ms_kernels.layout import TrackGrid
from ms_kernels.tiles import ARCHITECTURES, SHARED_LIMIT_KIB

from tests.aot.tools import assemble, instructions

PAIRS = [(name, arch) for name, (_, archs) in KERNELS.items() for arch in archs]
TARGETS = {80: "sm_80", 89: "sm_89", 90: "sm_90a", 100: "sm_100a", 120: "sm_120a"}
TENSOR_CORE = {80: "HMMA", 89: "HMMA", 90: "HGMMA", 100: "UTCHMMA", 120: "HMMA"}
ATTENTION = [(name, arch) for name, arch in PAIRS if name.startswith("sink_window_attention")]


def _entry(built, name, arch):
    folder, manifest = built
    return folder, manifest["kernels"][name]["architectures"][str(arch)]


def test_the_architectures_are_the_ones_we_promise():
    assert ARCHITECTURES == (80, 89, 90, 100, 120)
    assert ARCHITECTURES[1:] == FP8_ARCHITECTURES
    assert ARCHITECTURES[2:] == TMA_ARCHITECTURES
    assert len(PAIRS) == 8 * 5 + 4 * 4 + 3


def test_every_kernel_is_compiled_ahead_of_time():
    """Each `*_kernel` of the package belongs to a Spec."""
    stems = {path.stem for path in Path(ms_kernels.__file__).parent.glob("[a-z]*.py")}
    modules = [f"ms_kernels.{stem}" for stem in stems - {"write_frames"}]  # ms_export compiles it
    kernels = {
        value.__name__
        for module in map(importlib.import_module, modules)
        for name, value in vars(module).items()
        if isinstance(value, triton.JITFunction) and name.endswith("_kernel")
    }
    assert kernels == {spec.kernel.__name__ for spec in specs(90, Profile()).values()}
    assert len(kernels) == len(KERNELS)


@pytest.mark.parametrize(("name", "arch"), PAIRS)
def test_a_kernel_fits_its_architecture(built, name, arch):
    folder, entry = _entry(built, name, arch)
    resources = assemble(folder / entry["ptx"]["file"])
    assert entry["target"] == TARGETS[arch]
    assert resources.spilled_bytes == 0
    assert resources.registers * entry["threads"] <= 65536
    assert entry["shared_bytes"] <= SHARED_LIMIT_KIB[arch] * 1024


ROWS = ["norm_modulate", "norm_modulate_fp8", "residual_modulate", "residual_modulate_fp8", "quantise_rows"]
ROWS.append("gelu_fp8")
MULTIPLES = {"dim": 1536, "columns": 8960, "tokens_per_frame": 1560}
"""Integers of the row kernels at the 1.3B model's sizes, beside strides."""


def _loads(text):
    """How many values the loads from global memory take at once: {1: 48, 4: 6}."""
    widths = [int(found[1]) if found else 1 for found in map(VECTOR.search, re.findall(r"ld\.global\S*", text))]
    return {width: widths.count(width) for width in sorted(set(widths))}


VECTOR = re.compile(r"\.v(\d)")


@pytest.mark.parametrize("name", ROWS)
def test_rows_are_read_as_widely_as_the_jit_reads_them(built, name):
    """The same kernel, specialised for the launcher's integers as Triton's JIT does it."""
    folder, entry = _entry(built, name, 90)
    spec = specs(90, Profile())[name]
    found = tuple(name for name, value in MULTIPLES.items() if name in spec.types and value % 16 == 0)
    wide = replace(spec, wide=found)
    assert set(wide.aligned) == set(spec.aligned), "what the JIT knows, the ahead-of-time kernel is told"
    loads = _loads((folder / entry["ptx"]["file"]).read_text())
    assert loads == _loads(compile_spec(wide, 90).asm["ptx"])
    assert max(loads) == 4
    assert loads.get(1, 0) == 0, "rows are read element by element"


def _assert_tensor_cores(folder, entry, name, arch):
    found = instructions(folder / entry["cubin"]["file"])
    assert found.get(TENSOR_CORE[arch], 0) > 0
    assert (found.get("UTMALDG", 0) > 0) == name.endswith("_tma")
    if not name.endswith("_tma"):
        assert found.get("LDGSTS", 0) > 0, "keys and values are loaded without the asynchronous copy"


@pytest.mark.parametrize(("name", "arch"), ATTENTION)
def test_attention_runs_on_the_tensor_cores(built, name, arch):
    folder, entry = _entry(built, name, arch)
    _assert_tensor_cores(folder, entry, name, arch)


@pytest.fixture(scope="session")
def built_small(tmp_path_factory):
    """Attention and cache kernels of the demo model in fp16: head size 64."""
    folder = tmp_path_factory.mktemp("small")
    names = ["sink_window_attention", "sink_window_attention_tma", "write_kv", "roll_sink"]
    return folder, build(folder, names, ARCHITECTURES, Profile(dtype="fp16", dim=384, heads=6, ffn_dim=1536))


@pytest.mark.parametrize(("name", "arch"), ATTENTION)
def test_attention_of_the_demo_model(built_small, name, arch):
    folder, entry = _entry(built_small, name, arch)
    assert assemble(folder / entry["ptx"]["file"]).spilled_bytes == 0
    assert entry["shared_bytes"] <= SHARED_LIMIT_KIB[arch] * 1024
    _assert_tensor_cores(folder, entry, name, arch)


@pytest.mark.parametrize("name", ["write_kv", "roll_sink"])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_cache_kernels_of_the_demo_model(built_small, name, arch):
    folder, entry = _entry(built_small, name, arch)
    assert assemble(folder / entry["ptx"]["file"]).spilled_bytes == 0


@pytest.mark.parametrize("sizes", [(3072, 24, 14336), (5120, 40, 13824)], ids=["5B", "14B"])
def test_wide_models_fit_hopper(tmp_path, sizes):
    """The kernels that hold a whole row in registers, at the widths of the larger models."""
    dim, heads, ffn_dim = sizes
    names = ["write_kv", "norm_modulate", "norm_modulate_fp8", "gelu_fp8", "quantise_rows"]
    names += ["residual_modulate", "residual_modulate_fp8"]
    manifest = build(tmp_path, names, [90], Profile(dim=dim, heads=heads, ffn_dim=ffn_dim))
    for name in names:
        entry = manifest["kernels"][name]["architectures"]["90"]
        assert assemble(tmp_path / entry["ptx"]["file"]).spilled_bytes == 0, name


def test_the_other_track_rules_compile(tmp_path):
    grid = TrackGrid(
        height=480, width=832, rows=60, columns=104, rounding="round", collision="last", first_frame="zero_pad"
    )
    manifest = build(tmp_path, ["scatter_tracks", "embed_tracks"], [90], Profile(grid=grid, track_channels=48))
    for kernel in manifest["kernels"].values():
        assert assemble(tmp_path / kernel["architectures"]["90"]["ptx"]["file"]).spilled_bytes == 0
