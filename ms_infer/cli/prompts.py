"""Prompts of the command line: one, or several, each from a time of the video on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ms_infer.blend import Blend
from ms_infer.errors import ConfigError

if TYPE_CHECKING:
    from ms_infer.chunk import Chunk
    from ms_infer.stream import Stream

_TIMED = re.compile(r"(\d+(?:\.\d+)?)(s?):(.*)", re.DOTALL)


@dataclass(frozen=True)
class Cue:
    """A prompt and the RGB frame that it is for."""

    rgb_frame: int
    prompt: str


def parse_prompts(texts: Sequence[str], fps: float) -> list[Cue]:
    """Cues of `--prompt`: one plain text, or several "5s:text" (seconds) or "80:text" (RGB frame), the first from 0.

    A single text is a cue only if it begins with "0:" or "0s:": others may hold a colon of their own.
    """
    timed = [_TIMED.fullmatch(text) for text in texts]
    if len(texts) < 2 and not (timed and timed[0] and float(timed[0][1]) == 0):
        return [Cue(0, texts[0] if texts else "")]
    cues = []
    for text, found in zip(texts, timed, strict=True):
        if found is None or (not found[2] and "." in found[1]):
            raise ConfigError(
                f"--prompt {text!r}: several prompts need the time each of them begins: 0:TEXT, then 80:TEXT (RGB "
                "frame) or 5s:TEXT"
            )
        cues.append(Cue(round(float(found[1]) * (fps if found[2] else 1)), found[3].strip()))
    frames = [cue.rgb_frame for cue in cues]
    if frames[0] != 0 or sorted(set(frames)) != frames:
        raise ConfigError(f"--prompt: the times must begin with 0 and grow; these are the RGB frames {frames}")
    return cues


class PromptSchedule:
    """Sets every prompt before the chunk that holds its RGB frame."""

    def __init__(self, cues: Sequence[Cue], blend: Blend, *, recache: bool) -> None:
        self._left, self._blend, self._recache = list(cues), blend, recache

    def after(self, stream: Stream, chunk: Chunk) -> None:
        """Call with every chunk that was made."""
        made = chunk.first_rgb_frame + len(chunk.frames)
        coming = stream.config.context.span(1).rgb_frames
        due = [cue for cue in self._left if cue.rgb_frame < made + coming]
        self._left = self._left[len(due) :]
        if due:
            stream.set_prompt(due[-1].prompt, recache=self._recache, over=self._blend.chunks, way=self._blend.way)
