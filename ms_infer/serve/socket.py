"""One WebSocket: its first message, its controls in, its frames out."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from starlette.types import Message
from starlette.websockets import WebSocket, WebSocketDisconnect

from ms_infer.errors import MotionStreamError
from ms_infer.serve import protocol
from ms_infer.serve.commands import apply_control, hello, webcam_picture
from ms_infer.serve.hub import Hub, Refused
from ms_infer.serve.protocol import BadMessage, Type
from ms_infer.serve.session import Session
from ms_infer.serve.wire.clients import Client, RateLimit
from ms_infer.serve.wire.grades import Coder, Shown, grades

logger = logging.getLogger(__name__)
STATS_SECONDS = 1.0
BAD_MESSAGES = 50  # unreadable messages after which a client is sent away


class Connection:
    """Serves one accepted WebSocket until either side ends it."""

    def __init__(self, socket: WebSocket, hub: Hub) -> None:
        self.socket, self.hub, self.context = socket, hub, hub.context
        self.client = Client(owner=False)
        self.session: Session | None = None
        limits = self.context.config.limits
        self._rate = RateLimit(limits.messages_per_second, limits.message_burst)
        self._bad = 0
        self._last = (0, time.monotonic())

    async def serve(self) -> None:
        """Returns when the connection is over; nothing of the client is left then."""
        tasks = [asyncio.create_task(work) for work in (self._receive(), self._send(), self._tell())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            self.client.closing = True
            if not tasks[1].done():  # the goodbye may still be on its way
                self.client.put(protocol.pack_json(Type.STATS, {}))
                await asyncio.wait([tasks[1]], timeout=1)
        finally:
            self.hub.forget(self.client)
            if self.session is not None:
                self.session.detach(self.client)
            for task in tasks:
                task.cancel()
            for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(outcome, Exception) and not isinstance(outcome, WebSocketDisconnect | OSError):
                    logger.error("a connection failed", exc_info=outcome)

    # ---- in

    async def _receive(self) -> None:
        limits = self.context.config.limits
        try:
            while self.session is None and not self.client.closing:
                async with asyncio.timeout(limits.join_seconds):  # one that waits in line asks again and again
                    message = await self.socket.receive()
                await self._take(message)  # as long as it takes: another server may have to hand the session over
        except TimeoutError:
            self._bye("silent", "no join message came in time")
        while not self.client.closing:
            await self._take(await self.socket.receive())

    async def _take(self, message: Message) -> None:
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        self.context.metrics.messages.inc()
        if not self._rate.allow():
            self._bye("rate", "too many messages")
            return
        try:
            await self._handle(message.get("bytes"))
        except (BadMessage, MotionStreamError) as error:
            self.context.metrics.refused.inc()
            self._bad += isinstance(error, BadMessage)
            self._error("message", str(error))
            if self._bad > BAD_MESSAGES:
                self._bye("garbage", "too many messages that cannot be read")

    async def _handle(self, data: bytes | None) -> None:
        if not data:
            raise BadMessage("a message is binary: one type byte and its content")
        if data[0] == Type.CONTROL:
            control = protocol.read_control(data[1:])
            if isinstance(control, protocol.Join):
                await self._join(control)
            elif control is not None and self.session is None:
                raise BadMessage("the first control must be join")
            elif isinstance(control, protocol.Ask) and self.session is not None:
                self._asked(control.do)
            elif control is not None and self.session is not None and self.client.owner:
                await apply_control(self.session, control)
        elif data[0] == Type.SEEN:
            self.client.seen(protocol.read_seen(data))
        elif data[0] == Type.WEBCAM and self.session is not None and self.client.owner:
            await webcam_picture(self.session, data[1:])

    def _asked(self, what: str) -> None:
        session = self.session
        assert session is not None, "it was asked about one"
        if what == "key":
            self.client.coder.need_key()
        elif what == "leave" and self.client.owner:
            self.hub.leave(session, self.client)
            self._bye("left", "you have left the session")
        elif what == "take" and not self.client.owner:
            if self.hub.take_over(session, self.client):
                self.client.put(protocol.pack_json(Type.HELLO, hello(session, self.client)))
            else:
                self._error("message", "somebody has this session: it can be taken over when its owner is gone")

    async def _join(self, message: protocol.Join) -> None:
        if self.session is not None:
            raise BadMessage("this connection has joined already")
        if message.version != protocol.VERSION:
            self._bye(
                "version", f"this server speaks version {protocol.VERSION}, not {message.version}: reload the page"
            )
            return
        try:
            self.session = await self.hub.join(message, self.client)
        except Refused as refusal:
            self._error("refused", str(refusal), **refusal.details)
            return
        config = self.session.stream.config
        ladder = grades(self.context.config.codec, message.codecs, config.height * config.width)
        self.client.coder = Coder(ladder, self.session.fps)
        self.client.put(bytes([Type.NOTHING]))
        self.client.put(protocol.pack_json(Type.HELLO, hello(self.session, self.client)))

    # ---- out

    async def _send(self) -> None:
        seconds = self.context.config.limits.send_seconds
        while (message := await self.client.take()) is not None:
            data = await self._coded(message) if isinstance(message, Shown) else message
            if data is not None:
                self.client.link.sent(len(data), time.monotonic())
                async with asyncio.timeout(seconds):
                    await self.socket.send_bytes(data)

    async def _coded(self, frame: Shown) -> bytes | None:
        try:
            return await self.context.encode(self.client.coder.message, frame)
        except Exception as error:  # a frame that cannot be coded must not end the connection
            if self.session is not None:
                self.session.fail(error)
            return None

    async def _tell(self) -> None:
        """Once a second: what this client gets and how the server does."""
        while True:
            await asyncio.sleep(STATS_SECONDS)
            session = self.session
            if session is None:
                continue
            (count, then), now = self._last, time.monotonic()
            self._last = (self.client.sent, now)
            content = {
                "state": session.state,
                "fps": round((self.client.sent - count) / (now - then), 1),
                "resting": session.resting,
                "chunk": session.maker.chunk,
                "chunk_ms": round(session.lane.worker.chunk_seconds * 1e3, 1),
                "dropped": self.client.dropped,
                "late": session.show.misses,
                "codec": self.client.coder.grade.codec,
                "owner": session.owner is not None,
                "free": self.hub.is_free(session),
                "sessions": len(self.hub.sessions),
                "watchers": sum(not client.owner for client in session.clients),
            }
            self.client.put(protocol.pack_json(Type.STATS, content))

    def _error(self, code: str, text: str, **details: Any) -> None:
        self.client.put(protocol.pack_json(Type.ERROR, {"code": code, "text": text, **details}))

    def _bye(self, reason: str, text: str) -> None:
        self.client.bye(reason, text)
