"""The sessions of one server: who gets one, who may come back to one, and when one ends."""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
import time
from collections.abc import Callable

from ms_infer.serve.clients import Client
from ms_infer.serve.making import StreamLike
from ms_infer.serve.protocol import Join
from ms_infer.serve.session import Session
from ms_infer.serve.shared import Context
from ms_infer.serve.worker import Worker

logger = logging.getLogger(__name__)
OpenStream = Callable[[], StreamLike]
CLEANUP_SECONDS = 1.0
WARM_UP_CHUNKS = 3


class Refused(Exception):
    """A client that cannot be served now; the text tells it why."""

    def __init__(self, reason: str, text: str, **details: object) -> None:
        super().__init__(text)
        self.details = {"reason": reason, **details}


class Hub:
    """Opens, resumes, lends and closes sessions. Event loop only."""

    def __init__(
        self, open_stream: OpenStream, worker: Worker, context: Context, failed: Callable[[Exception], object]
    ) -> None:
        self.open_stream, self.worker, self.context, self._failed = open_stream, worker, context, failed
        self.sessions: dict[str, Session] = {}
        self.ready = False
        self.shape = (0, 0)
        """Height and width of the model's pictures, once it is ready."""
        self._spare: StreamLike | None = None
        self._opening = 0

    async def warm_up(self) -> None:
        """Load the model and make a few chunks, so that the first user waits for nothing and admission knows a time."""
        try:
            self._spare = await asyncio.to_thread(self.worker.call, self._warm_stream)
        except Exception as error:  # whoever runs the server decides what now
            self._failed(error)
            return
        self.shape = self._spare.config.height, self._spare.config.width
        self.ready = True

    def _warm_stream(self) -> StreamLike:
        stream = self.open_stream()
        stream.start()
        stream.step()
        for _ in range(WARM_UP_CHUNKS):
            self.worker.measure(stream.step)
        return stream

    # ---- joining

    async def join(self, message: Join, client: Client) -> Session:
        """The session for a client's first message; Refused when there is none."""
        if not self.ready:
            raise Refused("loading", "the model is being loaded")
        if message.watch:
            return self._watched(message.session, client)
        session = self._resumed(message) or await self._new()
        client.owner = True
        session.attach(client)
        return session

    def _resumed(self, message: Join) -> Session | None:
        session = self.sessions.get(message.session)
        if session is not None and hmac.compare_digest(session.key.encode(), message.key.encode()):
            return session
        return None

    def _watched(self, name: str, client: Client) -> Session:
        running = [session for session in self.sessions.values() if session.owner is not None]
        session = self.sessions.get(name) or (running[-1] if running else None)
        if session is None:
            raise Refused("nothing", "there is nothing to watch: no session is running")
        session.attach(client)
        return session

    async def _new(self) -> Session:
        self._admit()
        self._opening += 1
        try:
            stream, self._spare = self._spare, None
            if stream is None:
                stream = await asyncio.to_thread(self.worker.call, self.open_stream)
        finally:
            self._opening -= 1
        name = secrets.token_hex(4)
        session = self.sessions[name] = Session(stream, self.context, name)
        config, examples = stream.config, self.context.examples
        session.maker.image = await asyncio.to_thread(examples.picture, examples.names[0], config.height, config.width)
        self.worker.add(session)
        self.context.metrics.sessions.set(len(self.sessions))
        logger.info("session %s opened", name)
        return session

    def _admit(self) -> None:
        """Refused when one more session would slow the others below the rate that is promised."""
        config = self.context.config
        count = len(self.sessions) + self._opening
        fps = self.fps_with(count + 1)
        if count == 0 or (count < config.max_sessions and fps >= config.min_fps):
            return
        watch = any(session.owner is not None for session in self.sessions.values())
        text = f"the server is full: {count} sessions are open" + ("; you may watch one" if watch else "")
        raise Refused("full", text, watch=watch)

    def fps_with(self, count: int) -> float:
        """RGB frames per second that each of `count` sessions would get."""
        taken = self.worker.chunk_seconds * count
        if not self.sessions or taken == 0:
            return float("inf")
        return min(session.chunk_frames for session in self.sessions.values()) / taken

    # ---- ending

    async def clean_up(self) -> None:
        """For ever: end the sessions that nobody comes back to, and those that are too old or idle."""
        while True:
            await asyncio.sleep(CLEANUP_SECONDS)
            for session in list(self.sessions.values()):
                reason = self._over(session)
                if reason:
                    await self.end(session, *reason)

    def _over(self, session: Session) -> tuple[str, str] | None:
        limits, now = self.context.config.limits, time.monotonic()
        if session.left is not None and now - session.left > limits.resume_seconds:
            return "left", "its owner has left"
        if now - session.touched > limits.idle_seconds:
            return "idle", "nothing happened for a long time"
        if now - session.born > limits.lifetime_seconds:
            return "lifetime", "the session has reached its longest time"
        return None

    async def end(self, session: Session, reason: str, text: str) -> None:
        """Close a session; its stream is kept for the next one when there is no spare."""
        self.sessions.pop(session.id, None)
        session.state = "stopped"
        await asyncio.to_thread(self.worker.remove, session)
        await session.close(reason, text)
        self.context.metrics.sessions.set(len(self.sessions))
        logger.info("session %s ended: %s", session.id, reason)
        if self._spare is None and self.ready:
            self._spare = session.stream
        else:
            await asyncio.to_thread(self.worker.call, session.stream.close)

    async def close(self) -> None:
        """End everything."""
        self.ready = False
        for session in list(self.sessions.values()):
            await self.end(session, "closing", "the server is closing")
        await asyncio.to_thread(self.worker.stop)
        if self._spare is not None:
            self._spare.close()
