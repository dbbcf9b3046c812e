"""Which file of a folder is the checkpoint, and which paths only look like one."""

from __future__ import annotations

from pathlib import Path

from ms_infer.checkpoint.names import listed
from ms_infer.errors import CheckpointError

PICKLE_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")

_LFS = b"version https://git-lfs"
_HALVES = (("transformer", "transformer_2"), ("high_noise_model", "low_noise_model"))
"""Folders of Wan2.2-A14B: the transformer for high noise, and the one for low noise."""


def locate(path: Path) -> Path:
    """The file to read for a path that names a file or a folder; CheckpointError: none, several, half a model."""
    if not path.exists():
        raise CheckpointError(f"{path} does not exist; give a checkpoint file or folder")
    _refuse_halves(path)
    return path if path.is_file() else _only_file(path / "transformer" if (path / "transformer").is_dir() else path)


def check_content(file: Path) -> None:
    """Refuse an empty file, and what is left of one when a repository was cloned without Git LFS."""
    if file.stat().st_size == 0:
        raise CheckpointError(f"{file} is empty (0 bytes); download or copy it again")
    try:
        with file.open("rb") as opened:
            start = opened.read(len(_LFS))
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror or error}") from None
    if start == _LFS:
        raise CheckpointError(
            f"{file} is a Git LFS pointer, not the file itself; run `git lfs pull` in its repository or download it"
        )


def _only_file(folder: Path) -> Path:
    for pattern in ("*.safetensors.index.json", "*.safetensors", *(f"*{suffix}" for suffix in PICKLE_SUFFIXES)):
        found = sorted(file for file in folder.glob(pattern) if file.is_file())
        transformer = [file for file in found if file.name.startswith("diffusion_pytorch_model.")]
        if len(transformer or found) == 1:
            return (transformer or found)[0]
        if found:
            names = listed(file.name for file in found)
            raise CheckpointError(f"{folder} holds several checkpoints ({names}); name one file")
    raise CheckpointError(f"{folder} holds no checkpoint (.safetensors, {', '.join(PICKLE_SUFFIXES)}); name the file")


def _refuse_halves(path: Path) -> None:
    """Wan2.2-A14B shares the steps between two transformers; either alone would open and make no video."""
    folder = path if path.is_dir() else path.parent
    for root in (folder, folder.parent):
        for high, low in _HALVES:
            there = {name: (root / name).is_dir() for name in (high, low)}
            named = root == folder or folder.name in (high, low)
            if named and (there[low] or (there[high] and high != "transformer")):
                _refuse(str(root), [f"{name} {'is there' if found else 'is missing'}" for name, found in there.items()])
    for noise, other in (("high_noise", "low_noise"), ("low_noise", "high_noise")):
        if path.is_file() and noise in path.name:
            _refuse(str(path), [f"this is the {noise} half", f"the {other} half is missing"])


def _refuse(place: str, halves: list[str]) -> None:
    raise CheckpointError(
        f"{place} is Wan2.2-A14B, which needs two transformers, one for high noise and one for low "
        f"({', '.join(halves)}); a stream runs one for all steps: use a model of one, such as Wan2.1 or Wan2.2-TI2V-5B"
    )
