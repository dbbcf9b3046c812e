"""One door to TensorRT: chooses `tensorrt` 11 or `tensorrt_rtx`, says what it can do and collects its log."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from ms_infer.errors import EngineMismatchError, MissingExtraError

logger = logging.getLogger(__name__)

Kind = Literal["trt", "rtx"]
MODULES: dict[Kind, str] = {"trt": "tensorrt", "rtx": "tensorrt_rtx"}
"""Extra and export target -> module."""
OLDEST: dict[Kind, tuple[int, int]] = {"trt": (11, 1), "rtx": (1, 5)}
"""First releases with strongly typed attention over a length (`IAttention.key_value_lengths`) and KVCacheUpdate."""
NEWEST: dict[Kind, int] = {"trt": 11, "rtx": 1}
"""Major version that this code knows."""
DTYPES = {
    "float32": "FLOAT",
    "float16": "HALF",
    "bfloat16": "BF16",
    "int64": "INT64",
    "bool": "BOOL",
    "uint8": "UINT8",
}
"""Types of the stages -> members of TensorRT's DataType."""


@dataclass(frozen=True)
class TensorRt:
    """A loaded TensorRT and what it can do."""

    kind: Kind
    module: Any

    @property
    def name(self) -> str:
        """Name of the module."""
        return MODULES[self.kind]

    @property
    def version(self) -> str:
        return str(self.module.__version__)

    @property
    def release(self) -> tuple[int, ...]:
        """(1, 7) of "1.7.1.116": engines of another release are refused."""
        return release(self.version)

    @property
    def has_plugins(self) -> bool:
        """Whether networks take plugins: not in TensorRT-RTX."""
        return hasattr(self.module.INetworkDefinition, "add_plugin")

    @property
    def builds_without_gpu(self) -> bool:
        """Whether engines are built for named targets, on any machine."""
        return hasattr(self.module, "ComputeCapability")

    @property
    def targets(self) -> tuple[str, ...]:
        """Architectures that an engine can be built for by name: sm_75, ...; none in TensorRT, which builds for the
        GPU of the machine."""
        members = getattr(getattr(self.module, "ComputeCapability", None), "__members__", {})
        return tuple(f"sm_{name[2:]}" for name in members if name.startswith("SM"))


def release(version: str) -> tuple[int, ...]:
    """First two numbers of a version."""
    return tuple(int(part) for part in version.split(".")[:2])


def load(kind: Kind | Literal["auto"] = "auto") -> TensorRt:
    """Import TensorRT. "auto" takes `tensorrt` where it is installed, else `tensorrt_rtx`.

    MissingExtraError names the extra; EngineMismatchError when the installed version is too old or too new.
    """
    if kind == "auto":
        for candidate in MODULES:
            try:
                return load(candidate)
            except MissingExtraError:
                continue
        raise MissingExtraError(
            "neither TensorRT nor TensorRT-RTX is installed: pip install 'ms-infer[rtx]' (plain "
            "wheels), or 'ms-infer[trt]' where NVIDIA's package index can be reached"
        )
    try:
        module = import_module(MODULES[kind])
    except ImportError as error:
        raise MissingExtraError(
            f"{MODULES[kind]} is not installed or not complete ({error}): pip install 'ms-infer[{kind}]'"
        ) from None
    found = release(str(module.__version__))
    if found < OLDEST[kind] or found[0] > NEWEST[kind]:
        oldest = ".".join(map(str, OLDEST[kind]))
        raise EngineMismatchError(
            f"{MODULES[kind]} {module.__version__} is installed; this ms-infer needs {oldest} or newer, below "
            f"{NEWEST[kind] + 1}: pip install 'ms-infer[{kind}]'"
        )
    return TensorRt(kind, module)


@functools.cache
def log_of(kind: Kind) -> Any:
    """The process's one logger for this TensorRT: the library keeps the first that it is given, for ever."""
    trt = load(kind).module
    levels = {
        trt.ILogger.INTERNAL_ERROR: logging.ERROR,
        trt.ILogger.ERROR: logging.ERROR,
        trt.ILogger.WARNING: logging.WARNING,
        trt.ILogger.INFO: logging.DEBUG,
        trt.ILogger.VERBOSE: logging.NOTSET,
    }

    class Log(trt.ILogger):  # type: ignore[misc, name-defined]
        """Hands messages to the lists that listen, and to Python's log."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.listeners: list[list[tuple[int, str]]] = []

        def log(self, severity: Any, message: str) -> None:
            level = levels[severity]
            if level == logging.NOTSET:
                return
            logger.debug("%s", message)
            for listener in self.listeners:
                listener.append((level, message))

    return Log()


@contextmanager
def listening(kind: Kind) -> Iterator[list[tuple[int, str]]]:
    """The (level, message) pairs that TensorRT logs inside the block."""
    messages: list[tuple[int, str]] = []
    listeners = log_of(kind).listeners
    listeners.append(messages)
    try:
        yield messages
    finally:
        listeners[:] = [other for other in listeners if other is not messages]


def errors_of(messages: list[tuple[int, str]], most: int = 3) -> str:
    """The last errors among logged messages, in one line."""
    found = [" ".join(message.split()) for level, message in messages if level >= logging.ERROR]
    return "; ".join(found[-most:]) or "TensorRT logged no error"
