"""The HTTP and WebSocket server under the application: uvicorn with bounds, and an end for peers that never read."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from ms_infer.errors import ConfigError
from ms_infer.serve.settings import ServeConfig

GOODBYE_SECONDS = 0.2  # for the last words to leave


class AbortingProtocol(WebSocketsSansIOProtocol):
    """Gives up a connection whose peer answers no ping: closing would wait for ever for its buffer to drain."""

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self.transport.abort()


class Server(uvicorn.Server):
    """Calls `listening` with its port once it accepts connections."""

    def __init__(
        self, settings: uvicorn.Config, listening: Callable[[int], None], leaving: Callable[[], Awaitable[None]]
    ) -> None:
        super().__init__(settings)
        self._listening, self._leaving = listening, leaving

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """First what is open is saved and said goodbye to: uvicorn ends WebSockets without a word."""
        await self._leaving()
        await super().shutdown(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._listening(int(self.servers[0].sockets[0].getsockname()[1]))


def bind(config: ServeConfig) -> socket.socket:
    """A socket at the address of the settings, before anything slow begins; ConfigError when it cannot be had."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"{config.host!r} is no address of this machine ({error}); give --host 127.0.0.1") from None
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(place)
        bound.listen(128)
    except OSError as error:
        bound.close()
        raise ConfigError(
            f"port {config.port} of {config.host} cannot be used ({error.strerror}); stop what uses it, or give "
            "--port 0 for a free one"
        ) from None
    return bound


def make_server(app: Starlette, config: ServeConfig, listening: Callable[[int], None]) -> Server:
    """A server for the application; `run()` serves until interrupted."""
    settings = uvicorn.Config(
        app,
        host=config.host,
        port=config.port,
        log_level="warning",
        access_log=False,  # the token is part of an address
        server_header=False,
        ws=AbortingProtocol,
        ws_max_size=config.limits.message_bytes,
        ws_per_message_deflate=False,
        ws_ping_interval=config.limits.ping_seconds,
        ws_ping_timeout=config.limits.ping_seconds,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=3,
        limit_concurrency=4 * config.limits.clients,
        h11_max_incomplete_event_size=16 * 1024,
    )

    async def leaving() -> None:
        if hasattr(app.state, "hub"):
            await app.state.hub.drain()
            await asyncio.sleep(GOODBYE_SECONDS)

    return Server(settings, listening, leaving)
