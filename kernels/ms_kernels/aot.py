"""Compile every kernel ahead of time, without a GPU: `python -m ms_kernels.aot -o DIR`.

DIR gets, for every kernel, one cubin an architecture (`NAME_sm90a.cubin`), the PTX a TensorRT plugin launches
(`NAME_sm90a.ptx`, without Triton's hidden parameters), one `NAME.fatbin` of all architectures, and `manifest.json`.
The same Triton and the same sizes give the same bytes, wherever the sources lie.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

try:
    import triton
except ImportError:
    if __name__ != "__main__":
        raise
    print("ms_kernels.aot needs Triton: pip install 'ms-infer[kernels]'", file=sys.stderr)
    sys.exit(3)
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ms_kernels import ptx
from ms_kernels.aot_specs import KERNELS, Profile, Spec, specs
from ms_kernels.jit import INTERPRETED
from ms_kernels.tiles import ARCHITECTURES, SHARED_LIMIT_KIB

MANIFEST_VERSION = 1
OK, FAILED, USAGE, MISSING = 0, 1, 2, 3
DESCRIPTOR = (("", "tensormap"), ("_shape_0", "i32"), ("_shape_1", "i32"), ("_stride_0", "i64"), ("_stride_1", "i64"))
"""What one `tensordesc` argument becomes at the entry: a CUtensorMap by value, then sizes and strides."""


class MissingToolError(RuntimeError):
    """A program of the CUDA toolkit is not installed."""


def compile_spec(spec: Spec, arch: int) -> Any:
    """Compile one kernel for one architecture; returns Triton's CompiledKernel (`asm`, `metadata`)."""
    if INTERPRETED:
        raise RuntimeError("TRITON_INTERPRET is set: interpreted kernels cannot be compiled; unset it")
    triton.knobs.compilation.disable_line_info = True  # no source paths in what ships; part of Triton's cache key
    index_of = {name: index for index, name in enumerate(spec.kernel.arg_names)}
    source = ASTSource(
        spec.kernel,
        {name: spec.types.get(name, "constexpr") for name in spec.kernel.arg_names},
        constexprs={(index_of[name],): value for name, value in spec.constants.items()},
        attrs={(index_of[name],): [["tt.divisibility", 16]] for name in spec.aligned},
    )
    options = {"num_warps": spec.warps, "num_stages": spec.stages, "enable_fp_fusion": spec.fp_fusion}
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)


def entry_parameters(spec: Spec) -> list[dict[str, Any]]:
    """Parameters of the compiled entry, in order; the two hidden pointers at the end take nullptr."""
    found: list[dict[str, Any]] = []
    for name, kind in spec.types.items():
        if kind.startswith("tensordesc"):
            found += [{"name": name + end, "type": part} for end, part in DESCRIPTOR]
        else:
            aligned = {"multiple_of": 16} if name in spec.aligned else {}
            found.append({"name": name, "type": kind, **aligned})
    return [*found, {"name": "global_scratch", "type": "null"}, {"name": "profile_scratch", "type": "null"}]


def describe(name: str, spec: Spec, arch: int, kernel: Any) -> dict[str, Any]:
    """Manifest entry of one compiled kernel, after checking that it can be launched as the manifest says."""
    text, meta = kernel.asm["ptx"], kernel.metadata
    declared, expected = len(ptx.parameters(meta.name, text)), len(entry_parameters(spec))
    if declared != expected:
        raise RuntimeError(f"{name} for sm_{arch} has {declared} parameters, expected {expected}; is this Triton 3.6?")
    if meta.global_scratch_size or meta.profile_scratch_size:
        raise RuntimeError(f"{name} for sm_{arch} needs scratch memory, which its launchers do not give")
    if meta.shared > SHARED_LIMIT_KIB[arch] * 1024:
        raise RuntimeError(
            f"{name} needs {meta.shared} bytes of shared memory, sm_{arch} has {SHARED_LIMIT_KIB[arch]} KiB"
        )
    entry = {
        "symbol": meta.name,
        "target": f"sm_{ptx.target(text)}",
        "threads": 32 * meta.num_warps,
        "shared_bytes": meta.shared,
        "grid": list(spec.grid),
        "tile": spec.tile,
        "constants": spec.constants,
    }
    maps = [dict(sorted(descriptor.items())) for descriptor in meta.tensordesc_meta or []]
    return entry | ({"tensor_maps": maps} if maps else {})


def write_kernel(folder: Path, name: str, spec: Spec, arch: int) -> dict[str, Any]:
    """Write the cubin and the plugin's PTX of one kernel for one architecture; returns its manifest entry."""
    kernel = compile_spec(spec, arch)
    entry = describe(name, spec, arch, kernel)
    stem = f"{name}_{entry['target'].replace('_', '')}"
    text = ptx.drop_hidden_parameters(kernel.metadata.name, kernel.asm["ptx"])
    files = {"cubin": kernel.asm["cubin"], "ptx": text.encode()}
    for kind, content in files.items():
        (folder / f"{stem}.{kind}").write_bytes(content)
        entry[kind] = {"file": f"{stem}.{kind}", "sha256": hashlib.sha256(content).hexdigest()}
    return entry


def build(folder: Path, names: Sequence[str], architectures: Sequence[int], profile: Profile) -> dict[str, Any]:
    """Compile the kernels `names` for `architectures` into `folder`; returns the manifest (not yet with fatbins)."""
    folder.mkdir(parents=True, exist_ok=True)
    kernels: dict[str, Any] = {}
    for arch in architectures:
        for name, spec in specs(arch, profile).items():
            if name in names:
                entry = kernels.setdefault(name, {"parameters": entry_parameters(spec), "architectures": {}})
                entry["architectures"][str(arch)] = write_kernel(folder, name, spec, arch)
    return {
        "version": MANIFEST_VERSION,
        "triton": triton.__version__,
        "dtype": profile.dtype,
        "sizes": {"dim": profile.dim, "heads": profile.heads, "head_dim": profile.head_dim, "ffn_dim": profile.ffn_dim},
        "kernels": kernels,
    }


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write `manifest.json`, the same text for the same content."""
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")


def find_fatbinary() -> str:
    """Path of the CUDA toolkit's `fatbinary`; MissingToolError when there is none."""
    homes = [os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH")]  # the toolkit's own variables, not settings
    folders = [Path(home) / "bin" for home in (*homes, "/usr/local/cuda") if home]
    found = shutil.which("fatbinary") or next(
        (str(f / "fatbinary") for f in folders if (f / "fatbinary").is_file()), None
    )
    if found is None:
        raise MissingToolError(
            "fatbinary was not found on PATH, in $CUDA_HOME/bin or in /usr/local/cuda/bin: install the CUDA toolkit "
            "(13.0) or set CUDA_HOME. The cubins, the PTX and manifest.json are written; only the fatbins are missing"
        )
    return found


def join_fatbins(folder: Path, manifest: dict[str, Any]) -> None:
    """Join each kernel's cubins into `NAME.fatbin` and note it in the manifest."""
    tool = find_fatbinary()
    for name, kernel in manifest["kernels"].items():
        images = [
            f"--image3=kind=elf,sm={entry['target'].removeprefix('sm_')},file={entry['cubin']['file']}"
            for entry in kernel["architectures"].values()
        ]
        command = [tool, "-64", f"--create={name}.fatbin", "--compress-all", *images]
        subprocess.run(command, check=True, cwd=folder, capture_output=True, text=True)
        content = (folder / f"{name}.fatbin").read_bytes()
        kernel["fatbin"] = {"file": f"{name}.fatbin", "sha256": hashlib.sha256(content).hexdigest()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code (0 ok, 1 failed, 2 usage, 3 a tool of the CUDA toolkit is missing)."""
    options = _parser().parse_args(arguments)
    try:
        profile = Profile(dtype=options.dtype, dim=options.dim, heads=options.heads, ffn_dim=options.ffn_dim)
    except ValueError as error:
        print(f"ms_kernels.aot: {error}", file=sys.stderr)
        return USAGE
    folder: Path = options.out
    try:
        manifest = build(folder, options.kernels, options.arch, profile)
        write_manifest(folder, manifest)
        join_fatbins(folder, manifest)
        write_manifest(folder, manifest)
    except MissingToolError as error:
        print(f"ms_kernels.aot: {error}", file=sys.stderr)
        return MISSING
    except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
        print(f"ms_kernels.aot: {getattr(error, 'stderr', None) or error}", file=sys.stderr)
        return FAILED
    print(folder / "manifest.json")
    return OK


def _parser() -> argparse.ArgumentParser:
    default = Profile()
    parser = argparse.ArgumentParser(prog="python -m ms_kernels.aot", description="Compile the kernels without a GPU.")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--dtype", choices=("bf16", "fp16"), default=default.dtype)
    parser.add_argument("--dim", type=int, default=default.dim, help="width of the model (%(default)s)")
    parser.add_argument("--heads", type=int, default=default.heads, help="attention heads (%(default)s)")
    parser.add_argument("--ffn-dim", type=int, default=default.ffn_dim, help="width of the feed-forward (%(default)s)")
    parser.add_argument("--arch", type=int, nargs="+", choices=ARCHITECTURES, default=list(ARCHITECTURES))
    parser.add_argument("--kernels", nargs="+", choices=list(KERNELS), default=list(KERNELS), metavar="NAME")
    return parser


if __name__ == "__main__":
    sys.exit(main())
