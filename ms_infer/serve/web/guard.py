"""Refuses what comes from elsewhere: a foreign Host or Origin, or no token where one is needed."""

from __future__ import annotations

import hmac
from collections.abc import Collection

from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ms_infer.serve.settings import Origin, ServeConfig, is_loopback, split_host

SECURITY = {
    b"content-security-policy": b"default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    b"media-src 'self' blob:; connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; "
    b"frame-ancestors 'self'",  # two futures side by side
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"permissions-policy": b"camera=(self), microphone=(), geolocation=()",
    b"cache-control": b"no-cache",
}


class Guard:
    """ASGI middleware before everything else; `open_paths` need no token.

    A path under that of a public origin is answered as if the proxy had taken that part away.
    """

    def __init__(self, app: ASGIApp, config: ServeConfig, open_paths: Collection[str]) -> None:
        self.app, self.config, self.open_paths = app, config, open_paths
        self.origins = [Origin.read(one) for one in config.origin]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        scope = self._below(scope)
        refusal = self._refusal(HTTPConnection(scope))
        if refusal and scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": refusal})
        elif refusal:
            await JSONResponse({"error": refusal}, 403)(scope, receive, send)
        elif scope["path"] == "":
            await _slash(scope)(scope, receive, send)
        else:
            await self.app(scope, receive, _with_headers(send) if scope["type"] == "http" else send)

    def _below(self, scope: Scope) -> Scope:
        """The request with its path below that of the public address."""
        path: str = scope["path"]
        for origin in self.origins:
            if origin.path and (path + "/").startswith(origin.path + "/"):
                rest = path[len(origin.path) :]
                return {**scope, "path": rest, "raw_path": rest.encode(), "below": origin.path}
        return scope

    def _refusal(self, request: HTTPConnection) -> str:
        host = request.headers.get("host", "")
        if not self._own_name(host):
            return "this server answers to its own loopback address only; for another name give it --origin"
        origin = request.headers.get("origin")
        if origin is not None and not self._own_origin(origin, host):
            return "requests from other origins are not answered; behind a proxy give --origin https://public.name"
        if self.config.token and request.url.path not in self.open_paths:
            given = request.query_params.get("token") or request.headers.get("x-token", "")
            if not hmac.compare_digest(given.encode(), self.config.token.encode()):
                return "the token is missing or wrong; open the address that ms-serve printed"
        return ""

    def _own_name(self, host: str) -> bool:
        """Whether a Host header is ours; a foreign name that points at a loopback server is DNS rebinding."""
        name, _ = split_host(host)
        return not self.config.loopback or is_loopback(name) or name in [origin.name for origin in self.origins]

    def _own_origin(self, text: str, host: str) -> bool:
        """Whether an Origin header names the address that was asked, or a public one."""
        origin = Origin.read_or_none(text)
        if origin is None:
            return False
        name, port = split_host(host)
        asked = name, origin.default_port if port is None else port
        return asked == (origin.name, origin.port) or origin.place in [one.place for one in self.origins]


def _slash(scope: Scope) -> Response:
    """To the folder: names on the page are relative to it."""
    query = scope["query_string"].decode("latin-1")
    return RedirectResponse(f"{scope['below']}/" + (f"?{query}" if query else ""))


def _with_headers(send: Send) -> Send:
    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            present = {name.lower() for name, _ in message["headers"]}
            message["headers"] = [*message["headers"], *((n, v) for n, v in SECURITY.items() if n not in present)]
        await send(message)

    return wrapped
