"""Snapshots: everything the next chunk depends on, in one safetensors file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ms_infer.controls import Control
from ms_infer.errors import ConfigError
from ms_infer.files import whole_file

if TYPE_CHECKING:
    from ms_infer.stream import Stream

FORMAT = "ms_infer.snapshot/1"


def config_digest(stream: Stream) -> str:
    """What a snapshot must agree with: the stream's settings, engine and precision."""
    text = json.dumps(stream.config.to_dict(), sort_keys=True) + stream.engine
    return hashlib.sha256(text.encode()).hexdigest()


def save_snapshot(path: Path, stream: Stream) -> None:
    """Write a snapshot, whole or not at all; ConfigError when it cannot be written."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    if not stream._started:
        raise ConfigError("nothing to snapshot: call start() or step() first")
    arrays: dict[str, NDArray[Any]] = {f"engine.{k}": v for k, v in stream._engine.state().items()}
    arrays |= {f"player.{k}": v for k, v in stream._player.state().items()}
    if stream._image is not None:
        arrays["image"] = stream._image
    assert stream._applied.text is not None, "a started stream has a text"
    arrays["text"] = stream._applied.text
    header = {
        "format": FORMAT,
        "digest": config_digest(stream),
        "index": str(stream._index),
        "given": str(stream._given),
        "seed": str(stream.seed),
        "control_id": str(stream._applied.id),
    }
    with whole_file(path, ConfigError, failures=(OSError, SafetensorError)) as unfinished:
        save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, unfinished, metadata=header)


def load_snapshot(path: Path, stream: Stream) -> None:
    """Read and check the whole file, then put the stream into its state."""
    arrays, header = _read(path)
    if header.get("digest") != config_digest(stream):
        raise ConfigError(
            f"{path} was made with other settings or another engine than this stream ({stream.engine}); "
            "open the same source with the same engine and precision"
        )
    text = arrays["text"]
    stream._engine.reset()
    stream._engine.set_text(text)
    stream._engine.set_image(arrays.get("image"))
    stream._engine.restore({k.removeprefix("engine."): v for k, v in arrays.items() if k.startswith("engine.")})
    stream._player.restore({k.removeprefix("player."): v for k, v in arrays.items() if k.startswith("player.")})
    stream._image = arrays.get("image")
    stream._index, stream._given, stream.seed = (int(header[k]) for k in ("index", "given", "seed"))
    control = Control(id=int(header["control_id"]), tracks=stream._player.tracks, text=text)
    stream._controls.reset(control)
    stream._applied, stream._started = control, True


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
