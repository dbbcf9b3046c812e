"""Streams of one engine, or of two side by side, chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from ms_export.stimulus import example_image, example_player, example_prompt
from ms_infer.bundle.stages import StageSpec, cache_name, relative_sink
from ms_infer.engines.base import Array, ChunkPlan, Engine, plan_chunk
from ms_infer.engines.staged import StagedEngine
from ms_infer.engines.torch import TorchEngine

Frames = NDArray[np.uint8]


def chunk_pairs(
    reference: TorchEngine, engine: StagedEngine, chunks: int, *, same_context: bool = True, seed: int = 0
) -> Iterator[tuple[Frames, Frames]]:
    """Frames of PyTorch and of the engine, chunk by chunk, of the example's stream.

    same_context: start every chunk of the engine from PyTorch's state; else both run freely.
    """
    config = engine.config
    player = example_player(config)
    for one in (reference, engine):
        _prepare(one)
    for index in range(chunks):
        plan = plan_chunk(config, index, player, seed)
        if same_context and index:
            engine.restore(staged_state(reference, engine.specs))
        expected = run_chunk(reference, plan).copy()
        yield expected, run_chunk(engine, plan).copy()


def rollout(engine: Engine, chunks: int, seed: int = 0) -> Iterator[Frames]:
    """Frames of the example's stream, chunk by chunk."""
    player = example_player(engine.config)
    _prepare(engine)
    for index in range(chunks):
        yield run_chunk(engine, plan_chunk(engine.config, index, player, seed)).copy()


def _prepare(engine: Engine) -> None:
    config = engine.config
    engine.reset()
    engine.set_text(engine.embed(example_prompt() if config.model.text.kind == "words" else ""))
    given = config.model.image_input == "prefill"  # then an image shifts all chunks: compare a stream from nothing
    engine.set_image(None if given else example_image(config.height, config.width))


def run_chunk(engine: Engine, plan: ChunkPlan) -> Frames:
    """One chunk, committed."""
    engine.generate(plan)
    frames = engine.frames()
    engine.commit()
    return frames


def staged_state(engine: TorchEngine, specs: Mapping[str, StageSpec]) -> dict[str, Array]:
    """The state of the PyTorch engine (fp32) in the form that engines of stages restore."""
    found = engine.state()
    config = engine.config
    made, sink_start = found["counters"]
    ring_start = sink_start + config.context.sink_frames  # PyTorch's ring begins behind its sink
    state: dict[str, Array] = {"counters": np.array([made, sink_start, ring_start], np.int64)}
    for kind in ("k", "v", "sink_k") if relative_sink(config) else ("k", "v"):
        state |= {f"cache.{cache_name(kind, layer)}": found[kind][layer] for layer in range(config.model.layers)}
    for ours, theirs in (("encoder", "moved"), ("decoder", "decoder")):
        stage = "tracks" if ours == "encoder" else "decode"
        count = len(specs[stage].states) if stage in specs else 0
        state |= {f"state.{ours}_{i}": found[f"{theirs}.{i}"] for i in range(count)}
    ends = np.cumsum([channels for _, channels in config.model.layout])
    frames = np.split(found["history"][0], ends[:-1], axis=1)
    return state | {f"history.{slot}": part for (slot, _), part in zip(config.model.layout, frames, strict=True)}
