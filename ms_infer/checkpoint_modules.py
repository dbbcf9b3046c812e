"""The parts of a student as modules: built without memory, filled from tensors by reference, or at random."""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from ms_infer.checkpoint_files import check_finite, listed
from ms_infer.config import StreamConfig
from ms_infer.errors import CheckpointError, ConfigError

PARTS = ("transformer", "track_head", "text_encoder", "vae")

_BIAS_SCALE = 0.02
_Module = TypeVar("_Module", bound=nn.Module)


def parts_of(config: StreamConfig) -> tuple[str, ...]:
    """The parts that a student with these settings has."""
    optional = {"track_head": config.model.track_head is not None, "text_encoder": config.model.text.kind == "words"}
    return tuple(part for part in PARTS if optional.get(part, True))


def build_part(part: str, config: StreamConfig) -> nn.Module:
    """A part whose parameters are still to be filled: on the meta device wherever that is possible."""
    builders = {"transformer": _transformer, "track_head": _track_head, "text_encoder": _text_encoder, "vae": _vae}
    try:
        return _empty(lambda: builders[part](config))
    except ConfigError as error:
        raise CheckpointError(f"the settings of the {part} cannot work: {error}") from None


def fill_(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    origin: str,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
) -> None:
    """Put tensors into a built module by reference, set eval mode and switch gradients off.

    dtype: None keeps the one that most elements have (float64 becomes float32). CheckpointError, before the module
    changes, when a tensor is missing, has another shape or is not finite.
    """
    _check_shapes(module.state_dict(), tensors, origin)
    dtype = dtype or _common_dtype(tensors)
    ready = {name: tensors[name].to(device=device, dtype=dtype) for name in module.state_dict()}
    check_finite(ready, origin)
    module.load_state_dict(ready, strict=True, assign=True)
    module.to(device=device, dtype=dtype)  # constant buffers; the weights are there already
    module.eval().requires_grad_(False)


def random_tensors(
    wanted: Mapping[str, Tensor], seed: str, dtype: torch.dtype, device: str | torch.device
) -> dict[str, Tensor]:
    """Seeded values for the names and shapes of `wanted`; every name has its own generator."""
    return {name: _random(name, like.shape, seed).to(device, dtype) for name, like in wanted.items()}


def _transformer(config: StreamConfig) -> nn.Module:
    from ms_infer.model.transformer import Transformer

    return Transformer(config.model)


def _track_head(config: StreamConfig) -> nn.Module:
    from ms_infer.model.track_head import TrackHead

    return TrackHead(config)


def _text_encoder(config: StreamConfig) -> nn.Module:
    from ms_infer.model.text import WordEncoder

    return WordEncoder(config.model.text)


def _vae(config: StreamConfig) -> nn.Module:
    from ms_infer.model.vae import build_vae

    return build_vae(config.model.vae)


def _random(name: str, shape: torch.Size, seed: str) -> Tensor:
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "gamma" or (leaf == "weight" and len(shape) == 1):
        return torch.ones(shape)
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}.{name}".encode()))
    scale = _BIAS_SCALE if len(shape) <= 1 else _fan_in(leaf, shape) ** -0.5
    return torch.randn(shape, generator=generator).mul_(scale)


def _fan_in(leaf: str, shape: torch.Size) -> int:
    return shape[-1] if leaf == "modulation" else math.prod(shape[1:])


def _empty(build: Callable[[], _Module]) -> _Module:
    """Build on the meta device; a module with constant buffers has to be built for real to have their values."""
    with torch.device("meta"):
        module = build()
    stored = module.state_dict()
    if any(name not in stored for name, _ in module.named_buffers()):
        with torch.random.fork_rng(devices=[]):
            return build()
    return module


def _check_shapes(wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor], origin: str) -> None:
    missing = [name for name in wanted if name not in tensors]
    if missing:
        raise CheckpointError(f"{origin}: missing {listed(missing)}; the file is incomplete or of another model")
    wrong = [
        f"{name} {list(tensors[name].shape)} (expected {list(like.shape)})"
        for name, like in wanted.items()
        if tensors[name].shape != like.shape
    ]
    if wrong:
        raise CheckpointError(f"{origin}: shapes do not fit: {listed(wrong)}; the file is damaged or of another model")


def _common_dtype(tensors: Mapping[str, Tensor]) -> torch.dtype:
    counts: Counter[torch.dtype] = Counter()
    for tensor in tensors.values():
        counts[tensor.dtype] += tensor.numel()
    dtype = counts.most_common(1)[0][0] if counts else torch.float32
    return torch.float32 if dtype == torch.float64 else dtype
