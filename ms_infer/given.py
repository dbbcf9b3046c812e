"""What a user says about a checkpoint beside its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypedDict

from ms_infer.config import StreamConfig
from ms_infer.errors import ConfigError

PathLike = str | Path


class Parts(TypedDict, total=False):
    """What goes with a checkpoint, as keywords of `Stream` and `Model`; see `Given`."""

    vae: PathLike | Sequence[PathLike]
    image_encoder: PathLike | None
    lora: PathLike | Sequence[PathLike]
    lora_alpha: float | None
    lora_rank: int | None
    preset: str | StreamConfig | None
    settings: Sequence[str]
    download: bool


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a user says about a checkpoint beside its name; what is left out is looked for."""

    vae: PathLike | Sequence[PathLike] = ()
    text_encoder: PathLike | None = None
    image_encoder: PathLike | None = None
    lora: PathLike | Sequence[PathLike] = ()
    lora_alpha: float | None = None
    lora_rank: int | None = None
    preset: str | StreamConfig | None = None
    settings: Sequence[str] = ()
    """KEY=VALUE of single settings, such as context.window_frames=6 or height=480."""
    download: bool = False
    """Whether parts that are not on this machine may be downloaded."""

    @classmethod
    def of(cls, parts: Mapping[str, Any], *, text_encoder: PathLike | None = None) -> Given:
        """The same from keywords; ConfigError for one that is unknown."""
        unknown = sorted(set(parts) - {one.name for one in fields(cls)})
        if unknown:
            known = ", ".join(f"{one.name}=" for one in fields(cls))
            raise ConfigError(f"{', '.join(unknown)}: nothing of a checkpoint has this name; known: {known}")
        return cls(**parts, text_encoder=text_encoder)

    @property
    def names(self) -> tuple[str, ...]:
        """What was given that changes a checkpoint; a text encoder goes with bundles too."""
        return tuple(
            one.name for one in fields(self) if one.name not in ("text_encoder", "download") and getattr(self, one.name)
        )
