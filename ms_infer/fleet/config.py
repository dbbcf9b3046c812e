"""Settings of a fleet: the model, how it is served, how many of each there are, and how states are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from importlib import import_module
from typing import Any, Literal

import tyro

from ms_infer.cli.model import ModelOptions
from ms_infer.errors import ConfigError
from ms_infer.serve.making import StreamLike
from ms_infer.serve.settings import Codec, Engine, Limits, ServeConfig

Keep = Literal["auto", "exact", "near"]
SMALL_BYTES = 50 * 10**6
"""States up to this size are kept exactly where nobody says which."""


@dataclass(frozen=True, kw_only=True)
class FleetConfig(ModelOptions):
    """Serve a model from several engines; sessions outlive the engine and the gateway that they run on."""

    source: tyro.conf.Positional[str] = "demo"
    """"demo", a checkpoint, or a bundle made by ms-export."""
    replicas: int = 2
    """Engines."""
    gateways: int = 1
    """Servers that hold the WebSockets."""
    host: str = "127.0.0.1"
    """Address to listen on. Anything but loopback needs a token."""
    port: int = 8600
    token: str = ""
    """Secret that clients must bring."""
    origin: tuple[str, ...] = ()
    """Public addresses, https://public.name, under which a proxy passes requests on."""
    fps: float | None = None
    """RGB frames shown per second; None is the model's own rate."""
    min_fps: float = 10.0
    """A new session is let in only while every session would still get so many RGB frames per second."""
    max_sessions: int = 1000
    """Of one engine, where min_fps would let in more."""
    spare: float = 0.05
    """Share of all seats that new sessions leave free for those that lost their engine."""
    keep: Keep = "auto"
    """exact: a lost stream goes on bit for bit; near: from a smaller state, closely; auto: exact below 50 MB."""
    save_chunks: int = 4
    """Chunks between two kept states of a stream: a lost engine makes up to so many be made again."""
    codec: Codec = "auto"
    rest: bool = True
    """Make no chunks while nothing moves or changes."""
    engine: Engine = "auto"
    precision: str | None = None
    gpus: float = 0.0
    """GPUs of one engine."""
    cpus: float = 1.0
    """Processor cores of one engine, as Ray counts them."""
    gateway_cpus: float = 1.0
    opens: tyro.conf.Suppress[str] = ""
    """module:name of what opens a stream in place of a source."""

    def __post_init__(self) -> None:
        counts = {"replicas": self.replicas, "gateways": self.gateways, "save_chunks": self.save_chunks}
        for name, count in counts.items():
            if not 1 <= count <= 1000:
                raise ConfigError(f"{name} must be within 1..1000, not {count}")
        if not 0 <= self.spare < 1:
            raise ConfigError(f"spare is a share of all seats, 0 or more and less than 1, not {self.spare}")
        self.serving()

    def serving(self) -> ServeConfig:
        """What the gateways and the opening of the model read."""
        named = {field.name for field in fields(ServeConfig)} & {field.name for field in fields(self)}
        values = {name: getattr(self, name) for name in named - {"keep"}}
        return ServeConfig(**values, limits=Limits(resume_seconds=60.0))

    def opener(self) -> Callable[[], StreamLike]:
        """Opens one more stream of the model."""
        if self.opens:
            module, _, name = self.opens.partition(":")
            found: Callable[[], StreamLike] = getattr(import_module(module), name)
            return found
        from ms_infer.serve.open import stream_opener

        return stream_opener(self.serving())

    def to_dict(self) -> dict[str, Any]:
        """For a file of settings."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FleetConfig:
        """From a file of settings (ConfigError)."""
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ConfigError(f"a fleet has no setting {unknown[0]!r}; it has {', '.join(sorted(known))}")
        lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return cls(**{**values, **lists})
