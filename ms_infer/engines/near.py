"""A context from its latents: which clean passes, in which order, make the keys and values anew."""

from __future__ import annotations

from ms_infer.config import ContextConfig


def opening_frames(context: ContextConfig) -> int:
    """Latent frames from the first one of the sink on that are kept apart: the chunks that the sink lies in."""
    return context.sink_frames + context.chunk_frames - 1 if context.sink_frames else 0


def rebuilding_runs(context: ContextConfig, made: int, sink_start: int) -> list[range]:
    """Latent frames of each pass, in order, after `made` of them; every pass attends to what the ones before wrote.

    The sink comes first, chunk by chunk as it was made. Where the frames behind it are all remembered, so do they, and
    the result is the same. Elsewhere one pass fills the ring with the oldest frames that are remembered, which lack
    what lay before them, and the chunks that follow are made again with as much context as they had.
    """

    def chunks(start: int, until: int) -> list[range]:
        found = []
        while start < until:
            end = start + 1 + (made - start - 1) % context.chunk_frames  # of its chunk
            found.append(range(start, end))
            start = end
        return found

    runs = chunks(sink_start, min(sink_start + context.sink_frames, made))
    behind = runs[-1].stop if runs else sink_start
    oldest = max(made - context.cache_frames, 0)
    if oldest > behind:
        runs.append(range(oldest, oldest + context.ring_frames))
        behind = oldest + context.window_frames
        behind += (made - behind) % context.chunk_frames
    return runs + chunks(behind, made)
