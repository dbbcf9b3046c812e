"""Where every tensor of the stages lies on the device, decided once before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from numpy.typing import NDArray

from ms_infer.bundle.stages import StageSpec, TensorSpec
from ms_infer.config import StreamConfig
from ms_infer.engines.tensorrt.cuda import Arena, Cuda

PASS_INPUTS = ("time", "sigma", "next_sigma", "noise")
"""Inputs of `denoise` that differ between the passes of a chunk."""
ONCE = ("text", "condition", "encode")
"""Stages that run when a stream starts or a prompt changes, not in every chunk."""
STATES = ("encoder", "decoder")
_SIDES = ("encoder", "encoder_out", "decoder", "decoder_out")


class StageMemory:
    """All device memory of a stream in a few arenas.

    `chunk`: what the host fills for a chunk, one upload: points, tables, indices, first noise, and one block of
    `PASS_INPUTS` per pass. `bound`: the block that `denoise` is bound to; each pass copies its own there. `once`:
    inputs outside the loop. `states`: what encoder and decoder read and, apart from it, what they wrote: `commit`
    copies the second over the first. `caches`, `keys` (cross-attention), `work` (handed from stage to stage).
    Stages share a tensor by name and shape.
    """

    def __init__(self, cuda: Cuda, config: StreamConfig, specs: Mapping[str, StageSpec], passes: int) -> None:
        self._specs, self._model = specs, config.model
        denoise = specs["denoise"]
        self._inputs = {spec.name: spec for spec in denoise.inputs}
        self._cached = {old for spec in specs.values() for old, _ in spec.aliases}
        groups = self._groups()
        blocks = [(f"{name}/{i}", self._inputs[name]) for i in range(passes) for name in PASS_INPUTS]
        self.bound = Arena(cuda, [(name, self._inputs[name]) for name in PASS_INPUTS])
        self.chunk = Arena(cuda, [*groups["chunk"], *blocks], twin=True)
        self.once = Arena(cuda, groups["once"], twin=True)
        self.caches = Arena(cuda, groups["caches"])
        self.keys = Arena(cuda, groups["keys"])
        self.work = Arena(cuda, groups["work"])
        self.states = {name: Arena(cuda, groups[name]) for name in _SIDES}
        capacity = config.context.cache_frames + config.context.chunk_frames
        self.history_frames = capacity
        frames = {slot: self._slot_spec(slot) for slot, _ in config.model.layout}
        self.history = Arena(
            cuda, [(slot, TensorSpec(slot, (capacity, *s.shape[2:]), s.dtype)) for slot, s in frames.items()]
        )

    def _slot_spec(self, slot: str) -> TensorSpec:
        return self._inputs["x" if slot == "noise" else slot]

    def _groups(self) -> dict[str, list[tuple[str, TensorSpec]]]:
        """Arena -> its tensors under their keys."""
        names = ["chunk", "once", "caches", "keys", "work", *_SIDES]
        groups: dict[str, list[tuple[str, TensorSpec]]] = {name: [] for name in names}
        for stage, tensor, is_input in self._tensors():
            group = self._group(stage, tensor, is_input)
            if group is not None:
                groups[group].append((self.key(stage, tensor), tensor))
        return groups

    def _tensors(self) -> Iterator[tuple[str, TensorSpec, bool]]:
        for stage, spec in self._specs.items():
            yield from ((stage, tensor, True) for tensor in spec.inputs)
            yield from ((stage, tensor, False) for tensor in spec.outputs)

    def _group(self, stage: str, tensor: TensorSpec, is_input: bool) -> str | None:
        """Arena of a tensor; None for one that lies in another's memory."""
        name = tensor.name
        if (name in PASS_INPUTS and stage == "denoise") or self._is_window(stage, name):
            return None
        if name.removesuffix("_out") in self._cached:
            return "caches" if is_input else None
        if name.startswith("cross_"):
            return "keys"
        for kind in STATES:
            if name.startswith(f"{kind}_"):
                return kind if is_input else f"{kind}_out"
        if stage in ONCE or (name == "image" and stage.startswith("points")):
            return "once"
        handed_on = stage.startswith(("tracks", "decode")) or (stage == "denoise" and self._is_track(name))
        made_by_stages = not is_input or handed_on
        return "work" if made_by_stages else "chunk"

    def _is_track(self, name: str) -> bool:
        return name == "track" and "tracks" in self._specs

    def _is_window(self, stage: str, name: str) -> bool:
        """Whether a tensor is the beginning of another: latents of `x`, track latents of their slot."""
        return name == "latents" or (name == "track" and stage.startswith("tracks"))

    def key(self, stage: str, tensor: TensorSpec) -> str:
        """Name of a tensor within its arena: stages that hand a tensor on give it the same one."""
        name = "embedded" if (stage, tensor.name) == ("text", "text") else tensor.name
        return f"{name} {'x'.join(map(str, tensor.shape))}"

    def address(self, stage: str, tensor: TensorSpec) -> int:
        """Device address of a stage's input or output; an aliased output is asked for by its input."""
        name = tensor.name
        if name == "latents":
            return self.address("denoise", self._inputs["x"])
        if name == "track" and stage.startswith("tracks"):
            return self.address("denoise", self._inputs["track"])
        if name in PASS_INPUTS and stage == "denoise":
            return self.bound.at(name)
        is_input = tensor in self._specs[stage].inputs
        group = self._group(stage, tensor, is_input)
        assert group is not None, "windows and caches are asked for above"
        arena = self.states[group] if group in self.states else getattr(self, group)
        at: int = arena.at(self.key(stage, tensor))
        return at

    def host(self, stage: str, tensor: TensorSpec) -> NDArray[Any]:
        """The array through which the host fills or reads a tensor of the `chunk` or `once` arena."""
        key = self.key(stage, tensor)
        return self.chunk.host(key) if key in self.chunk else self.once.host(key)

    def pass_host(self, index: int, name: str) -> NDArray[Any]:
        """The array of one of `PASS_INPUTS` for one pass."""
        return self.chunk.host(f"{name}/{index}")

    def pass_address(self, index: int) -> int:
        """Device address of the block of a pass, laid out like `bound`."""
        return self.chunk.at(f"{PASS_INPUTS[0]}/{index}")

    def slot_address(self, slot: str) -> int:
        """Device address of a slot of the transformer's input."""
        return self.address("denoise", self._slot_spec(slot))

    def frame_bytes(self, slot: str) -> int:
        """Bytes of one latent frame of a slot."""
        spec = self._slot_spec(slot)
        count = 1
        for size in spec.shape[2:]:
            count *= size
        return 4 * count
