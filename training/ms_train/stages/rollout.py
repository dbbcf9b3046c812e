"""A stream inside training: the inference context code, chunk by chunk, with a gradient through one pass a chunk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from ms_infer.config import Placement
from ms_infer.model.context import ContextCache
from ms_infer.model.denoise import next_latents
from ms_infer.model.transformer import CrossKeys
from ms_infer.numerics.schedule import denoise_steps
from ms_train.students import Network, image_slots

Noise = Callable[[int, int, torch.Size], Tensor]
"""(chunk, pass, shape) -> standard normal values."""


class RolloutCache(ContextCache):
    """The inference cache with fresh rotary tables for every chunk: a gradient still needs the older ones."""

    def place_(self, start: int, frames: int) -> Placement:
        """See `ContextCache.place_`."""
        self._rotations = {}
        return super().place_(start, frames)


def generator_noise(generator: torch.Generator) -> Noise:
    """Noise of a stage's generator."""

    def draw(chunk: int, denoise_pass: int, shape: torch.Size) -> Tensor:
        return torch.randn(shape, generator=generator, device=generator.device)

    return draw


def rollout(
    network: Network,
    track: Tensor,
    first: Tensor,
    keys: CrossKeys,
    noise: Noise,
    *,
    exits: Sequence[int] | None = None,
    gradient_from: int | None = None,
) -> Tensor:
    """Stream x0 `[B, F, C, h, w]` as inference does: K passes a chunk, then the clean pass into the cache.

    track: track latents `[B, F, channels, h, w]`; first: latent of the first frame `[B, 1, C, h, w]`.
    exits: the pass whose x0 ends each chunk (Self Forcing section 3.2), None for the last one: then the result is
    that of `Stream`. Chunks from number `gradient_from` on carry a gradient through their last pass; what is in the
    cache is constant. Under autocast use `cache_enabled=False`: a cast made without gradient would be reused with it.
    """
    stream, context = network.stream, network.stream.context
    batch, frames = track.shape[:2]
    kind = track.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else track.dtype
    cache = RolloutCache(stream, batch=batch, device=track.device, dtype=dtype)
    steps, chunks = denoise_steps(stream.schedule), []
    count, start = 0, 0
    while start < frames:
        size = context.span(count).frames
        cache.place_(start, size)
        part = track[:, start : start + size]
        image = image_slots(stream, first, size, start)
        shape = torch.Size((batch, size, *first.shape[2:]))
        leave = len(steps) - 1 if exits is None else exits[count]
        x = noise(count, 0, shape)
        passes = [*steps[:leave], replace(steps[leave], next_sigma=0.0)]  # where it leaves, x0 is the result
        for number, step in enumerate(passes):
            with_gradient = number == leave and gradient_from is not None and count >= gradient_from
            with torch.set_grad_enabled(with_gradient):
                timestep = torch.full((batch, size), step.timestep, dtype=torch.float64, device=x.device)
                flow = network.flow(x, timestep, part, image, keys, cache)
                x = next_latents(x, flow, step, partial(noise, count, number + 1, shape))
        with torch.no_grad():
            timestep = torch.full_like(timestep, stream.schedule.context_timestep)
            network.flow(x.detach().to(first.dtype), timestep, part, image, keys, cache)
        chunks.append(x)
        start += size
        count += 1
    return torch.cat(chunks, dim=1)
