"""The sessions of one server: who gets one, who may come back to one, and when one ends."""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
import time
from collections.abc import Callable

from ms_infer.errors import ConfigError
from ms_infer.serve.directory import Directory, Moving
from ms_infer.serve.lane import Lane
from ms_infer.serve.lanes import Lanes
from ms_infer.serve.line import Line
from ms_infer.serve.pictures.layered import open_layers
from ms_infer.serve.protocol import Join
from ms_infer.serve.saved import SessionState, unpack
from ms_infer.serve.session import Session
from ms_infer.serve.shared import Context
from ms_infer.serve.wire.clients import Client

logger = logging.getLogger(__name__)
CLEANUP_SECONDS = 1.0
FINISH_SECONDS = 2.0
"""How long a session that moves may show what it has made."""
GOING_AWAY, RESTART = 1001, 1012  # codes with which WebSockets end


class Refused(Exception):
    """A client that cannot be served now; the text tells it why."""

    def __init__(self, reason: str, text: str, **details: object) -> None:
        super().__init__(text)
        self.details = {"reason": reason, **details}


class Hub:
    """Opens, resumes, forks, lends and closes sessions on its lanes. Event loop only."""

    def __init__(
        self,
        lanes: Lanes,
        context: Context,
        directory: Directory,
        failed: Callable[[Exception], object],
    ) -> None:
        self.lanes, self.context, self.directory, self._failed = lanes, context, directory, failed
        self.sessions: dict[str, Session] = {}
        self.ready = self.draining = False
        self.shape = (0, 0)
        """Height and width of the model's pictures, once it is ready."""
        self._line = Line()
        self._drained: asyncio.Event | None = None

    async def warm_up(self) -> None:
        """Load the models and make a few chunks on each lane."""
        try:
            await self.lanes.warm_up()
            self.context.layers = await asyncio.to_thread(open_layers, self.context.config.source, self.lanes.config)
        except Exception as error:  # whoever runs the server decides what now
            self._failed(error)
            return
        self.shape = self.lanes.config.height, self.lanes.config.width
        self.ready = True
        self._count()

    # ---- joining

    async def join(self, message: Join, client: Client) -> Session:
        """The session for a client's first message; Refused when there is none."""
        if self.draining:
            raise Refused("loading", "the server is being restarted")
        if not self.ready:
            raise Refused("loading", "the model is being loaded")
        if message.watch:
            return self._watched(message.session, client)
        if not message.session:
            session = await self._first(client)
        elif message.fork:
            session = await self._forked(message, client)
        else:
            session = self._known(message) or await self._found(message, client)
        client.owner = True
        self._line.leave(client)
        session.attach(client)
        return session

    def _known(self, message: Join) -> Session | None:
        session = self.sessions.get(message.session)
        if session is not None and hmac.compare_digest(session.key.encode(), message.key.encode()):
            self.context.metrics.resumed.inc()
            return session
        return None

    async def _found(self, message: Join, client: Client) -> Session:
        """One that another server, or this one before it was restarted, has left to whoever comes back to it."""
        gone = Refused("gone", "this session has ended, or somebody else has taken it over")
        if message.session in self.sessions:
            raise gone
        lane = await self._admit(client, first=True)
        try:
            data = await self.directory.find(message.session, message.key)
            if data is None:
                raise gone
            saved = unpack(data, self.lanes.config)
        except ConfigError as error:
            logger.warning("session %s cannot go on: %s", message.session[:16], error)
            await self._leave(lane)
            raise gone from None
        except Moving:
            await self._leave(lane)
            raise Refused("loading", "the session is being moved; it is there in a moment") from None
        except BaseException:
            await self._leave(lane)
            raise
        session = await self._open(lane, saved, saved.facts.id, saved.facts.key)
        self.context.metrics.resumed.inc()
        return session

    async def _forked(self, message: Join, client: Client) -> Session:
        """A session of its own that stands where another one stands."""
        session = self._known(message)
        if session is None:
            raise Refused("gone", "the session to fork has ended")
        saved = await session.save()
        return await self._open(await self._admit(client), saved, secrets.token_hex(4))

    def _watched(self, name: str, client: Client) -> Session:
        running = [session for session in self.sessions.values() if session.owner is not None]
        session = self.sessions.get(name) or (running[-1] if running else None)
        if session is None:
            raise Refused("nothing", "there is nothing to watch: no session is running")
        session.attach(client)
        return session

    async def _first(self, client: Client) -> Session:
        """A new session with the first picture."""
        session = await self._open(await self._admit(client), None, secrets.token_hex(4))
        config, examples = session.stream.config, self.context.examples
        picture = await asyncio.to_thread(examples.picture, examples.names[0], config.height, config.width)
        if session.maker.image is None:
            session.maker.image = picture
        return session

    async def _open(self, lane: Lane, saved: SessionState | None, name: str, key: str = "") -> Session:
        """A session on a lane with a seat for it, which is given back when it cannot be opened."""
        try:
            stream = await lane.take()
            session = Session(stream, self.context, lane, name)
            session.key = key or session.key
            if saved is not None:
                await self._load(session, saved)
        except BaseException:
            await self._leave(lane)
            raise
        self.sessions[name] = session
        lane.worker.add(session)
        self._count()
        await self.directory.opened(name)
        logger.info("session %s opened", name)
        return session

    async def _load(self, session: Session, saved: SessionState) -> None:
        try:
            await session.load(saved)
        except ConfigError as error:
            await session.close("ended", "it cannot go on here")
            await session.lane.give(session.stream)
            raise Refused("gone", f"this session cannot go on here: {error}") from None

    async def _admit(self, client: Client, *, first: bool = False) -> Lane:
        """The lane for one more session; Refused when it would slow the others below the rate that is promised.

        first: for one that lost its server, which comes before those that wait.
        """
        if first or self._line.place(client) == 1:
            lane = await self.lanes.admit(first=first)
            if lane is not None:
                self._count()
                return lane
        place = self._line.wait(client)
        watch = any(session.owner is not None for session in self.sessions.values())
        text = f"the server is full: {self.lanes.used} sessions are open" + ("; you may watch one" if watch else "")
        raise Refused("full", text, watch=watch, place=place)

    async def _leave(self, lane: Lane) -> None:
        await self.lanes.leave(lane)
        self._count()

    def forget(self, client: Client) -> None:
        """A client has gone."""
        self._line.leave(client)

    # ---- who owns one

    def is_free(self, session: Session) -> bool:
        """Whether its owner has gone for so long that a watcher may take it over."""
        left, patience = session.left, self.context.config.limits.takeover_seconds
        return session.owner is None and left is not None and time.monotonic() - left >= patience

    def take_over(self, session: Session, client: Client) -> bool:
        """A watcher becomes the owner, the first who asks, if it is free; the old key is worth nothing then."""
        if not self.is_free(session):
            return False
        session.detach(client)
        session.key = secrets.token_urlsafe(24)
        client.owner = True
        session.attach(client)
        return True

    def leave(self, session: Session, client: Client) -> None:
        """The owner gives its session up: the first watcher may take it over at once, or it ends."""
        session.detach(client)
        session.key = secrets.token_urlsafe(24)
        if session.clients:
            session.left = time.monotonic() - self.context.config.limits.takeover_seconds
        else:
            self.context.spawn(self.end(session, "left", "its owner has left"))

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
            return "left", "its owner has left, and nobody took it over"
        if now - session.touched > limits.idle_seconds:
            return "idle", "nothing happened for a long time"
        if now - session.born > limits.lifetime_seconds:
            return "lifetime", "the session has reached its longest time"
        return None

    async def end(self, session: Session, reason: str, text: str, code: int = 1000) -> None:
        """Close a session; its lane gets the stream back."""
        if self.sessions.pop(session.id, None) is None:
            return  # it ends already
        session.state = "stopped"
        await asyncio.to_thread(session.lane.worker.remove, session)
        await session.close(reason, text, code)
        await session.lane.give(session.stream)
        await self._leave(session.lane)
        logger.info("session %s ended: %s", session.id, reason)

    async def drain(self) -> None:
        """Take nobody in any more, save every session in the directory, and say goodbye. Whoever asks again waits."""
        if self._drained is not None:
            await self._drained.wait()
            return
        self._drained, self.draining = asyncio.Event(), True
        await asyncio.gather(*(self.move(session) for session in list(self.sessions.values())))
        self._drained.set()

    async def move(self, session: Session, *, wanted: bool = False) -> None:
        """Save a session in the directory and say goodbye: it goes on elsewhere.

        wanted: somebody with its key waits for it elsewhere, so its owner here is replaced and does not ask for it.
        """
        kept = False
        await asyncio.to_thread(session.lane.worker.remove, session)  # what is saved is what follows what was shown
        try:
            saved = await session.save()
            data = await asyncio.to_thread(saved.pack)
            kept = await self.directory.save(session.id, session.key, data)
        except Exception as error:  # one that cannot be saved must not keep the others
            logger.error("session %s cannot be kept", session.id, exc_info=error)
        await session.show.finish(FINISH_SECONDS)
        if wanted:
            session.replace_owner()
        if kept:
            self.context.metrics.moved.inc()
            await self.end(session, "moved", "the server is restarted; the stream goes on in a moment", RESTART)
        else:
            await self.end(session, "closing", "the server is closing", RESTART)

    async def close(self) -> None:
        """End everything."""
        self.ready = False
        await self.drain()
        await self.lanes.close()

    def _count(self) -> None:
        metrics = self.context.metrics
        metrics.sessions.set(len(self.sessions))
        metrics.reserved.set(self.lanes.used)
        metrics.capacity.set(self.lanes.capacity)
