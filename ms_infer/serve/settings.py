"""Settings of the server: what a user may choose, and the limits that keep it safe."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

import tyro

from ms_infer.cli.model import ModelOptions
from ms_infer.errors import ConfigError

Codec = Literal["auto", "jpeg", "h264"]
PORTS = {"http": 80, "https": 443}
Engine = Literal["auto", "torch", "openvino", "tensorrt"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds on what one client, or all of them together, can cost."""

    message_bytes: int = 128 * 1024
    """Largest WebSocket message that a client may send."""
    messages_per_second: float = 300.0
    message_burst: int = 600
    clients: int = 64
    """Open WebSockets, watchers included."""
    join_seconds: float = 10.0
    """Time for the first message."""
    ping_seconds: float = 15.0
    """Time between pings, and for the answer to one."""
    send_seconds: float = 20.0
    """Time for one message to leave before the connection is given up."""
    resume_seconds: float = 30.0
    """How long a session without its owner waits for a reconnect."""
    takeover_seconds: float = 5.0
    """How long an owner must be gone before a watcher may take its session over."""
    idle_seconds: float = 900.0
    """Time without any control after which a session ends."""
    lifetime_seconds: float = 6 * 3600.0
    image_bytes: int = 16 * 2**20
    video_bytes: int = 64 * 2**20
    snapshot_bytes: int = 2 * 2**30
    pixels: int = 32 * 2**20
    """Largest uploaded picture; a video's pictures may have a quarter of it."""
    video_seconds: float = 10.0
    """Part of an uploaded video that is read."""
    decodes: int = 2
    """Uploads decoded at the same time."""
    upload_seconds: float = 15.0
    """Time in which at least `upload_progress` bytes of an upload must arrive; the whole may take longer."""
    upload_progress: int = 1024
    record_seconds: float = 300.0


class Origin(NamedTuple):
    """Where a page may come from: scheme, name, port, and the path that the server lies under."""

    scheme: str
    name: str
    port: int
    path: str

    @classmethod
    def read(cls, text: str) -> Origin:
        """From https://name[:port][/path]; ConfigError when it is none."""
        origin = cls.read_or_none(text)
        if origin is None:
            raise ConfigError(f"an origin is https://public.name or https://public.name/below, not {text!r}")
        return origin

    @classmethod
    def read_or_none(cls, text: str) -> Origin | None:
        try:
            parts = urlsplit(text)
            name, port = parts.hostname, parts.port
        except ValueError:
            return None
        if parts.scheme not in PORTS or not name or parts.query or parts.fragment or "@" in parts.netloc:
            return None
        return cls(parts.scheme, name, port or PORTS[parts.scheme], parts.path.rstrip("/"))

    @property
    def default_port(self) -> int:
        return PORTS[self.scheme]

    @property
    def place(self) -> tuple[str, str, int]:
        """What a browser's Origin header tells."""
        return self.scheme, self.name, self.port


@dataclass(frozen=True)
class ServeConfig(ModelOptions):
    """Open a page in which a picture moves the way it is dragged."""

    source: tyro.conf.Positional[str] = "demo"
    """"demo", a checkpoint, or a bundle made by ms-export."""
    host: str = "127.0.0.1"
    """Address to listen on. Anything but loopback needs a token."""
    port: int = 8600
    open: bool = False
    """Open the page in a browser."""
    token: str = ""
    """Secret that clients must bring; made up and printed when the host is not loopback."""
    origin: tuple[str, ...] = ()
    """Public addresses, https://public.name or https://public.name/below, under which a proxy passes requests on."""
    fps: float | None = None
    """RGB frames shown per second; None is the model's own rate."""
    keep: Path | None = None
    """Folder in which sessions are kept while the server is restarted; None: they end with it."""
    min_fps: float = 10.0
    """A new session is let in only while every session would still get so many RGB frames per second."""
    max_sessions: int = 4
    codec: Codec = "auto"
    """How frames are coded: auto takes the best that a page can show and its link carries; jpeg keeps to pictures that
    stand alone; h264 takes video wherever the browser has WebCodecs, for a tenth of the bandwidth."""
    rest: bool = True
    """Make no chunks while nothing moves or changes, where the model's settings say that its picture then stands
    still."""
    engine: Engine = "auto"
    precision: str | None = None
    """fp32, bf16, ...; None is the engine's default."""
    limits: tyro.conf.Suppress[Limits] = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port must be within 0..65535, not {self.port}")
        if self.fps is not None and not 1 <= self.fps <= 240:
            raise ConfigError(f"fps must be within 1..240, not {self.fps}")
        if not 0 < self.min_fps <= 240 or not 1 <= self.max_sessions <= 1000:
            raise ConfigError(
                f"min_fps must be within 0..240, max_sessions within 1..1000, not {self.min_fps}, {self.max_sessions}"
            )
        for origin in self.origin:
            Origin.read(origin)
        if not self.loopback and len(self.token) < 16:
            raise ConfigError(
                f"{self.host} can be reached from other machines, so it needs a token of 16 characters or more: "
                "--token SECRET, or keep --host 127.0.0.1"
            )

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_wildcard(host: str) -> bool:
    """Whether a host means all addresses of this machine."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return host == ""


def split_host(host: str) -> tuple[str, int | None]:
    """Name and port of a Host header; no name where it cannot be read."""
    try:
        parts = urlsplit(f"//{host}")
        return parts.hostname or "", parts.port
    except ValueError:
        return "", None
