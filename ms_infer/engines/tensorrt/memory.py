"""Where every tensor of the stages lies on the device, decided once before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from ms_infer.bundle.stages import StageSpec, TensorSpec
from ms_infer.config import StreamConfig
from ms_infer.engines.runner import ALL_KINDS, PASS_INPUTS, STATEFUL, PassInputs, followers, named, window_of
from ms_infer.engines.tensorrt.cuda import Arena, Cuda

ONCE = ("text", "condition", "encode", "encode_grey", "look")
"""Stages that run when a stream starts or a prompt changes, not in every chunk."""
_SIDES = tuple(f"{kind}{side}" for kind in ALL_KINDS for side in ("", "_out"))


class StageMemory:
    """All device memory of a stream in a few arenas, laid out by the roles of the tensors.

    `chunk`: what the host fills for a chunk, one upload: points, tables, indices, first noise, and one block of
    `PASS_INPUTS` per pass. `bound`: the block that `denoise` is bound to; each pass copies its own there. `once`:
    what the host fills and reads outside the loop. `states`: what encoder and decoder read and, apart from it, what
    they wrote: a commit copies the second over the first. `caches`, and `work`: handed from stage to stage. Stages
    share a tensor by name and shape.
    """

    def __init__(self, cuda: Cuda, config: StreamConfig, specs: Mapping[str, StageSpec], passes: int) -> None:
        self._specs, self._model = specs, config.model
        self._followers = followers(specs)
        self._inputs = {tensor.name: tensor for tensor in specs["denoise"].inputs}
        groups = self._groups()
        blocks = [(f"{name}/{i}", self._inputs[name]) for i in range(passes) for name in PASS_INPUTS]
        self.bound = Arena(cuda, [(name, self._inputs[name]) for name in PASS_INPUTS])
        self.chunk = Arena(cuda, [*groups["chunk"], *blocks], twin=True)
        self.once = Arena(cuda, groups["once"], twin=True)
        self.caches = Arena(cuda, groups["caches"])
        self.work = Arena(cuda, groups["work"])
        self.states = {name: Arena(cuda, groups[name]) for name in _SIDES}
        self.history_frames = capacity = config.context.remembered_frames
        slots = {slot: self.slot(slot) for slot, _ in config.model.layout}
        self.history = Arena(cuda, [(slot, replace(s, shape=(capacity, *s.shape[2:]))) for slot, s in slots.items()])

    def _groups(self) -> dict[str, list[tuple[str, TensorSpec]]]:
        """Arena -> its tensors under their keys."""
        names = ("chunk", "once", "caches", "work", *_SIDES)
        groups: dict[str, list[tuple[str, TensorSpec]]] = {name: [] for name in names}
        for stage, tensor in self._tensors():
            if tensor.role != "pass" and window_of(self._specs, stage, tensor) is None:
                groups[self._group(stage, tensor)].append((self.key(stage, tensor), tensor))
        filled = {key for key, _ in groups["once"]}  # what a stage is handed of the host's, it reads there
        groups["work"] = [(key, tensor) for key, tensor in groups["work"] if key not in filled]
        return groups

    def _tensors(self) -> Iterator[tuple[str, TensorSpec]]:
        """Every tensor of every stage; caches that are written in place by their input alone."""
        for stage, spec in self._specs.items():
            written = {new for _, new in spec.aliases}
            yield from ((stage, tensor) for tensor in spec.tensors if tensor.name not in written)

    def _group(self, stage: str, tensor: TensorSpec) -> str:
        """Arena of a tensor."""
        if tensor.role == "cache":
            return "caches"
        if tensor.role == "state":
            return STATEFUL[stage] + ("_out" if tensor.name in self._followers else "")
        if tensor.role == "host" and stage in ONCE:
            return "once"
        return "chunk" if tensor.role == "host" and tensor in self._specs[stage].inputs else "work"

    def key(self, stage: str, tensor: TensorSpec) -> str:
        """Name of a tensor within its arena: stages that hand a tensor on give it the same one."""
        read = tensor.role == "host" and tensor in self._specs[stage].outputs  # another stage may have such an input
        return f"{stage + '.' if read else ''}{tensor.name} {'x'.join(map(str, tensor.shape))}"

    def address(self, stage: str, tensor: TensorSpec) -> int:
        """Device address of a stage's input or output; an aliased output is asked for by its input."""
        whole = window_of(self._specs, stage, tensor)
        if whole is not None:
            return self.address("denoise", whole)
        if tensor.role == "pass":
            return self.bound.at(tensor.name)
        key, group = self.key(stage, tensor), self._group(stage, tensor)
        if group == "work" and key in self.once:
            group = "once"
        arena: Arena = self.states[group] if group in self.states else getattr(self, group)
        return arena.at(key)

    def host(self, stage: str, name: str) -> NDArray[Any]:
        """The array through which the host fills or reads a tensor of the `chunk` or `once` arena."""
        key = self.key(stage, named(self._specs[stage], name))
        return self.chunk.host(key) if key in self.chunk else self.once.host(key)

    def once_keys(self, tensors: tuple[TensorSpec, ...], stage: str) -> list[str]:
        """Those of a stage's tensors that lie in the `once` arena."""
        keys = (self.key(stage, tensor) for tensor in tensors if tensor.role == "host")
        return [key for key in keys if key in self.once]

    def pass_inputs(self, index: int) -> PassInputs:
        """The host's arrays of one pass."""
        return PassInputs(**{name: self.chunk.host(f"{name}/{index}") for name in PASS_INPUTS})

    def pass_address(self, index: int) -> int:
        """Device address of the block of a pass, laid out like `bound`."""
        return self.chunk.at(f"{PASS_INPUTS[0]}/{index}")

    def slot(self, slot: str) -> TensorSpec:
        """A slot of the transformer's input."""
        return self._inputs["x" if slot == "noise" else slot]

    def history_runs(self, start: int, frames: int) -> list[tuple[int, int, int]]:
        """(address in the input, address in the history, bytes) of runs of latent frames in a row."""
        first = start % self.history_frames
        before_end = min(frames, self.history_frames - first)
        runs = [(0, first, before_end), (before_end, 0, frames - before_end)]
        found = []
        for slot, _ in self._model.layout:
            tensor = self.slot(slot)
            size = tensor.nbytes // tensor.shape[1]
            here, there = self.address("denoise", tensor), self.history.at(slot)
            found += [(here + a * size, there + b * size, count * size) for a, b, count in runs if count]
        return found
