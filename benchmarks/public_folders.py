"""Every publisher's folder at true widths through one `ms-stream` command: python -m benchmarks.public_folders.

Prints a table: the size of the transformer, what the command needed, and the video or the line that it ended with. Each
folder (one layer, random weights, small stand-ins for the rest) is made, used and removed before the next.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from benchmarks.export_memory import used_by
from tests.public_checkpoints import FORMATS

PROGRAM = "import sys; from ms_infer.cli.stream import main; sys.exit(main(sys.argv[1:]))"
SMALL = ["--set", "height=64", "--set", "width=64", "--seconds", "0.3", "--quiet"]
LENDER = "wan2.1-1.3b"
"""Lends autoencoder and text encoder to files that publishers pass round alone."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("formats", nargs="*", help="all by default")
    parser.add_argument("--layers", type=int, default=1)
    options = parser.parse_args()
    print("| format | transformer, MB | peak, MB | processor time, s | result |\n|---|---|---|---|---|", flush=True)
    for name in options.formats or FORMATS:
        with tempfile.TemporaryDirectory() as folder:
            print(_row(name, Path(folder), options.layers), flush=True)
    return 0


def _row(name: str, folder: Path, layers: int) -> str:
    student = _made(name, folder, layers)
    picture, video, said = folder / "picture.png", folder / "out.gif", folder / "said.txt"
    Image.new("RGB", (96, 80), (200, 120, 40)).save(picture)
    words = [str(student), "--prompt", "a cat", "--image", str(picture), "-o", str(video), *SMALL]
    if name == "comfyui":
        base = _made(LENDER, folder / "base", layers)
        words += ["--vae", str(base / "Wan2.1_VAE.pth"), "--text-encoder", str(next(base.glob("models_t5*")))]
    with said.open("w") as out:
        status, usage = used_by([sys.executable, "-c", PROGRAM, *words], stderr=out)
    result = f"{Image.open(video).n_frames} frames" if status == 0 else said.read_text().splitlines()[-1]
    peak, spent = usage.ru_maxrss / 1e3, usage.ru_utime + usage.ru_stime
    return f"| {name} | {_transformer_bytes(student) / 1e6:.0f} | {peak:.0f} | {spent:.0f} | {result} |"


def _made(name: str, folder: Path, layers: int) -> Path:
    """What a user names: the repository's folder."""
    words = [name, str(folder), "--true-widths", "--layers", str(layers)]
    subprocess.run([sys.executable, "-m", "tests.public_checkpoints", *words], check=True, stdout=subprocess.DEVNULL)
    return folder / FORMATS[name][2]


def _transformer_bytes(root: Path) -> int:
    """Bytes of the largest weights; of shards all."""
    files = [file for file in root.rglob("*") if file.suffix in (".pt", ".pth", ".safetensors")]
    largest = max(files, key=lambda file: file.stat().st_size)
    pattern = f"*{largest.suffix}" if "-of-" in largest.name else largest.name
    return sum(file.stat().st_size for file in largest.parent.glob(pattern))


if __name__ == "__main__":
    sys.exit(main())
