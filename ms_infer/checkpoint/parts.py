"""The parts of a student as modules: built without memory, filled from tensors by reference, or at random."""

from __future__ import annotations

import copy
import math
import zlib
from collections.abc import Callable, Container, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from ms_infer.checkpoint.files import cast, check_finite
from ms_infer.checkpoint.names import listed
from ms_infer.config import StreamConfig
from ms_infer.errors import CheckpointError, ConfigError
from ms_infer.model.autoencoders import build_vae
from ms_infer.model.refiner import Refiner
from ms_infer.model.track_head import TrackHead
from ms_infer.model.transformer import Transformer
from ms_infer.model.word_encoder import WordEncoder

Part = TypeVar("Part", bound=nn.Module)
PARTS = ("transformer", "track_head", "text_encoder", "image_encoder", "vae", "layer_network", "refiner")

_BIAS_SCALE = 0.02


def parts_of(config: StreamConfig) -> tuple[str, ...]:
    """The parts that a student with these settings has."""
    model = config.model
    optional = {
        "track_head": model.track_head is not None,
        "text_encoder": model.text.kind == "words",
        "layer_network": model.layer_network is not None,
        "image_encoder": model.image_encoder is not None,
        "refiner": model.refiner is not None,
    }
    return tuple(part for part in PARTS if optional.get(part, True))


def part_shapes(part: str, config: StreamConfig) -> dict[str, Tensor]:
    """Names and shapes (tensors without data) of a part's weights; CheckpointError for impossible settings."""
    try:
        with torch.device("meta"):
            return dict(_BUILDERS[part](config).state_dict())
    except ConfigError as error:
        raise CheckpointError(f"the settings of the {part} cannot work: {error}") from None


def make_part(
    part: str,
    config: StreamConfig,
    tensors: Mapping[str, Tensor],
    origin: str,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
) -> nn.Module:
    """Build a part over tensors, by reference where dtype and device allow; eval mode, no gradients.

    dtype: None keeps every tensor's own: engines cast. Constants stay as they are built. CheckpointError when a tensor
    is missing, has another shape, is not finite or does not fit the dtype.
    """
    wanted = part_shapes(part, config)
    _check_shapes(wanted, tensors, origin)
    check_finite({name: tensors[name] for name in wanted}, origin)
    ready = {name: _placed(tensors[name], dtype, device, f"{origin}: {name}") for name in wanted}
    module = _built(part, config)
    module.load_state_dict(ready, strict=True, assign=True)
    module.to(device=device)  # constant buffers; the weights are there already
    return module.eval().requires_grad_(False)


def convert_(module: nn.Module, device: torch.device, dtype: torch.dtype, origin: str) -> None:
    """Move and cast all weights; CheckpointError when values became infinite in the new type."""
    narrowed = [name for name, p in module.named_parameters() if torch.finfo(dtype).max < torch.finfo(p.dtype).max]
    module.to(device, dtype)
    if narrowed:
        parameters = dict(module.named_parameters())
        check_finite({name: parameters[name] for name in narrowed}, f"{origin} in {dtype}".replace("torch.", ""))


def _placed(tensor: Tensor, dtype: torch.dtype | None, device: str | torch.device, origin: str) -> Tensor:
    return (tensor if dtype is None else cast(tensor, dtype, origin)).to(device)


def changed(module: Part, change: Callable[[Part], object]) -> Part:
    """The module after `change`, which may move, cast or lay out its tensors, while the given one stays as it is.

    That is the module itself where all tensors stay, else a copy that shares the memory of those that do: several
    engines may use one student.
    """
    twin = _twin(module)
    change(twin)
    tensors, twins = ((*one.parameters(), *one.buffers()) for one in (module, twin))
    return module if all(map(_is_same, tensors, twins)) else twin


def with_own(module: Part, names: Container[str]) -> Part:
    """A copy that shares the memory of all tensors but the named parameters, which may be written to."""
    twin = _twin(module)
    for name, parameter in twin.named_parameters():
        if name in names:
            parameter.data = parameter.data.clone()
    return twin


def _twin(module: Part) -> Part:
    """A copy with parameters of its own over the same memory."""
    held = {id(tensor): nn.Parameter(tensor.data, tensor.requires_grad) for tensor in module.parameters()}
    return copy.deepcopy(module, {**held, **{id(tensor): tensor for tensor in module.buffers()}})  # copies no tensor


def _is_same(one: Tensor, other: Tensor) -> bool:
    return one.device == other.device and one.dtype == other.dtype and one.is_set_to(other)


def random_tensors(
    wanted: Mapping[str, Tensor], seed: str, dtype: torch.dtype, device: str | torch.device
) -> dict[str, Tensor]:
    """Seeded values for the names and shapes of `wanted`; every name has its own generator."""
    return {name: _random(name, like.shape, seed).to(device, dtype) for name, like in wanted.items()}


def _transformer(config: StreamConfig) -> nn.Module:

    return Transformer(config.model)


def _track_head(config: StreamConfig) -> nn.Module:

    return TrackHead(config)


def _text_encoder(config: StreamConfig) -> nn.Module:

    return WordEncoder(config.model.text)


def _image_encoder(config: StreamConfig) -> nn.Module:
    from ms_infer.model.image_encoder import ImageEncoder

    assert config.model.image_encoder is not None, "parts_of names no other parts"
    return ImageEncoder(config.model.image_encoder)


def _vae(config: StreamConfig) -> nn.Module:

    return build_vae(config.model.vae)


def _layer_network(config: StreamConfig) -> nn.Module:
    from ms_infer.model.layers import LayerNetwork

    settings = config.model.layer_network
    assert settings is not None, "parts_of names no other parts"
    return LayerNetwork(settings.widths, settings.painter)


def _refiner(config: StreamConfig) -> nn.Module:
    assert config.model.refiner is not None, "parts_of names no other parts"
    return Refiner(config.model.refiner)


_BUILDERS = {
    "transformer": _transformer,
    "track_head": _track_head,
    "text_encoder": _text_encoder,
    "image_encoder": _image_encoder,
    "vae": _vae,
    "layer_network": _layer_network,
    "refiner": _refiner,
}


def _random(name: str, shape: torch.Size, seed: str) -> Tensor:
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "gamma" or (leaf == "weight" and len(shape) == 1):
        return torch.ones(shape)
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}.{name}".encode()))
    scale = _BIAS_SCALE if len(shape) <= 1 else _fan_in(leaf, shape) ** -0.5
    return torch.randn(shape, generator=generator).mul_(scale)


def _fan_in(leaf: str, shape: torch.Size) -> int:
    return shape[-1] if leaf == "modulation" else math.prod(shape[1:])


def _built(part: str, config: StreamConfig) -> nn.Module:
    """Without memory (meta device), unless the part has constant buffers that only a real build computes."""
    with torch.device("meta"):
        module = _BUILDERS[part](config)
    stored = module.state_dict()
    if all(name in stored for name, _ in module.named_buffers()):
        return module
    with torch.random.fork_rng(devices=[]):
        return _BUILDERS[part](config)


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
