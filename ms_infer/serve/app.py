"""The web application: the page, the WebSocket, and what operators ask for."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from importlib.resources import files
from pathlib import Path
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from ms_infer.errors import MotionStreamError
from ms_infer.serve.directory import Directory, FolderDirectory, NoDirectory
from ms_infer.serve.hub import Hub
from ms_infer.serve.lane import Lane, OpenStream
from ms_infer.serve.lanes import Lanes, OwnLanes
from ms_infer.serve.protocol import BadMessage
from ms_infer.serve.settings import ServeConfig
from ms_infer.serve.shared import Context
from ms_infer.serve.socket import Connection
from ms_infer.serve.web.files import SessionFiles
from ms_infer.serve.web.guard import Guard
from ms_infer.serve.web.openapi import openapi
from ms_infer.serve.wire.encode import JpegEncoder

logger = logging.getLogger(__name__)
STATIC = files("ms_infer.serve") / "static"
KINDS = {"html": "text/html; charset=utf-8", "js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8"}
PAGE = {"/": "index.html"} | {
    f"/{one.name}": one.name for one in STATIC.iterdir() if one.name.rpartition(".")[2] in ("js", "css")
}
Behind = Callable[[Context], tuple[Lanes, Directory]]
"""Where the sessions of a server get their lanes, and where they are kept."""
OPEN_PATHS = frozenset([*PAGE, "/healthz", "/readyz"])


def create_app(
    config: ServeConfig,
    *open_streams: OpenStream,
    failed: Callable[[Exception], object] | None = None,
    behind: Behind | None = None,
    ready_seconds: float = 0.0,
) -> Starlette:
    """The ASGI application.

    Each of `open_streams` makes one more stream of an engine, in a thread that is that engine's alone. `failed` is told
    when a first one could not be made; by default that is logged. `behind` takes the place of engines of this process.
    Up to `ready_seconds` nobody is served until all is ready: for a server beside others that are.
    """

    def own(context: Context) -> tuple[Lanes, Directory]:
        directory = NoDirectory() if config.keep is None else FolderDirectory(config.keep)
        return OwnLanes([Lane(opener) for opener in open_streams], config), directory

    return _Server(config, behind or own, failed or _log_failure, ready_seconds).app


class _Server:
    """Holds the hub and answers requests."""

    def __init__(
        self, config: ServeConfig, behind: Behind, failed: Callable[[Exception], object], ready_seconds: float
    ) -> None:
        self.config, self._behind, self._failed, self._ready_seconds = config, behind, failed, ready_seconds
        self._static = {path: (STATIC / name).read_bytes() for path, name in PAGE.items()}
        self._thumbnails: dict[str, bytes] = {}
        self.files = SessionFiles(config.limits)
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
                *self.files.routes(),
                WebSocketRoute("/ws", self.socket),
            ],
            middleware=[Middleware(Guard, config=config, open_paths=OPEN_PATHS)],
            exception_handlers={
                HTTPException: _refused,
                MotionStreamError: _mistaken,
                BadMessage: _mistaken,
                Exception: _failed,
            },
            lifespan=self._lifespan,
        )
        self.app.state.pages = tuple(PAGE)

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        with tempfile.TemporaryDirectory(prefix="ms-serve-") as folder:
            context = Context(self.config, Path(folder))
            lanes, directory = self._behind(context)
            self.hub = app.state.hub = self.files.hub = Hub(lanes, context, directory, self._failed)
            tasks = [asyncio.create_task(self.hub.warm_up()), asyncio.create_task(self.hub.clean_up())]
            try:
                with suppress(TimeoutError):
                    await asyncio.wait_for(asyncio.shield(tasks[0]), self._ready_seconds)
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
        if not self.hub.ready:
            raise HTTPException(503, "the model is being loaded")
        if name not in self._thumbnails:
            height, width = self.hub.shape  # as the stream begins with it: nothing jumps
            drawn = await asyncio.to_thread(examples.picture, name, height, width)
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
            connection = Connection(socket, self.hub)
            await connection.serve()
            with suppress(RuntimeError, OSError):
                await socket.close(connection.client.code)
        finally:
            self._sockets -= 1
            self.hub.context.metrics.clients.set(self._sockets)

    # ---- operators

    async def healthz(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(self, request: Request) -> Response:
        status = "draining" if self.hub.draining else "ready" if self.hub.ready else "loading"
        return JSONResponse({"status": status}, 200 if status == "ready" else 503)

    async def metrics(self, request: Request) -> Response:
        return Response(self.hub.context.metrics.text(), headers={"content-type": CONTENT_TYPE_LATEST})

    async def sessions(self, request: Request) -> Response:
        return JSONResponse({"sessions": [session.describe() for session in self.hub.sessions.values()]})

    async def api(self, request: Request) -> Response:
        return JSONResponse(openapi())


def _log_failure(error: Exception) -> None:
    logger.error("the model could not be loaded", exc_info=error)


async def _refused(request: Request, error: Any) -> Response:
    return JSONResponse({"error": error.detail}, error.status_code)


async def _mistaken(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 422)


async def _failed(request: Request, error: Exception) -> Response:
    """Nothing of an unexpected error reaches a client; the log has it."""
    return JSONResponse({"error": "the server failed to answer"}, 500)
