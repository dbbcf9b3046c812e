"""Finds what belongs to a checkpoint: autoencoder, text encoder and image encoder, where publishers put them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ms_infer.checkpoint import hub
from ms_infer.checkpoint.files import read_json
from ms_infer.checkpoint.locate import locate
from ms_infer.config import StreamConfig
from ms_infer.errors import CheckpointError

_STUDENTS = (
    "checkpoints",
    "models",
    "longlive_models/models",
    "autoregressive_checkpoint",
    "split_files/diffusion_models",
    "diffusion_models",
)
"""Folders of a repository that hold its checkpoint, where its root holds none."""
_OTHERS = re.compile(r"lora|vae|tae|t5|clip")
"""What stands in the names of files that are no students."""
_INNER = {part for place in _STUDENTS for part in place.split("/")} | {"transformer"}
_BESIDE = ("", "wan_models/*", "models/*", "split_files", "Wan2.1-*", "Wan2.2-*")
"""Where the rest lies, seen from the root of a repository."""


@dataclass(frozen=True)
class Wanted:
    """A part that a checkpoint may lack: its names, and the repositories that publish it."""

    part: str
    words: str
    names: tuple[str, ...]
    repositories: tuple[str, ...]

    @property
    def patterns(self) -> tuple[str, ...]:
        """Files to download: the published name, and the tokenizer of a text encoder."""
        more = ("google/umt5-xxl/*",) if self.part == "text_encoder" else ()
        return (self.names[0], *more)


_VAES = {
    16: ("Wan2.1_VAE.pth", "vae", "wan_2.1_vae.safetensors", "vae/wan_2.1_vae.safetensors", "taew2_1.pth",
         "taew2_1.safetensors", "lighttaew2_1.pth", "lighttaew2_1.safetensors"),
    48: ("Wan2.2_VAE.pth", "vae", "wan2.2_vae.safetensors", "vae/wan2.2_vae.safetensors", "taew2_2.pth",
         "taew2_2.safetensors", "taew2_2_super.pth", "taew2_2_super.safetensors", "lighttaew2_2.safetensors"),
}  # fmt: skip
_CLIP = "models_clip_open-clip-xlm-roberta-large-vit-huge-14"
_CLIPS = (f"{_CLIP}.pth", f"{_CLIP}-onlyvisual.pth", "image_encoder", "clip_vision/clip_vision_h.safetensors",
          "clip_vision_h.safetensors")  # fmt: skip
_TEXTS = ("models_t5_umt5-xxl-enc-bf16.pth", "text_encoder")
_BASES = {
    16: ("Wan-AI/Wan2.1-T2V-1.3B", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "Wan-AI/Wan2.1-T2V-14B"),
    48: ("Wan-AI/Wan2.2-TI2V-5B", "Wan-AI/Wan2.2-TI2V-5B-Diffusers"),
}
_IMAGE_BASES = ("Wan-AI/Wan2.1-I2V-14B-480P", "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers")


def wanted_by(config: StreamConfig, held: Collection[str]) -> tuple[Wanted, ...]:
    """The parts that a model needs and that its checkpoint does not hold."""
    channels = config.model.latent_channels
    bases = _BASES.get(channels, ())
    found = []
    if "vae" not in held:
        found.append(Wanted("vae", "autoencoder", _VAES.get(channels, ()), bases))
    if config.model.image_encoder is not None and "image_encoder" not in held:
        found.append(Wanted("image_encoder", "image encoder", _CLIPS, _IMAGE_BASES))
    if config.model.text.kind == "umt5":
        found.append(Wanted("text_encoder", "text encoder", _TEXTS, bases))
    return tuple(found)


@dataclass
class Companions:
    """What was found for a checkpoint, why, and what was not found."""

    paths: dict[str, Path] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    missing: list[Wanted] = field(default_factory=list)

    def check(self, source: str | Path, optional: Collection[str] = ("text_encoder",)) -> None:
        """CheckpointError naming all that is missing, where a part that must be there is among it."""
        if all(one.part in optional for one in self.missing):
            return
        parts = "; ".join(
            f"{one.words}: {' or '.join(one.names[:2])}"
            + (f" (published in {one.repositories[0]})" if one.repositories else "")
            for one in self.missing
        )
        options = ", ".join(f"{one.part}=" for one in self.missing)
        raise CheckpointError(
            f"{source} lacks {len(self.missing)} of its parts: {parts}; put them beside it, name them ({options}), or "
            "ask for a download (--download)"
        )


def student_path(source: str | Path, *, download: bool = False) -> Path:
    """The checkpoint behind a path, a repository's root, a hub id or a folder of the hub's cache.

    CheckpointError: nothing there, several checkpoints, or a hub id that is not on this machine.
    """
    path = Path(source)
    if not path.exists() and hub.is_hub_id(str(source)):
        return _from_hub(str(source), download)
    if path.name.startswith("models--") and path.is_dir():
        path = hub.snapshot(path) or path
    if not path.is_dir() or _holds_checkpoint(path):
        return path
    inner = [path / place for place in _STUDENTS if (path / place).is_dir()]
    files = [file for folder in inner for file in sorted(folder.glob("*.*")) if _may_be_student(file)]
    if len(files) > 1:
        names = ", ".join(str(file.relative_to(path)) for file in files[:8])
        raise CheckpointError(f"{path} holds several checkpoints ({names}); name one file")
    return files[0] if files else path


def _from_hub(source: str, download: bool) -> Path:
    found = hub.snapshot(source)
    if found is None and download:
        found = hub.fetch(source, ("*.json", "transformer/*", "vae/*", "*.pt", "*.safetensors", "image_encoder/*"))
    if found is None:
        raise CheckpointError(
            f"{source} is neither a file nor a folder, and the hub's cache does not hold it; download it with "
            f"--download, or: huggingface-cli download {source}"
        )
    return student_path(found)


def _holds_checkpoint(folder: Path) -> bool:
    try:
        return locate(folder).is_file()
    except CheckpointError as error:
        if "holds no checkpoint" in str(error):
            return False
        raise


def _may_be_student(file: Path) -> bool:
    return file.suffix in (".pt", ".pth", ".safetensors") and not _OTHERS.search(file.name.lower())


def find(student: Path, wanted: Collection[Wanted], *, download: bool = False) -> Companions:
    """Look for the parts beside a checkpoint, in its repository, and in the hub's cache."""
    found = Companions()
    for one in wanted:
        if (hit := _find_one(student, one, download)) is None:
            found.missing.append(one)
            continue
        path, why = hit
        found.paths[one.part] = path
        found.notes.append(f"{one.words}: {path} ({why})")
    return found


def _find_one(student: Path, wanted: Wanted, download: bool) -> tuple[Path, str] | None:
    for folder in _places(student):
        if (path := _in_folder(folder, wanted)) is not None:
            return path, "beside the checkpoint"
    for repository in wanted.repositories:
        root = hub.snapshot(repository)
        if root is not None and (path := _in_folder(root, wanted)) is not None:
            return path, f"{repository} in the hub's cache"
    if download and wanted.repositories:
        root = hub.fetch(wanted.repositories[0], wanted.patterns)
        if (path := _in_folder(root, wanted)) is not None:
            return path, f"downloaded from {wanted.repositories[0]}"
    return None


def _places(student: Path) -> Iterator[Path]:
    """Folders that may hold the rest, from the checkpoint outwards: never beyond its own repository."""
    folder = student.absolute() if student.is_dir() else student.absolute().parent
    roots = [folder]
    while folder.name in _INNER and folder.parent != folder:
        folder = folder.parent
        roots.append(folder)
    for root in roots:
        for place in _BESIDE:
            yield from sorted(root.glob(place)) if place else [root]


def _in_folder(folder: Path, wanted: Wanted) -> Path | None:
    for name in wanted.names:
        path = folder / name
        if path.is_file() or (path.is_dir() and _is_part(path, wanted)):
            return path
    return None


def _is_part(folder: Path, wanted: Wanted) -> bool:
    """Whether a folder of a diffusers repository holds weights, and an autoencoder's latents are wide enough."""
    if not any(folder.glob("*.safetensors*")):
        return False
    if wanted.part != "vae":
        return True
    config = folder / "config.json"
    channels = read_json(config).get("z_dim", 16) if config.is_file() else 16
    return wanted.names == _VAES.get(channels)
