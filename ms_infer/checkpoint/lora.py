"""Reads a LoRA adapter of any public form (LongLive, peft, diffusers, ComfyUI, kohya) under original names."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor

from ms_infer.checkpoint.files import CheckpointFile, check_finite, read_checkpoint, read_json
from ms_infer.checkpoint.lora_settings import LoraSettings, settings_of
from ms_infer.checkpoint.names import from_underscores, is_diffusers, listed, strip_wrappers, to_original
from ms_infer.errors import CheckpointError, require

_WRAPPERS = ("generator_lora", "state_dict")
_PREFIXES = ("base_model.model.", "transformer.", "diffusion_model.")
_KOHYA = "lora_unet_"
_ROLES = (
    ("down", re.compile(r"\.lora_A(\.[^.]+)?\.weight$|\.lora_down\.weight$|\.lora\.down\.weight$")),
    ("up", re.compile(r"\.lora_B(\.[^.]+)?\.weight$|\.lora_up\.weight$|\.lora\.up\.weight$")),
    ("alpha", re.compile(r"\.alpha$")),
    ("weight", re.compile(r"\.diff$")),
    ("bias", re.compile(r"\.diff_b$")),
    ("modulation", re.compile(r"\.diff_m$")),
)
"""What a tensor is by the end of its name: factors, alpha, or (ComfyUI) a whole difference of a weight."""


@dataclass(frozen=True)
class Lora:
    """The updates of one adapter: `weight += scale * up @ down` and `weight += diff`."""

    down: Mapping[str, Tensor]
    """`[rank, in, ...]` by the original name of the module."""
    up: Mapping[str, Tensor]
    """`[out, rank, ...]` by the original name of the module."""
    alphas: Mapping[str, float]
    """Alpha of the modules whose file states it."""
    origin: str
    diffs: Mapping[str, Tensor] = field(default_factory=dict)
    """Whole differences by the original name of the weight."""
    settings: LoraSettings = field(default_factory=LoraSettings)
    """What header or configuration say about all modules."""
    files: tuple[Path, ...] = ()
    """Every file that was read for it."""


def with_strength(source: str | Path) -> tuple[Path, float]:
    """The file and the strength of "FILE:0.8"; without a number the strength is 1. ConfigError: it is not finite."""
    name, colon, tail = str(source).rpartition(":")
    try:
        strength = float(tail) if colon and isinstance(source, str) else None
    except ValueError:
        strength = None
    if strength is None:
        return Path(source), 1.0
    require(math.isfinite(strength), f"{source}: a strength is a finite number, not {tail}")
    return Path(name), strength


def read_lora(path: str | Path) -> Lora:
    """Read an adapter: LongLive's lora.pt (`generator_lora` or bare), a peft folder, or a safetensors file.

    Alpha, rank and rsLoRA are taken from adapter_config.json beside it or from the file's header. CheckpointError: as
    `read_checkpoint`, tensors that are no LoRA factors, a factor without its partner, settings of another method.
    """
    path = Path(path)
    beside = (path if path.is_dir() else path.parent) / "adapter_config.json"
    described = read_json(beside) if beside.is_file() else {}
    weights = path / "adapter_model.safetensors"
    file = read_checkpoint(weights if weights.is_file() else path, wrappers=_WRAPPERS)
    settings = settings_of(described, file.metadata, str(beside if described else file.path))
    return replace(parse_lora(file), settings=settings, files=(*file.files, beside) if described else file.files)


def parse_lora(file: CheckpointFile) -> Lora:
    """Pair the factors of a file that is already read; see `read_lora`."""
    found: dict[str, dict[str, Tensor]] = {"down": {}, "up": {}, "alpha": {}, "diff": {}}
    strange: list[str] = []
    modules = {name: _split(_stripped(name)) for name in file.tensors}
    diffusers = is_diffusers(module for module, _ in modules.values())
    for name, tensor in file.tensors.items():
        module, role = modules[name]
        module = to_original(module) if diffusers else module
        if role in ("weight", "bias", "modulation"):
            module, role = f"{module}.{role}", "diff"
        if role and module not in found[role] and (tensor.ndim >= 2 or role not in ("down", "up")):
            found[role][module] = tensor
        else:
            strange.append(name)
    _check_complete(file, found, strange)
    alphas = {module: float(tensor) for module, tensor in found["alpha"].items()}
    return Lora(found["down"], found["up"], alphas, str(file.path), found["diff"])


def _check_complete(file: CheckpointFile, found: Mapping[str, Mapping[str, Tensor]], strange: list[str]) -> None:
    strange += [f"{module}.alpha" for module, tensor in found["alpha"].items() if tensor.numel() != 1]
    if strange or not (found["down"] or found["diff"]):
        held = f"tensors that are no LoRA factors: {listed(strange)}" if strange else "no LoRA factor"
        raise CheckpointError(f"{file.path} holds {held}; expected pairs X.lora_A.weight, X.lora_B.weight")
    single = sorted(set(found["down"]) ^ set(found["up"]))
    if single:
        raise CheckpointError(f"{file.path} has only one of the two LoRA factors of {listed(single)}; it is incomplete")
    check_finite(file.tensors, str(file.path))


def _stripped(name: str) -> str:
    if name.startswith(_KOHYA):
        module, dot, rest = name.removeprefix(_KOHYA).partition(".")
        return from_underscores(module) + dot + rest
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return strip_wrappers(name)


def _split(name: str) -> tuple[str, str]:
    """The module and the role of a LoRA tensor; no role where its name has no known end."""
    for role, ending in _ROLES:
        match = ending.search(name)
        if match:
            return name[: match.start()], role
    return name, ""
