"""From what a user names to a student with all its parts, and words about what was taken and why."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ms_infer.checkpoint.companions import Companions, find, student_path, wanted_by
from ms_infer.checkpoint.parts import part_shapes, parts_of
from ms_infer.checkpoint.student import Student, load_student
from ms_infer.config import StreamConfig
from ms_infer.errors import ConfigError
from ms_infer.given import Given, PathLike

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Complete:
    """A student that can stream, and what else belongs to it."""

    student: Student
    text_encoder: Path | None
    notes: tuple[str, ...]
    """What was taken and why, a line each."""


def open_complete(source: PathLike, given: Given | None = None) -> Complete:
    """Open a checkpoint by file, folder, repository or hub id, with the parts beside it.

    CheckpointError: as `load_student`, and one that names all missing parts at once. ConfigError: settings.
    """
    given = given or Given()
    path = student_path(source, download=given.download)
    found = Companions()

    def companions(config: StreamConfig, held: Sequence[str]) -> dict[str, Path]:
        nonlocal found
        named = [part for part in ("vae", "text_encoder", "image_encoder") if getattr(given, part)]
        wanted = [one for one in wanted_by(config, held) if one.part not in named]
        found = find(path, wanted, download=given.download)
        found.check(source)
        return found.paths

    student = load_student(
        path,
        preset=given.preset,
        lora=given.lora,
        lora_alpha=given.lora_alpha,
        lora_rank=given.lora_rank,
        vae=given.vae,
        image_encoder=given.image_encoder,
        companions=companions,
    )
    student = with_settings(student, given.settings)
    text = Path(given.text_encoder) if given.text_encoder is not None else found.paths.get("text_encoder")
    notes = (f"checkpoint: {path} ({student.source}, {student.config.model.name})", *found.notes)
    for note in notes:
        logger.info("%s", note)
    return Complete(student, text, notes)


def with_settings(student: Student, settings: Sequence[str]) -> Student:
    """The student with single settings changed; ConfigError for unknown ones, and for those that the weights fix."""
    if not settings:
        return student
    values = student.config.to_dict()
    for setting in settings:
        _set(values, setting)
    return with_config(student, StreamConfig.from_dict(values))


def with_config(student: Student, config: StreamConfig) -> Student:
    """`resized`, with settings that the weights fit; ConfigError otherwise."""
    for part in parts_of(student.config):
        before, after = part_shapes(part, student.config), part_shapes(part, config)
        if {n: t.shape for n, t in before.items()} != {n: t.shape for n, t in after.items()}:
            raise ConfigError(
                f"the weights of the {part.replace('_', ' ')} do not fit the settings; leave sizes as they are"
            )
    return resized(student, config)


def resized(student: Student, config: StreamConfig) -> Student:
    """The student with other settings of size and context, unchecked; only its track head knows the size."""
    head = student.track_head
    if head is not None and config != student.config:
        from ms_infer.model.track_head import TrackHead

        weights = head.state_dict()
        head = TrackHead(config)
        head.load_state_dict(weights, assign=True)
    return dataclasses.replace(student, config=config, track_head=head)


def _set(values: dict[str, Any], setting: str) -> None:
    """Put one KEY=VALUE into the plain values of a StreamConfig."""
    key, equals, text = setting.partition("=")
    *folders, name = key.split(".")
    inner: Any = values
    for folder in folders:
        inner = inner.get(folder) if isinstance(inner, dict) else None
    if not equals or not isinstance(inner, dict) or name not in inner:
        known = ", ".join(sorted(inner)) if isinstance(inner, dict) else "height, context.window_frames, schedule.shift"
        raise ConfigError(f"--set {setting!r} names no setting; write KEY=VALUE, with one of: {known}")
    try:
        inner[name] = json.loads(text)
    except ValueError:
        inner[name] = text
