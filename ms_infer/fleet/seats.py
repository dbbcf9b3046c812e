"""The streams of one engine: what was asked of them is applied at their place, and nowhere else. One thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ms_infer.chunk import Chunk
from ms_infer.config import StreamConfig
from ms_infer.errors import ConfigError
from ms_infer.fleet.config import SMALL_BYTES, Keep
from ms_infer.fleet.remote import Ask, Lost
from ms_infer.fleet.vault import Place
from ms_infer.serve.making import StreamLike
from ms_infer.serve.saved import pack_stream, unpack_stream
from ms_infer.state import StreamState


class EngineSeats:
    """Opens a stream for each seat; the first one is opened and warmed ahead."""

    def __init__(self, opens: Callable[[], StreamLike], keep: Keep) -> None:
        self._open, self._keep = opens, keep
        self._streams: dict[str, tuple[StreamLike, Place]] = {}
        self._spare: StreamLike | None = opens()
        self.config: StreamConfig = self._spare.config
        self._near: bool | None = None  # whether states are kept near, once one told how large they are

    def warm(self) -> Callable[[], Chunk]:
        """A stream that is nobody's, begun: what makes its next chunk."""
        assert self._spare is not None, "nobody has taken it yet"
        self._spare.start()
        self._spare.step()
        self._small(self._spare)
        return self._spare.step

    def step(self, seat: str, place: Place, asks: list[Ask]) -> Chunk:
        """Make the chunk at `place`; Lost when the stream is not there, or stands elsewhere."""
        stream = self._asked(seat, place, asks)
        chunk = stream.step()
        self._streams[seat] = stream, Place(place.epoch, place.chunk + 1)
        return chunk

    def adopt(self, seat: str, place: Place, state: bytes | None, log: list[list[Ask]]) -> None:
        """Take in a stream that stands at `place`, and make again what came since."""
        self.drop(seat)
        if state is not None:
            self._load(self._take(seat, place), state)
        for chunk, asks in enumerate(log, place.chunk):
            self.step(seat, Place(place.epoch, chunk), asks)

    def state(self, seat: str, place: Place, asks: list[Ask]) -> bytes:
        """The exact state at `place`, with what was asked since."""
        return pack_stream(self._asked(seat, place, asks).state())

    def kept(self, seat: str) -> tuple[Place, bytes]:
        """The state that is kept of a stream, and where it stands; Lost when it is not there."""
        if seat not in self._streams:
            raise Lost("the stream has ended")
        stream, place = self._streams[seat]
        return place, pack_stream(self._small(stream))

    def embed(self, prompt: Any) -> Any:
        """See `Stream.embed`."""
        streams = [stream for stream, _ in self._streams.values()]
        return (streams[0] if streams else self._ahead()).embed(prompt)

    def drop(self, seat: str) -> None:
        """A stream has ended here."""
        if seat in self._streams:
            stream, _ = self._streams.pop(seat)
            if self._spare is None:
                self._spare = stream
            else:
                stream.close()

    def close(self) -> None:
        """End all."""
        for seat in list(self._streams):
            self.drop(seat)

    @property
    def held(self) -> list[str]:
        """Seats that have a stream."""
        return list(self._streams)

    def _ahead(self) -> StreamLike:
        self._spare = self._spare or self._open()
        return self._spare

    def _take(self, seat: str, place: Place) -> StreamLike:
        if seat not in self._streams:
            self._streams[seat] = self._ahead(), place
            self._spare = None
        stream, _ = self._streams[seat]
        self._streams[seat] = stream, place
        return stream

    def _asked(self, seat: str, place: Place, asks: list[Ask]) -> StreamLike:
        begins = bool(asks) and asks[0][0] in ("start", "load")
        found = self._streams.get(seat)
        if not begins and (found is None or found[1] != place):
            raise Lost(f"the stream stands at {None if found is None else tuple(found[1])} here")
        stream = self._take(seat, place)
        for kind, *what in asks:
            if kind == "start":
                stream.start(*what[:3], seed=what[3])
            elif kind == "load":
                self._load(stream, what[0])
            elif kind == "tracks":
                stream.set_tracks(what[0])
            else:
                stream.set_prompt(what[0], **what[1])
        return stream

    def _load(self, stream: StreamLike, state: bytes) -> None:
        stream.load_state(unpack_stream(state, self.config))

    def _small(self, stream: StreamLike) -> StreamState:
        """The state that is kept: the exact one, or a near one where that was asked for or is worth it.

        ConfigError where a near one was asked for and the engine has none.
        """
        if self._near is None:
            exact = stream.state()
            self._near = self._keep == "near" or (self._keep == "auto" and exact.nbytes >= SMALL_BYTES)
            if not self._near:
                return exact
        if self._near:
            try:
                return _near_state(stream)
            except ConfigError as error:
                if self._keep == "near":
                    raise ConfigError(f"--keep near: {error}; start the fleet with --keep exact") from None
                self._near = False
        return stream.state()


def _near_state(stream: StreamLike) -> StreamState:
    make: Callable[[], StreamState] | None = getattr(stream, "near_state", None)
    if make is None:
        raise ConfigError("the streams of this engine have no near states")
    return make()
