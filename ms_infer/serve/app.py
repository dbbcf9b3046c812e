"""The web application: the page, the WebSocket, uploads, and what operators ask for."""

from __future__ import annotations

import asyncio
import hmac
import io
import logging
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from ms_infer.errors import MotionStreamError
from ms_infer.serve.encode import JpegEncoder
from ms_infer.serve.hub import Hub, OpenStream
from ms_infer.serve.openapi import openapi
from ms_infer.serve.protocol import Message as Control
from ms_infer.serve.session import Session
from ms_infer.serve.settings import ServeConfig, is_loopback
from ms_infer.serve.shared import Context
from ms_infer.serve.socket import Connection
from ms_infer.serve.uploads import read_motion, read_picture
from ms_infer.serve.worker import Worker

logger = logging.getLogger(__name__)
STATIC = files("ms_infer.serve") / "static"
KINDS = {"html": "text/html; charset=utf-8", "js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8"}
PAGE = {"/": "index.html"} | {
    f"/{one.name}": one.name for one in STATIC.iterdir() if one.name.rpartition(".")[2] in ("js", "css")
}
OPEN_PATHS = frozenset([*PAGE, "/healthz", "/readyz"])
THUMBNAIL = 512  # side of an example as the page shows it before the stream has begun
SECURITY = {
    b"content-security-policy": b"default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    b"media-src 'self' blob:; connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; "
    b"frame-ancestors 'none'",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"permissions-policy": b"camera=(self), microphone=(), geolocation=()",
    b"cache-control": b"no-cache",
}


def create_app(
    config: ServeConfig, open_stream: OpenStream, failed: Callable[[Exception], object] | None = None
) -> Starlette:
    """The ASGI application.

    `open_stream` makes one more stream; it is called outside of the event loop. `failed` is told when the first one
    could not be made; by default that is logged.
    """
    return _Server(config, open_stream, failed or _log_failure).app


class Guard:
    """Refuses what comes from elsewhere: a foreign Host or Origin, or no token where one is needed."""

    def __init__(self, app: ASGIApp, config: ServeConfig) -> None:
        self.app, self.config = app, config

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        refusal = self._refusal(HTTPConnection(scope))
        if refusal and scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": refusal})
        elif refusal:
            await JSONResponse({"error": refusal}, 403)(scope, receive, send)
        else:
            await self.app(scope, receive, _with_headers(send) if scope["type"] == "http" else send)

    def _refusal(self, request: HTTPConnection) -> str:
        host = request.headers.get("host", "")
        if self.config.loopback and not is_loopback(_name(host)):
            return "this server answers to its own loopback address only"  # a foreign name: DNS rebinding
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return "requests from other origins are not answered"
        if self.config.token and request.url.path not in OPEN_PATHS:
            given = request.query_params.get("token") or request.headers.get("x-token", "")
            if not hmac.compare_digest(given.encode(), self.config.token.encode()):
                return "the token is missing or wrong; open the address that ms-serve printed"
        return ""


def _name(host: str) -> str:
    """Host header without its port."""
    return urlsplit(f"//{host}").hostname or ""


def _with_headers(send: Send) -> Send:
    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            present = {name.lower() for name, _ in message["headers"]}
            message["headers"] = [*message["headers"], *((n, v) for n, v in SECURITY.items() if n not in present)]
        await send(message)

    return wrapped


class _Server:
    """Holds the hub and answers requests."""

    def __init__(self, config: ServeConfig, open_stream: OpenStream, failed: Callable[[Exception], object]) -> None:
        self.config, self.open_stream, self._failed = config, open_stream, failed
        self._static = {path: (STATIC / name).read_bytes() for path, name in PAGE.items()}
        self._thumbnails: dict[str, bytes] = {}
        self._decodes = asyncio.Semaphore(config.limits.decodes)
        self._sockets = 0
        self.hub: Hub
        self.app = Starlette(
            routes=[
                *(Route(path, self.page) for path in PAGE),
                Route("/examples/{name}", self.example),
                Route("/healthz", self.healthz),
                Route("/readyz", self.readyz),
                Route("/metrics", self.metrics),
                Route("/api/openapi.json", self.api),
                Route("/api/sessions", self.sessions),
                Route("/api/sessions/{session}/image", self.image, methods=["POST"]),
                Route("/api/sessions/{session}/video", self.video, methods=["POST"]),
                Route("/api/sessions/{session}/recording", self.recording),
                WebSocketRoute("/ws", self.socket),
            ],
            middleware=[Middleware(Guard, config=config)],
            exception_handlers={HTTPException: _refused, MotionStreamError: _mistaken, Exception: _failed},
            lifespan=self._lifespan,
        )

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        worker = Worker()
        with tempfile.TemporaryDirectory(prefix="ms-serve-") as folder:
            context = Context(self.config, worker, Path(folder))
            self.hub = app.state.hub = Hub(self.open_stream, worker, context, self._failed)
            worker.begin()
            tasks = [asyncio.create_task(self.hub.warm_up()), asyncio.create_task(self.hub.clean_up())]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                await self.hub.close()
                context.close()

    # ---- the page

    async def page(self, request: Request) -> Response:
        name = PAGE[request.url.path]
        return Response(self._static[request.url.path], media_type=KINDS[name.rpartition(".")[2]])

    async def example(self, request: Request) -> Response:
        name = request.path_params["name"]
        examples = self.hub.context.examples
        if name not in examples.names:
            raise HTTPException(404, "there is no such example")
        if name not in self._thumbnails:
            drawn = await asyncio.to_thread(examples.picture, name, THUMBNAIL, THUMBNAIL)
            self._thumbnails[name], _ = JpegEncoder().encode(drawn, key=True)
        return Response(self._thumbnails[name], media_type="image/jpeg")

    async def socket(self, socket: WebSocket) -> None:
        if self._sockets >= self.config.limits.clients:
            await socket.close(1013, "too many connections")
            return
        self._sockets += 1
        self.hub.context.metrics.clients.set(self._sockets)
        try:
            await socket.accept()
            await Connection(socket, self.hub).serve()
        finally:
            self._sockets -= 1
            self.hub.context.metrics.clients.set(self._sockets)
            with suppress(RuntimeError, OSError):
                await socket.close()

    # ---- operators

    async def healthz(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(self, request: Request) -> Response:
        ready = self.hub.ready
        return JSONResponse({"status": "ready" if ready else "loading"}, 200 if ready else 503)

    async def metrics(self, request: Request) -> Response:
        return Response(self.hub.context.metrics.text(), headers={"content-type": CONTENT_TYPE_LATEST})

    async def sessions(self, request: Request) -> Response:
        return JSONResponse({"sessions": [session.describe() for session in self.hub.sessions.values()]})

    async def api(self, request: Request) -> Response:
        return JSONResponse(openapi())

    # ---- files in and out

    async def image(self, request: Request) -> Response:
        session = self._owned(request)
        config, limits = session.stream.config, self.config.limits
        data = await self._body(request, limits.image_bytes)
        async with self._decodes:
            session.maker.image = await asyncio.to_thread(read_picture, data, config.height, config.width, limits)
        session.begin()
        return JSONResponse({"width": config.width, "height": config.height})

    async def video(self, request: Request) -> Response:
        session = self._owned(request)
        config, limits = session.stream.config, self.config.limits
        data = await self._body(request, limits.video_bytes)
        async with self._decodes:
            tracks = await asyncio.to_thread(read_motion, data, config.height, config.width, session.fps, limits)
        session.hand.play(tracks)
        session.note(Control())
        return JSONResponse({"tracks": tracks.count, "seconds": round(tracks.seconds, 2)})

    async def recording(self, request: Request) -> Response:
        session = self._owned(request)
        if session.recording.file is None:
            raise HTTPException(404, "nothing is recorded; press the record button first")
        return FileResponse(session.recording.file, media_type="video/mp4", filename=f"motion-{session.id}.mp4")

    def _owned(self, request: Request) -> Session:
        """The session of the path; its key must come along."""
        session = self.hub.sessions.get(request.path_params["session"])
        key = request.headers.get("x-session-key", "")
        if session is None or not hmac.compare_digest(session.key.encode(), key.encode()):
            raise HTTPException(404, "there is no such session, or it is not yours")
        return session

    async def _body(self, request: Request, limit: int) -> bytes:
        """The whole body; nothing beyond `limit` bytes is kept."""
        too_large = HTTPException(413, f"an upload may have {limit // 2**20} MiB")
        length = request.headers.get("content-length", "")
        if length.isdigit() and int(length) > limit:
            raise too_large
        buffer = io.BytesIO()
        try:
            async with asyncio.timeout(self.config.limits.upload_seconds):
                async for part in request.stream():
                    if buffer.tell() + len(part) > limit:
                        raise too_large
                    buffer.write(part)
        except TimeoutError:
            raise HTTPException(408, "the upload took too long") from None
        return buffer.getvalue()


def _log_failure(error: Exception) -> None:
    logger.error("the model could not be loaded", exc_info=error)


async def _refused(request: Request, error: Any) -> Response:
    return JSONResponse({"error": error.detail}, error.status_code)


async def _mistaken(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 422)


async def _failed(request: Request, error: Exception) -> Response:
    """Nothing of an unexpected error reaches a client; the log has it."""
    return JSONResponse({"error": "the server failed to answer"}, 500)
