"""Snapshots: the state of a stream in one safetensors file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ms_infer.config import StreamConfig
from ms_infer.errors import ConfigError
from ms_infer.files import whole_file
from ms_infer.state import StreamState

FORMAT = "ms_infer.snapshot/1"
NUMBERS = ("index", "given", "seed", "control_id")


def config_digest(config: StreamConfig, engine: str) -> str:
    """What a snapshot must agree with: the stream's settings, and its engine with the precision."""
    text = json.dumps(config.to_dict(), sort_keys=True) + engine
    return hashlib.sha256(text.encode()).hexdigest()


def save_snapshot(path: Path, state: StreamState, config: StreamConfig, engine: str) -> None:
    """Write a snapshot, whole or not at all; ConfigError when it cannot be written."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    arrays: dict[str, NDArray[Any]] = {"text": state.text}
    arrays |= {f"engine.{k}": v for k, v in state.engine.items()}
    arrays |= {f"player.{k}": v for k, v in state.player.items()}
    if state.image is not None:
        arrays["image"] = state.image
    header = {"format": FORMAT, "digest": config_digest(config, engine)}
    header |= {name: str(getattr(state, name)) for name in NUMBERS}
    with whole_file(path, ConfigError, failures=(OSError, SafetensorError)) as unfinished:
        save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, unfinished, metadata=header)


def load_snapshot(path: Path, config: StreamConfig, engine: str) -> StreamState:
    """Read a snapshot; ConfigError when it is none, or one of other settings or another engine."""
    arrays, header = _read(path)
    if header.get("digest") != config_digest(config, engine):
        raise ConfigError(
            f"{path} was made with other settings or another engine than this stream ({engine}); "
            "open the same source with the same engine and precision"
        )
    return StreamState(
        **{name: int(header[name]) for name in NUMBERS},
        text=arrays["text"],
        image=arrays.get("image"),
        engine=_under("engine.", arrays),
        player=_under("player.", arrays),
    )


def _under(prefix: str, arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _read(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            header = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{path} is not a readable snapshot ({error}); make one with Stream.snapshot(path)") from None
    if header.get("format") != FORMAT:
        raise ConfigError(
            f"{path} is not a snapshot of this version (format {header.get('format')!r}, need {FORMAT!r})"
        )
    return arrays, header
