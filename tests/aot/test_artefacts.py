"""The files of `python -m ms_kernels.aot`: complete, in step with each other, the same bytes every time."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import ms_kernels
import pytest
from ms_kernels import aot, ptx
from ms_kernels.aot_specs import KERNELS, Profile

from tests.aot.tools import images

NEEDS_FATBINARY = pytest.mark.skipif(
    not (shutil.which("fatbinary") or Path("/usr/local/cuda/bin/fatbinary").is_file()), reason="no CUDA toolkit"
)


@NEEDS_FATBINARY
def test_every_kernel_has_one_fatbin_of_all_its_architectures(built):
    folder, manifest = built
    assert set(manifest["kernels"]) == set(KERNELS)
    for kernel in manifest["kernels"].values():
        targets = [entry["target"].removeprefix("sm_") for entry in kernel["architectures"].values()]
        assert sorted(images(folder / kernel["fatbin"]["file"])) == sorted(targets)


def test_the_manifest_on_disk_matches_the_files(built):
    folder, _ = built
    manifest = json.loads((folder / "manifest.json").read_text())
    for kernel in manifest["kernels"].values():
        for record in [entry[kind] for entry in kernel["architectures"].values() for kind in ("cubin", "ptx")]:
            content = (folder / record["file"]).read_bytes()
            assert hashlib.sha256(content).hexdigest() == record["sha256"]


def test_the_plugin_ptx_takes_the_manifests_parameters_and_no_more(built):
    folder, manifest = built
    widths = {"i32": ".u32", "i64": ".u64", "tensormap": ".b8"}
    for kernel in manifest["kernels"].values():
        wanted = [p for p in kernel["parameters"] if p["type"] != "null"]
        for entry in kernel["architectures"].values():
            declared = ptx.parameters(entry["symbol"], (folder / entry["ptx"]["file"]).read_text())
            assert len(declared) == len(wanted)
            for parameter, text in zip(wanted, declared, strict=True):
                assert widths.get(parameter["type"], ".u64") in text


def test_plugin_kernels_take_inputs_then_integers_then_outputs(built):
    """TensorRT's order; in-place kernels list what they change among the pointers."""
    _, manifest = built
    for name, kernel in manifest["kernels"].items():
        kinds = "".join("p" if p["type"].startswith("*") else "i" for p in kernel["parameters"][:-2])
        assert name.endswith("_tma") or re.fullmatch("p+i+p+", kinds), name


def test_no_path_of_this_machine_is_in_what_ships(built):
    folder, _ = built
    home = str(Path(ms_kernels.__file__).parent).encode()
    for path in folder.iterdir():
        content = path.read_bytes()
        assert home not in content, path.name
        assert b"site-packages" not in content, path.name


@NEEDS_FATBINARY
def test_two_builds_from_two_places_are_byte_identical(tmp_path):
    """Other folder, other cache, other source path: the same bytes."""
    found = []
    for place in ("one", "elsewhere/two"):
        source, out = tmp_path / place / "source", tmp_path / place / "out"
        shutil.copytree(Path(ms_kernels.__file__).parent, source / "ms_kernels")
        env = os.environ | {"PYTHONPATH": str(source), "TRITON_CACHE_DIR": str(tmp_path / place / "cache")}
        where = subprocess.run(
            [sys.executable, "-c", "import ms_kernels; print(ms_kernels.__file__)"],
            env=env, check=True, capture_output=True, text=True,
        )  # fmt: skip
        assert where.stdout.startswith(str(source))
        command = [sys.executable, "-m", "ms_kernels.aot", "-o", str(out), "--arch", "80", "90", "--kernels"]
        subprocess.run([*command, "roll_sink", "norm_modulate", "sink_window_attention"], env=env, check=True)
        found.append({path.name: path.read_bytes() for path in out.iterdir()})
    assert len(found[0]) == 3 * (2 * 2 + 1) + 1
    assert found[0] == found[1]


def test_without_fatbinary_the_cubins_are_written_and_the_error_says_so(tmp_path, monkeypatch, capsys):
    def missing():
        raise aot.MissingToolError("fatbinary was not found: set CUDA_HOME")

    monkeypatch.setattr(aot, "find_fatbinary", missing)
    code = aot.main(["-o", str(tmp_path), "--arch", "90", "--kernels", "roll_sink"])
    assert code == aot.MISSING
    assert "CUDA_HOME" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "manifest.json",
        "roll_sink_sm90a.cubin",
        "roll_sink_sm90a.ptx",
    ]


def test_a_missing_toolkit_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.delenv("CUDA_PATH", raising=False)
    monkeypatch.setattr(Path, "is_file", lambda self: False)
    with pytest.raises(aot.MissingToolError, match="install the CUDA toolkit"):
        aot.find_fatbinary()


def test_cuda_home_is_searched(monkeypatch, tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "fatbinary").touch()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert aot.find_fatbinary() == str(tmp_path / "bin" / "fatbinary")


@pytest.mark.parametrize(
    "sizes", [["--heads", "7"], ["--dim", "1000"], ["--dim", "3072"], ["--dim", "480", "--heads", "12"]], ids=" ".join
)
def test_impossible_sizes_are_a_usage_error(tmp_path, capsys, sizes):
    assert aot.main(["-o", str(tmp_path), *sizes]) == aot.USAGE
    assert "ms_kernels.aot:" in capsys.readouterr().err


def test_interpreted_kernels_are_refused(tmp_path):
    command = [sys.executable, "-m", "ms_kernels.aot", "-o", str(tmp_path), "--kernels", "roll_sink"]
    result = subprocess.run(
        command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False
    )
    assert result.returncode == aot.FAILED
    assert "TRITON_INTERPRET" in result.stderr


def test_without_triton_the_extra_is_named():
    code = "import runpy, sys; sys.modules['triton'] = None; runpy.run_module('ms_kernels.aot', run_name='__main__')"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == aot.MISSING
    assert "pip install 'ms-infer[kernels]'" in result.stderr


PTX = """.version 8.7
.target sm_90a
.visible .entry k(
	.param .u64 .ptr .global .align 1 k_param_0,
	.param .u32 k_param_1,
	.param .u64 .ptr .global .align 1 k_param_2,
	.param .u64 .ptr .global .align 1 k_param_3
)
{ ld.param.u64 %rd1, [k_param_0]; ret; }
"""


def test_hidden_parameters_are_dropped_and_nothing_else():
    result = ptx.drop_hidden_parameters("k", PTX)
    assert ptx.parameters("k", result) == ptx.parameters("k", PTX)[:2]
    assert result.endswith(PTX[PTX.index(")\n{") :])
    assert ptx.target(result) == "90a"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (PTX.replace("[k_param_0]", "[k_param_2]"), "scratch memory"),
        (PTX.replace(".u64 .ptr .global .align 1 k_param_3", ".u32 k_param_3"), "no pointer"),
        (PTX.replace(".entry k(", ".entry other("), "no entry k"),
    ],
)
def test_ptx_that_cannot_be_a_plugin_is_refused(text, words):
    with pytest.raises(ValueError, match=words):
        ptx.drop_hidden_parameters("k", text)


def test_profiles_name_their_sizes():
    assert Profile().head_dim == 128
    assert Profile(dim=384, heads=6, ffn_dim=1536).head_dim == 64
