"""The WebSocket transport, with an end for peers that never read."""

from __future__ import annotations

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol


class AbortingProtocol(WebSocketsSansIOProtocol):
    """Gives up a connection whose peer answers no ping: closing would wait for ever for its buffer to drain."""

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self.transport.abort()
