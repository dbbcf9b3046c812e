"""Stream motion-controlled video for ever, at constant latency. Importing this loads no torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ms_infer._version import __version__

if TYPE_CHECKING:
    from ms_infer.checkpoint import Student, load_student
    from ms_infer.chunk import Chunk
    from ms_infer.config import ContextConfig, ModelConfig, ScheduleConfig, StreamConfig, preset
    from ms_infer.engines.base import Engine
    from ms_infer.errors import (
        BundleError,
        Cancelled,
        CheckpointError,
        ConfigError,
        DeviceError,
        EngineMismatchError,
        MissingExtraError,
        MotionStreamError,
        StateError,
        TrackShapeError,
    )
    from ms_infer.hand import Hand
    from ms_infer.models import Model
    from ms_infer.state import StreamState
    from ms_infer.stream import Stream
    from ms_infer.tracks import Tracks

_NAMES = {
    "checkpoint": "Student load_student",
    "chunk": "Chunk",
    "config": "ContextConfig ModelConfig ScheduleConfig StreamConfig preset",
    "errors": "BundleError Cancelled CheckpointError ConfigError DeviceError EngineMismatchError MissingExtraError "
    "MotionStreamError StateError TrackShapeError",
    "engines.base": "Engine",
    "hand": "Hand",
    "models": "Model",
    "state": "StreamState",
    "stream": "Stream",
    "tracks": "Tracks",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = [
    "BundleError",
    "Cancelled",
    "CheckpointError",
    "Chunk",
    "ConfigError",
    "ContextConfig",
    "DeviceError",
    "Engine",
    "EngineMismatchError",
    "Hand",
    "MissingExtraError",
    "Model",
    "ModelConfig",
    "MotionStreamError",
    "ScheduleConfig",
    "StateError",
    "Stream",
    "StreamConfig",
    "StreamState",
    "Student",
    "TrackShapeError",
    "Tracks",
    "__version__",
    "load_student",
    "preset",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'ms_infer' has no attribute {name!r}")
    return getattr(import_module(f"ms_infer.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
