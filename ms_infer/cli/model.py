"""What every command line says about the model that it opens."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import tyro

if TYPE_CHECKING:
    from ms_infer.given import Given, Parts


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Parts and settings of a checkpoint; parts that are not named are looked for beside it and in the hub's cache."""

    preset: str | None = None
    """Settings of a checkpoint whose name and shapes do not tell them."""
    vae: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """TAEHV or Wan VAE file; given twice, the first one encodes and the second one decodes."""
    text_encoder: str | None = None
    """umT5: Wan's .pth or a text_encoder/ folder of a diffusers repository."""
    image_encoder: str | None = None
    """CLIP, for models that read image tokens: Wan's .pth or an image_encoder/ folder."""
    lora: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """FILE or FILE:strength, more than once if you like: adapters to merge."""
    set: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """KEY=VALUE of a single setting, such as height=480 or context.window_frames=6, more than once if you like."""
    download: bool = False
    """Download parts that are not on this machine from the hub; without it nothing is ever downloaded."""

    def parts(self) -> Parts:
        """The same as keywords of `Stream` and `Model`, without the text encoder."""
        return {
            "preset": self.preset,
            "vae": self.vae,
            "image_encoder": self.image_encoder,
            "lora": self.lora,
            "settings": self.set,
            "download": self.download,
        }

    def given(self) -> Given:
        """The same for `open_complete`."""
        from ms_infer.given import Given

        return Given.of(self.parts(), text_encoder=self.text_encoder)


def say_notes(program: str, notes: tuple[str, ...]) -> None:
    """What was taken and why, on stderr; nothing for a checkpoint that holds all its parts."""
    for note in notes if len(notes) > 1 else ():
        print(f"{program}: {note}", file=sys.stderr)
