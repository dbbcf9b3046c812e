"""Wheels for a machine that gets at most 64 MiB at a time: cut into two parts here, put together and unpacked there.

    python scripts/gpu_carry.py build/rtx/*.whl      # makes build/part1 and build/part2, to be sent with a call each

What was sent first must still be there when the second part comes, in the same repository folder. The `tensorrt` step
of `scripts/gpu_steps.py` calls `unpacked`.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

PARTS = 2
MOST_BYTES = 56 << 20
"""Of a part: the repository travels with it."""


def cut(wheels: Sequence[Path], build: Path) -> list[Path]:
    """Write the wheels into `build`/part1 and `build`/part2; ValueError when a part is too large to be sent."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for wheel in wheels:
            archive.add(wheel, wheel.name)
    content = packed.getvalue()
    size = -(-len(content) // PARTS)
    if not wheels or size > MOST_BYTES:
        most = MOST_BYTES / 2**20
        raise ValueError(
            f"{len(wheels)} wheels make parts of {size / 2**20:.1f} MiB; 1 or more, and at most {most:.0f}"
        )
    folders = []
    for number in range(PARTS):
        folder = build / f"part{number + 1}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "content").write_bytes(content[number * size : (number + 1) * size])
        (folder / "whole.json").write_text(json.dumps({"sha256": hashlib.sha256(content).hexdigest()}))
        folders.append(folder)
    return folders


def unpacked(build: Path) -> Path | None:
    """The folder with the packages of all wheels that were sent, for `sys.path`; None when no part is here.

    RuntimeError names the part that is missing, or says that the parts do not belong together.
    """
    folders = [build / f"part{number + 1}" for number in range(PARTS)]
    absent = [folder.name for folder in folders if not (folder / "content").is_file()]
    if len(absent) == PARTS:
        return None
    if absent:
        raise RuntimeError(f"{build} lacks {' and '.join(absent)}: send each part with a call, to the same folder")
    content = b"".join((folder / "content").read_bytes() for folder in folders)
    digest = hashlib.sha256(content).hexdigest()
    if any(json.loads((folder / "whole.json").read_text())["sha256"] != digest for folder in folders):
        raise RuntimeError(f"the parts in {build} do not belong together; cut the wheels again and send both")
    site = build / f"site-{digest[:12]}"
    if not site.is_dir():
        unfinished = build / f"{site.name}.unfinished"
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            for member in archive.getmembers():
                file = archive.extractfile(member)
                assert file is not None, "wheels are files"
                with zipfile.ZipFile(io.BytesIO(file.read())) as wheel:
                    wheel.extractall(unfinished)
        unfinished.rename(site)
    return site


def main() -> int:
    folders = cut([Path(name) for name in sys.argv[1:]], Path(__file__).resolve().parents[1] / "build")
    for folder in folders:
        print(f"{folder}: {(folder / 'content').stat().st_size / 2**20:.1f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
