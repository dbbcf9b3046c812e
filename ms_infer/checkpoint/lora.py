"""Merges a LoRA adapter (LongLive, peft, diffusers) into the weights of a transformer."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ms_infer.checkpoint.files import CheckpointFile, check_finite, listed, read_checkpoint, read_json
from ms_infer.checkpoint.names import is_diffusers, strip_wrappers, to_original
from ms_infer.errors import CheckpointError

logger = logging.getLogger(__name__)

_DOWN = (".lora_A.default.weight", ".lora_A.weight", ".lora_down.weight")
_UP = (".lora_B.default.weight", ".lora_B.weight", ".lora_up.weight")
_ALPHA = ".alpha"
_WRAPPERS = ("generator_lora", "state_dict")
_VARIANTS = ("use_rslora", "use_dora", "alpha_pattern", "rank_pattern", "modules_to_save")
_PREFIXES = ("base_model.model.", "transformer.", "diffusion_model.")


@dataclass(frozen=True)
class Lora:
    """The low-rank updates of one adapter: `weight += alpha / rank * up @ down`."""

    down: Mapping[str, Tensor]
    """`[rank, in]` by the original name of the module."""
    up: Mapping[str, Tensor]
    """`[out, rank]` by the original name of the module."""
    alphas: Mapping[str, float]
    """Alpha of the modules whose file states it."""
    origin: str
    alpha: float | None = None
    """Alpha of all other modules; None where the file does not state it."""
    rank: int | None = None
    """Rank that the adapter's configuration states; the shapes decide, this only has to agree."""
    files: tuple[Path, ...] = ()
    """Every file that was read for it."""


def read_lora(path: str | Path) -> Lora:
    """Read an adapter: LongLive's lora.pt (`generator_lora` or bare), or a peft folder or safetensors file.

    Alpha is taken from the file or from adapter_config.json beside it. CheckpointError: as `read_checkpoint`,
    tensors that are no LoRA factors, a factor without its partner.
    """
    path = Path(path)
    beside = (path if path.is_dir() else path.parent) / "adapter_config.json"
    described = read_json(beside) if beside.is_file() else {}
    variants = [key for key in _VARIANTS if described.get(key)]
    if variants:
        raise CheckpointError(f"{beside} asks for {listed(variants)}; only plain LoRA with one alpha can be merged")
    weights = path / "adapter_model.safetensors"
    file = read_checkpoint(weights if weights.is_file() else path, wrappers=_WRAPPERS)
    adapter = parse_lora(file, alpha=_number(described.get("lora_alpha")), rank=_integer(described.get("r")))
    return replace(adapter, files=(*file.files, beside) if described else file.files)


def parse_lora(file: CheckpointFile, *, alpha: float | None = None, rank: int | None = None) -> Lora:
    """Pair the factors of a file that is already read; see `read_lora`."""
    down: dict[str, Tensor] = {}
    up: dict[str, Tensor] = {}
    alphas: dict[str, float] = {}
    strange: list[str] = []
    names = {name: _stripped(name) for name in file.tensors}
    diffusers = is_diffusers(names.values())
    for name, tensor in file.tensors.items():
        module, kind = _module(names[name])
        module = to_original(module) if diffusers else module
        target = {"down": down, "up": up}.get(kind)
        if kind == "alpha" and tensor.numel() == 1:
            alphas[module] = float(tensor)
        elif target is None or module in target or tensor.ndim != 2:
            strange.append(name)
        else:
            target[module] = tensor
    if strange or not down:
        held = f"tensors that are no LoRA factors: {listed(strange)}" if strange else "no LoRA factor"
        raise CheckpointError(f"{file.path} holds {held}; expected pairs X.lora_A.weight, X.lora_B.weight")
    single = sorted(set(down) ^ set(up))
    if single:
        raise CheckpointError(f"{file.path} has only one of the two LoRA factors of {listed(single)}; it is incomplete")
    check_finite(file.tensors, str(file.path))
    return Lora(down, up, alphas, str(file.path), alpha, rank)


def merge_lora(
    weights: Mapping[str, Tensor],
    lora: Lora,
    *,
    alpha: float | None = None,
    rank: int | None = None,
    dtype: torch.dtype | None = None,
) -> dict[str, Tensor]:
    """Return the weights with `alpha / rank * up @ down` added, computed in float32.

    The changed weights get `dtype`, or keep theirs: bfloat16 weights then round the sum.
    weights: tensors by original name; those that the adapter does not touch are passed on uncopied. alpha and
    rank override what the adapter states; rank must equal that of the factors. CheckpointError: alpha unknown,
    a module that the model has not, shapes or ranks that do not fit.
    """
    unknown = sorted(module for module in lora.down if f"{module}.weight" not in weights)
    if unknown:
        raise CheckpointError(f"{lora.origin} changes what the model has not: {listed(unknown)}; use its own base")
    merged = dict(weights)
    for module, down in lora.down.items():
        name = f"{module}.weight"
        scale = _scale(lora, module, alpha, rank)
        merged[name] = _updated(merged[name], down, lora.up[module], scale, f"{lora.origin}: {module}")
        merged[name] = merged[name].to(dtype or weights[name].dtype)
    logger.info("merged %d LoRA updates of %s", len(lora.down), lora.origin)
    return merged


def _updated(weight: Tensor, down: Tensor, up: Tensor, scale: float, origin: str) -> Tensor:
    if weight.ndim != 2 or tuple(weight.shape) != (up.shape[0], down.shape[1]):
        raise CheckpointError(
            f"{origin}: a {list(up.shape)} x {list(down.shape)} update does not fit the weight {list(weight.shape)}; "
            "use the base model that the LoRA was trained on"
        )
    return torch.addmm(weight.float(), up.float(), down.float(), alpha=scale)


def _scale(lora: Lora, module: str, alpha: float | None, rank: int | None) -> float:
    down, up = lora.down[module], lora.up[module]
    if down.shape[0] != up.shape[1] or not down.numel():
        raise CheckpointError(f"{lora.origin}: {module} has the ranks {down.shape[0]} and {up.shape[1]}; expected one")
    stated = rank if rank is not None else lora.rank
    if stated is not None and stated != down.shape[0]:
        raise CheckpointError(f"{lora.origin}: {module} has rank {down.shape[0]}, not {stated}; correct the rank given")
    used = alpha if alpha is not None else lora.alphas.get(module, lora.alpha)
    if used is None:
        raise CheckpointError(
            f"{lora.origin} does not state its alpha; give lora_alpha= (LongLive: 256 for version 1, 128 for version 2)"
        )
    if not math.isfinite(used):
        raise CheckpointError(f"{lora.origin}: alpha is {used}; expected a finite number")
    return used / down.shape[0]


def _stripped(name: str) -> str:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return strip_wrappers(name)


def _module(name: str) -> tuple[str, str]:
    """The module and the role (down, up, alpha or nothing) of a LoRA tensor."""
    for kind, suffixes in (("down", _DOWN), ("up", _UP), ("alpha", (_ALPHA,))):
        for suffix in suffixes:
            if name.endswith(suffix):
                return name.removesuffix(suffix), kind
    return name, ""


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) else None
