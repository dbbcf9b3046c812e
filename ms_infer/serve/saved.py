"""All of a session that outlives its process, as one value and as bytes: stream, hand, wishes, picture, key."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ms_infer.config import StreamConfig
from ms_infer.errors import ConfigError
from ms_infer.snapshot import pack_state, unpack_state
from ms_infer.state import StreamState

FORMAT = "ms_infer.session/1"
STATES = ("waiting", "running", "paused", "stopped")
MOST_BYTES = 4 << 30


@dataclass(frozen=True)
class Facts:
    """What is no array."""

    id: str
    key: str
    state: str
    seed: int
    control: int
    """Newest control that came in."""
    prompt_control: int
    """Control that set the prompt in force."""
    restart: bool
    """Whether the next chunk is the first one of a new start."""
    prompt: str | None
    """None where it is an embedding, which is among the arrays."""


@dataclass(frozen=True, eq=False)
class SessionState:
    """A session between two chunks."""

    facts: Facts
    image: NDArray[np.uint8] | None
    embedding: NDArray[np.float32] | None
    hand: Mapping[str, NDArray[Any]]
    """`Hand.state()`."""
    stream: StreamState | None
    """None before the first chunk."""

    def pack(self) -> bytes:
        """As a safetensors file."""
        from safetensors.numpy import save

        arrays = {f"hand.{name}": array for name, array in self.hand.items()}
        arrays |= {name: array for name in ("image", "embedding") if (array := getattr(self, name)) is not None}
        header = {"format": FORMAT, "facts": json.dumps(asdict(self.facts))}
        if self.stream is not None:
            own, header["stream"] = _packed(self.stream)
            arrays |= own
        return save({name: np.ascontiguousarray(array) for name, array in arrays.items()}, metadata=header)


def unpack(data: bytes, config: StreamConfig) -> SessionState:
    """What `pack` made of a session with these settings. ConfigError for anything else.

    Hand and stream check their own parts when they are loaded.
    """
    arrays, header = _read(data)
    try:
        facts = _facts(json.loads(header["facts"]))
    except (KeyError, ValueError, TypeError, RecursionError):
        raise ConfigError(f"{_WHAT} says nothing that can be read of itself; save it again") from None
    stream = _stream(arrays, header, config) if "stream" in header else None
    image, embedding = arrays.get("image"), arrays.get("embedding")
    if image is not None and (image.dtype != np.uint8 or image.shape != (config.height, config.width, 3)):
        raise ConfigError(f"{_WHAT} holds no picture of {config.height}x{config.width}")
    return SessionState(facts, image, embedding, _under("hand.", arrays), stream)


def _packed(state: StreamState) -> tuple[dict[str, NDArray[Any]], str]:
    own, told = pack_state(state)
    return {f"stream.{name}": np.ascontiguousarray(array) for name, array in own.items()}, json.dumps(told)


_WHAT = "this file of a session"


def _read(data: bytes) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size]).get("__metadata__", {}) if size <= len(data) else {}
        arrays = load(data)
    except (SafetensorError, ValueError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{_WHAT} cannot be read ({error}); save it again") from None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ConfigError(f"{_WHAT} is none of this version; save it again")
    return arrays, header


def _stream(arrays: dict[str, NDArray[Any]], header: dict[str, str], config: StreamConfig) -> StreamState:
    try:
        told = json.loads(header["stream"])
    except (KeyError, ValueError, RecursionError):
        told = None
    if not isinstance(told, dict) or not all(isinstance(text, str) for text in told.values()):
        raise ConfigError(f"{_WHAT} has no readable stream; save it again")
    return unpack_state(_under("stream.", arrays), told, config, _WHAT)


def _facts(values: dict[str, Any]) -> Facts:
    facts = Facts(**{field.name: values[field.name] for field in fields(Facts)})
    texts = (facts.id, facts.key, facts.state, "" if facts.prompt is None else facts.prompt)
    numbers = (facts.seed, facts.control, facts.prompt_control)
    if not all(isinstance(text, str) and len(text) <= 500 for text in texts) or facts.state not in STATES:
        raise ValueError("texts")
    if not all(type(number) is int and 0 <= number < 1 << 64 for number in numbers) or type(facts.restart) is not bool:
        raise ValueError("numbers")
    return facts


def _under(prefix: str, arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def pack_stream(state: StreamState) -> bytes:
    """The stream alone, which `joined` puts into a session that was packed without one."""
    from safetensors.numpy import save

    arrays, told = _packed(state)
    return save(arrays, metadata={"format": FORMAT, "stream": told})


def unpack_stream(data: bytes, config: StreamConfig) -> StreamState:
    """What `pack_stream` made of a stream with these settings (ConfigError)."""
    arrays, header = _read(data)
    return _stream(arrays, header, config)


def joined(session: bytes, stream: bytes | None) -> bytes:
    """A session that was packed without its stream, with that of `pack_stream` (None: as it is)."""
    from safetensors.numpy import save

    if stream is None:
        return session
    (arrays, header), (own, told) = _read(session), _read(stream)
    return save({**arrays, **own}, metadata={**header, "stream": told["stream"]})
