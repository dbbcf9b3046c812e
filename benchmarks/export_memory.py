"""Peak memory of `ms-export` beside the size of the checkpoint: python -m benchmarks.export_memory --layers 30.

The checkpoint is Wan's 1.3B repository as it is published, at true widths, with random weights and small stand-ins for
autoencoder and text encoder. It is kept in --folder, so a second run starts at the export.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

REPOSITORY = "wan2.1-1.3b"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--size", default="480x832")
    parser.add_argument("--folder", type=Path, default=Path("export-memory"))
    options = parser.parse_args()
    made = options.folder / f"{options.layers}-layers"
    root, size = _checkpoint(made, options.layers)
    words = [str(root), "-o", f"{made}-{options.target}", "--target", options.target, "--size", options.size, "--force"]
    began = time.monotonic()
    program = "import sys; from ms_export.cli import main; sys.exit(main(sys.argv[1:]))"
    peak = peak_of([sys.executable, "-c", program, *words])
    ratio, seconds = peak / size, time.monotonic() - began
    print(f"{root}: {size / 1e6:.0f} MB, peak {peak / 1e6:.0f} MB = {ratio:.2f} times that, {seconds:.0f} s")
    return 0


def peak_of(command: list[str]) -> int:
    """Largest resident set of a command in bytes: that of this child, not of all."""
    status, usage = used_by(command)
    if status:
        raise SystemExit(f"{command[-1]} ended with the status {status}")
    return usage.ru_maxrss << 10


def used_by(command: list[str], **options: Any) -> tuple[int, resource.struct_rusage]:
    """Exit status of a command, and what it used: seconds of processor time, largest resident set."""
    child = subprocess.Popen(command, **options)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    return child.returncode, usage


def _checkpoint(folder: Path, layers: int) -> tuple[Path, int]:
    """The repository's folder and the bytes of its transformer; made in a process whose memory does not count."""
    if not folder.is_dir():
        folder.mkdir(parents=True)
        words = [REPOSITORY, str(folder), "--true-widths", "--layers", str(layers)]
        subprocess.run([sys.executable, "-m", "tests.public_checkpoints", *words], check=True)
    files = sorted(folder.rglob("diffusion_pytorch_model*.safetensors"))
    return files[0].parent, sum(file.stat().st_size for file in files)


if __name__ == "__main__":
    sys.exit(main())
