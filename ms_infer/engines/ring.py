"""Where the latent frames of a stream lie in the caches of a bundle."""

from __future__ import annotations

from dataclasses import dataclass

from ms_infer.config import ContextConfig


@dataclass(frozen=True)
class Move:
    """Slots of all caches that are copied to others, in this order where they overlap: lowest first."""

    target: int
    source: int
    slots: int


class Ring:
    """The slots of sink and ring, where the ring may begin with any latent frame.

    Some engines write the keys of a whole chunk in one row (`in_a_row`). Where the next chunk would run over the end of
    the ring, the window moves to the ring's beginning first, once per lap at most. Contexts in multiples of the chunk
    never need that.
    """

    def __init__(self, context: ContextConfig, *, in_a_row: bool) -> None:
        self._context, self._in_a_row = context, in_a_row
        self.reset()

    def reset(self, sink_start: int = 0, start: int | None = None) -> None:
        """Begin again behind a sink that begins with this latent frame; `start` as it was saved."""
        self.sink_start = sink_start
        self.start = sink_start + self._context.sink_frames if start is None else start
        """A latent frame in the ring's first slot."""

    def slots(self, start: int) -> list[int]:
        """Slots of a whole chunk from the latent frame `start` on; only the first counts where they are in a row."""
        frames = range(start, start + self._context.chunk_frames)
        return [self._context.slot(f, sink_start=self.sink_start, ring_start=self.start) for f in frames]

    def make_room(self, start: int) -> Move | None:
        """Let the slots of the chunk at `start` be in a row; what has to be moved before it is written.

        Asked again for the same chunk, nothing: a chunk that failed can be made again.
        """
        context = self._context
        place = (start - self.start) % context.ring_frames
        if not self._in_a_row or start < self.start or place + context.chunk_frames <= context.ring_frames:
            return None
        self.start = start - context.window_frames
        sink, window = context.sink_frames, context.window_frames
        return Move(sink, sink + place - window, window) if window else None

    def unroll(self, made: int) -> None:
        """Let all frames of the context lie in the order of time; the caller writes every slot of the ring again."""
        self.start = max(self.sink_start + self._context.sink_frames, made - self._context.ring_frames)
