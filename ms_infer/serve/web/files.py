"""Files in and out of a session: pictures and videos that its owner sends, the recording that it fetches."""

from __future__ import annotations

import asyncio
import hmac
import io
from dataclasses import replace

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from ms_infer.serve.hub import Hub
from ms_infer.serve.pictures.thing import find_thing
from ms_infer.serve.pictures.uploads import read_motion, read_picture
from ms_infer.serve.protocol import Message, read_picked
from ms_infer.serve.saved import unpack
from ms_infer.serve.session import Session
from ms_infer.serve.settings import Limits

PLACES_BYTES = 16 * 1024
"""Most bytes that the places of a thing may have."""


class SessionFiles:
    """Answers below /api/sessions/ID; every request needs the session's key."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.hub: Hub
        self._decodes = asyncio.Semaphore(limits.decodes)

    def routes(self) -> list[Route]:
        below = "/api/sessions/{session}"
        return [
            Route(f"{below}/image", self.image, methods=["POST"]),
            Route(f"{below}/thing", self.thing, methods=["POST"]),
            Route(f"{below}/video", self.video, methods=["POST"]),
            Route(f"{below}/recording", self.recording),
            Route(f"{below}/snapshot", self.snapshot),
            Route(f"{below}/snapshot", self.resume, methods=["POST"]),
        ]

    async def image(self, request: Request) -> Response:
        session = self._owned(request)
        config = session.stream.config
        data = await self._body(request, self.limits.image_bytes)
        async with self._decodes:
            image = await asyncio.to_thread(read_picture, data, config.height, config.width, self.limits)
        session.maker.image = image
        session.begin()
        return JSONResponse({"width": config.width, "height": config.height})

    async def thing(self, request: Request) -> Response:
        session = self._owned(request)
        places = read_picked(await self._body(request, PLACES_BYTES))
        if (picture := session.picture) is None:
            raise HTTPException(409, "there is no picture yet")
        async with self._decodes:
            layers = self.hub.context.layers
            thing = await asyncio.to_thread(find_thing, picture, places.add, places.omit, layers)
        return JSONResponse({"outline": thing.outline, "points": thing.points} if thing else {})

    async def video(self, request: Request) -> Response:
        session = self._owned(request)
        config = session.stream.config
        data = await self._body(request, self.limits.video_bytes)
        async with self._decodes:
            tracks = await asyncio.to_thread(read_motion, data, config.height, config.width, session.fps, self.limits)
        session.hand.play(tracks, loop=request.query_params.get("loop") == "true")
        session.note(Message())
        return JSONResponse({"tracks": tracks.count, "seconds": round(tracks.seconds, 2)})

    async def recording(self, request: Request) -> Response:
        session = self._owned(request)
        if session.recording.file is None:
            raise HTTPException(404, "nothing is recorded; press the record button first")
        return FileResponse(session.recording.file, media_type="video/mp4", filename=f"motion-{session.id}.mp4")

    async def snapshot(self, request: Request) -> Response:
        session = self._owned(request)
        saved = await session.save()
        facts = replace(saved.facts, key="")  # a file may be given away
        data = await asyncio.to_thread(replace(saved, facts=facts).pack)
        return Response(data, media_type="application/octet-stream")

    async def resume(self, request: Request) -> Response:
        session = self._owned(request)
        data = await self._body(request, self.limits.snapshot_bytes)
        async with self._decodes:
            saved = await asyncio.to_thread(unpack, data, session.stream.config)
        await session.load(saved)
        session.note(Message())
        return JSONResponse({"chunk": session.maker.chunk, "state": session.state})

    def _owned(self, request: Request) -> Session:
        """The session of the path; its key must come along."""
        session = self.hub.sessions.get(request.path_params["session"])
        key = request.headers.get("x-session-key", "")
        if session is None or not hmac.compare_digest(session.key.encode(), key.encode()):
            raise HTTPException(404, "there is no such session, or it is not yours")
        return session

    async def _body(self, request: Request, limit: int) -> bytes:
        """The whole body; nothing beyond `limit` bytes is kept, and one that no longer grows is given up."""
        too_large = HTTPException(413, f"an upload may have {limit // 2**20} MiB")
        length = request.headers.get("content-length", "")
        if length.isdigit() and int(length) > limit:
            raise too_large
        limits, buffer, noted = self.limits, io.BytesIO(), 0
        try:
            async with asyncio.timeout(limits.upload_seconds) as patience:
                async for part in request.stream():
                    if buffer.tell() + len(part) > limit:
                        raise too_large
                    buffer.write(part)
                    if buffer.tell() - noted >= limits.upload_progress:
                        noted = buffer.tell()
                        patience.reschedule(asyncio.get_running_loop().time() + limits.upload_seconds)
        except TimeoutError:
            raise HTTPException(408, f"nothing of the upload came for {limits.upload_seconds:g} seconds") from None
        return buffer.getvalue()
