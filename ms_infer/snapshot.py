"""Snapshots: the state of a stream in one safetensors file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ms_infer.blend import WAYS, Blend
from ms_infer.config import StreamConfig
from ms_infer.controls import Control, PromptControl, StrengthsControl, TracksControl
from ms_infer.errors import ConfigError, require
from ms_infer.files import whole_file
from ms_infer.state import StreamState
from ms_infer.tracks import Tracks

FORMAT = "ms_infer.snapshot/2"
_TRACKS = ("points", "visible", "ids")


def save_snapshot(path: Path, state: StreamState) -> None:
    """Write a snapshot, whole or not at all; ConfigError when it cannot be written."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    arrays, header = pack_state(state)
    with whole_file(path, ConfigError, failures=(OSError, SafetensorError)) as unfinished:
        save_file(arrays, unfinished, metadata=header)


def pack_state(state: StreamState) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """A state as arrays and a header of texts; `unpack_state` reads them."""
    assert state.applied.prompt.text is not None, "a started stream has a text"
    arrays: dict[str, NDArray[Any]] = {"text": state.applied.prompt.text, **_pending_arrays(state)}
    arrays |= {f"engine.{k}": v for k, v in state.engine.items()}
    arrays |= {f"player.{k}": v for k, v in state.player.items()}
    if state.image is not None:
        arrays["image"] = state.image
    header = {"format": FORMAT, "digest": state.digest, **{k: str(v) for k, v in _numbers(state).items()}}
    return {k: np.ascontiguousarray(v) for k, v in arrays.items()}, header


def _numbers(state: StreamState) -> dict[str, int]:
    applied, pending = state.applied, state.pending
    strengths = {"strengths_id": applied.strengths.id, "pending_strengths_id": pending.strengths.id}
    return {
        **(strengths if applied.strengths.values else {}),
        **(_blend_numbers("blend", applied.prompt) if applied.prompt.origin is not None else {}),
        **(_blend_numbers("pending_blend", pending.prompt) if pending.prompt.blend.chunks > 1 else {}),
        "index": state.index,
        "given": state.given,
        "seed": state.seed,
        "tracks_id": applied.tracks.id,
        "prompt_id": applied.prompt.id,
        "pending_tracks_id": pending.tracks.id,
        "pending_prompt_id": pending.prompt.id,
        "pending_recache": int(pending.prompt.recache),
        "pending_replace_sink": int(pending.prompt.replace_sink),
    }


def _blend_numbers(kind: str, prompt: PromptControl) -> dict[str, int]:
    """Numbers of a prompt that comes over several chunks."""
    numbers = {"chunks": prompt.blend.chunks, "way": WAYS.index(prompt.blend.way), "done": prompt.done}
    numbers |= {"recache": int(prompt.recache), "replace_sink": int(prompt.replace_sink)}
    return {f"{kind}_{name}": number for name, number in numbers.items()}


def _blending(kind: str, prompt: PromptControl, numbers: dict[str, int]) -> PromptControl:
    """The prompt with the blend of a snapshot, where there is one; its origin is the caller's."""
    if f"{kind}_chunks" not in numbers:
        return prompt
    way = numbers[f"{kind}_way"]
    require(way < len(WAYS), f"the snapshot blends its prompts in the way {way}, which this version does not know")
    return replace(
        prompt,
        blend=Blend(numbers[f"{kind}_chunks"], WAYS[way]),  # type: ignore[arg-type]  # it is one of them
        done=numbers[f"{kind}_done"],
        recache=bool(numbers[f"{kind}_recache"]),
        replace_sink=bool(numbers[f"{kind}_replace_sink"]),
    )


def _pending_arrays(state: StreamState) -> dict[str, NDArray[Any]]:
    """Tracks and text of controls that no chunk has played yet; no points: the tracks are to be released."""
    arrays: dict[str, NDArray[Any]] = {}
    tracks, prompt = state.pending.tracks, state.pending.prompt
    if state.applied.prompt.origin is not None:
        arrays["text_origin"] = state.applied.prompt.origin
    if state.applied.strengths.values:
        arrays["strengths"] = np.array(state.applied.strengths.values, np.float64)
        arrays["pending.strengths"] = np.array(state.pending.strengths.values, np.float64)
    if tracks.id > state.applied.tracks.id and tracks.tracks is not None:
        arrays |= {f"pending.{name}": getattr(tracks.tracks, name) for name in _TRACKS}
    if prompt.id > state.applied.prompt.id and prompt.text is not None:
        arrays["pending.text"] = prompt.text
    return arrays


def load_snapshot(path: Path, config: StreamConfig) -> StreamState:
    """Read the snapshot of a stream with these settings; ConfigError when it is none.

    What `Stream.load_state` checks is left to it.
    """
    arrays, header = _read(path)
    return unpack_state(arrays, header, config, str(path))


def unpack_state(
    arrays: dict[str, NDArray[Any]], header: dict[str, str], config: StreamConfig, what: str
) -> StreamState:
    """The state that `pack_state` made of a stream with these settings; `what` names it in errors (ConfigError)."""
    if header.get("format") != FORMAT:
        raise ConfigError(
            f"{what} is not a snapshot of this version (format {header.get('format')!r}, need {FORMAT!r})"
        )
    header = dict(header)
    digest = header.pop("digest", "")
    numbers = {name: _whole_number(name, text) for name, text in header.items() if name != "format"}
    try:
        applied = Control(
            TracksControl(numbers["tracks_id"], _playing(arrays, config)),
            _blending(
                "blend", PromptControl(numbers["prompt_id"], arrays["text"], origin=arrays.get("text_origin")), numbers
            ),
            _strengths("", numbers, arrays),
        )
        return StreamState(
            digest=digest,
            **{name: numbers[name] for name in ("index", "given", "seed")},
            applied=applied,
            pending=_pending(applied, numbers, arrays, config),
            image=arrays.get("image"),
            engine=_under("engine.", arrays),
            player=_under("player.", arrays),
        )
    except KeyError as error:
        raise ConfigError(f"{what} lacks {error}; make a snapshot again with Stream.snapshot(path)") from None


def _pending(
    applied: Control, numbers: dict[str, int], arrays: dict[str, NDArray[Any]], config: StreamConfig
) -> Control:
    tracks, prompt = applied.tracks, applied.prompt
    if numbers["pending_tracks_id"] != tracks.id:
        tracks = TracksControl(numbers["pending_tracks_id"], _tracks("pending.", arrays, config))
    if numbers["pending_prompt_id"] != prompt.id:
        flags = (bool(numbers["pending_recache"]), bool(numbers["pending_replace_sink"]))
        prompt = PromptControl(numbers["pending_prompt_id"], arrays["pending.text"], *flags)
        prompt = _blending("pending_blend", prompt, numbers)
    return Control(tracks, prompt, _strengths("pending", numbers, arrays))


def _strengths(kind: str, numbers: dict[str, int], arrays: dict[str, NDArray[Any]]) -> StrengthsControl:
    """Strengths of the adapters; models without adapters have none."""
    values = arrays.get(f"{kind}.strengths" if kind else "strengths", np.zeros(0))
    number = numbers.get(f"{kind}_strengths_id" if kind else "strengths_id", 0)
    return StrengthsControl(number, tuple(float(value) for value in values.ravel()))


def _playing(arrays: dict[str, NDArray[Any]], config: StreamConfig) -> Tracks | None:
    """The tracks that the player plays."""
    tracks = _tracks("player.", arrays, config)
    return tracks if tracks is not None and tracks.count else None


def _tracks(prefix: str, arrays: dict[str, NDArray[Any]], config: StreamConfig) -> Tracks | None:
    if f"{prefix}points" not in arrays:
        return None
    points, visible, ids = (arrays[prefix + name] for name in _TRACKS)
    return Tracks(points, visible, ids, size=(config.height, config.width), fps=config.fps)


def _under(prefix: str, arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _whole_number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 20):
        raise ConfigError(f"the snapshot has no whole number as its {name}: {text!r}")
    return int(text)


def _read(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    from safetensors import safe_open

    try:
        with safe_open(path, framework="np") as file:
            header = dict(file.metadata() or {})
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # of many kinds: the file may hold anything
        raise ConfigError(f"{path} is not a readable snapshot ({error}); make one with Stream.snapshot(path)") from None
    return arrays, header
