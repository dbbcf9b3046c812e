"""Errors that a user meets. Each says what was expected, what came and what to do."""

from __future__ import annotations


class MotionStreamError(Exception):
    """Base of every error this SDK raises on purpose."""


class ConfigError(MotionStreamError, ValueError):
    """A setting or an input that cannot work."""


class TrackShapeError(ConfigError):
    """Tracks whose shape, length or values do not fit."""


class StateError(MotionStreamError, RuntimeError):
    """A call that comes at the wrong time: the stream is paused, closed, not started, or busy in another thread."""


class Cancelled(MotionStreamError):
    """A step was cancelled by `Stream.cancel`: nothing changed, and the next one makes the same chunk."""


class CheckpointError(MotionStreamError, ValueError):
    """A checkpoint file that cannot be read or does not fit the model."""


class BundleError(MotionStreamError, ValueError):
    """A bundle folder that is incomplete, tampered with or too new."""


class EngineMismatchError(MotionStreamError, RuntimeError):
    """An engine built for another device, library version or precision."""


class MissingExtraError(MotionStreamError, ImportError):
    """An optional dependency is not installed; the message names the extra."""


class DeviceError(MotionStreamError, RuntimeError):
    """The device asked for is absent or failed."""


def require(condition: bool, message: str) -> None:
    """ConfigError with the message, unless the condition holds."""
    if not condition:
        raise ConfigError(message)
