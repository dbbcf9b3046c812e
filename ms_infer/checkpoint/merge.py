"""Adds adapters to the weights of a transformer, at any strength; the base stays at hand and comes back exactly."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ms_infer.checkpoint.files import cast
from ms_infer.checkpoint.lora import Lora
from ms_infer.checkpoint.names import listed
from ms_infer.errors import CheckpointError, ConfigError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Adapter:
    """An adapter that fits its base: factors with their scales, and whole differences, by name of the weight."""

    origin: str
    factors: Mapping[str, tuple[Tensor, Tensor, float]]
    """Weight -> up, down and scale."""
    diffs: Mapping[str, Tensor]

    @property
    def names(self) -> set[str]:
        """Weights that it changes."""
        return {*self.factors, *self.diffs}


@dataclass(frozen=True)
class Adapters:
    """The adapters of a student and the weights of its base that they change."""

    entries: tuple[Adapter, ...] = ()
    strengths: tuple[float, ...] = ()
    """What the student's weights hold now."""
    base: Mapping[str, Tensor] = field(default_factory=dict)
    """The base's tensors of every weight that an adapter changes, by reference."""
    dtype: torch.dtype | None = None
    """Of the weights; None keeps the base's."""

    def weights(
        self, strengths: Sequence[float], device: torch.device | str | None = None
    ) -> Iterable[tuple[str, Tensor]]:
        """Every changed weight at these strengths, one at a time, on the device; all zero gives the base's tensors.

        The sum is made in float32 and then rounded to the weight's type. ConfigError: as `checked`. CheckpointError:
        the sum does not fit the type.
        """
        strengths = self.checked(strengths)
        for name, base in self.base.items():
            total = self._sum(name, base.to(device), strengths)
            yield name, cast(total, self.dtype or base.dtype, f"{name} with the adapters")

    def tensors(self) -> Iterable[Tensor]:
        """Factors and differences of all adapters."""
        for adapter in self.entries:
            yield from (factor for up, down, _ in adapter.factors.values() for factor in (up, down))
            yield from adapter.diffs.values()

    def checked(self, strengths: Sequence[float]) -> tuple[float, ...]:
        """The strengths as given; ConfigError when they are not one finite number an adapter."""
        given = tuple(float(strength) for strength in strengths)
        if len(given) != len(self.entries) or not all(map(math.isfinite, given)):
            names = listed(adapter.origin for adapter in self.entries) or "none"
            raise ConfigError(
                f"strengths {list(given)} do not fit the {len(self.entries)} adapters ({names}); give one finite "
                "number each, and the adapters when opening the model (lora=)"
            )
        return given

    def _sum(self, name: str, base: Tensor, strengths: Sequence[float]) -> Tensor:
        active = [(a, s) for a, s in zip(self.entries, strengths, strict=True) if s and name in a.names]
        if not active:
            return base
        total = base.float()
        for adapter, strength in active:
            if name in adapter.factors:
                up, down, scale = adapter.factors[name]
                up, down = (factor.to(base.device, torch.float32).flatten(1) for factor in (up, down))
                total = torch.addmm(total.flatten(1), up, down, alpha=scale * strength).reshape(base.shape)
            if name in adapter.diffs:
                total = total + strength * adapter.diffs[name].to(total)
        return total


def fitted(
    weights: Mapping[str, Tensor], lora: Lora, *, alpha: float | None = None, rank: int | None = None
) -> Adapter:
    """Check an adapter against its base and settle its scales: `alpha / rank`, or alpha / sqrt(rank) for rsLoRA.

    alpha and rank override what the adapter states; rank must equal that of the factors. Alpha is otherwise that of
    the module, else that of the whole adapter, else the rank, which is logged. CheckpointError: a module that the
    model has not, shapes or ranks that do not fit, an alpha that is no finite number.
    """
    names = [*(f"{module}.weight" for module in lora.down), *lora.diffs]
    unknown = sorted(name for name in names if name not in weights)
    if unknown:
        shown = listed(name.removesuffix(".weight") for name in unknown)
        raise CheckpointError(f"{lora.origin} changes what the model has not: {shown}; use its own base")
    if lora.down and alpha is None and lora.settings.alpha is None and not lora.alphas:
        logger.warning("%s does not state its alpha: taking the rank, so that the scale is 1", lora.origin)
    factors = {}
    for module, down in lora.down.items():
        name, up = f"{module}.weight", lora.up[module]
        factors[name] = (up, down, _scale(lora, module, alpha, rank))
        _check_product(weights[name], up, down, f"{lora.origin}: {module}")
    for name, diff in lora.diffs.items():
        if diff.shape != weights[name].shape:
            wanted = list(weights[name].shape)
            raise CheckpointError(f"{lora.origin}: the difference of {name} is {list(diff.shape)}, not {wanted}")
    return Adapter(lora.origin, factors, lora.diffs)


def merge(
    weights: Mapping[str, Tensor], adapters: Sequence[Adapter], strengths: Sequence[float], dtype: torch.dtype | None
) -> tuple[dict[str, Tensor], Adapters]:
    """The weights with the adapters added, and what is needed to change the strengths later.

    Weights that no adapter changes are passed on uncopied; the others get `dtype`, or keep theirs: a bfloat16 weight
    then rounds the sum. CheckpointError when the sum does not fit the type.
    """
    changed = {name for adapter in adapters for name in adapter.names}
    base = {name: tensor for name, tensor in weights.items() if name in changed}
    kept = Adapters(tuple(adapters), tuple(strengths), base, dtype)
    merged = {**weights, **dict(kept.weights(strengths))}
    logger.info("merged %d LoRA updates of %s", len(changed), listed(adapter.origin for adapter in adapters))
    return merged, kept


def _check_product(weight: Tensor, up: Tensor, down: Tensor, origin: str) -> None:
    if weight.ndim < 2 or tuple(weight.flatten(1).shape) != (up.shape[0], down.flatten(1).shape[1]):
        raise CheckpointError(
            f"{origin}: a {list(up.shape)} x {list(down.shape)} update does not fit the weight {list(weight.shape)}; "
            "use the base model that the LoRA was trained on"
        )


def _scale(lora: Lora, module: str, alpha: float | None, rank: int | None) -> float:
    down, up = lora.down[module], lora.up[module]
    own = down.shape[0]
    if own != up.flatten(1).shape[1] or not down.numel():
        raise CheckpointError(f"{lora.origin}: {module} has the ranks {own} and {up.shape[1]}; expected one")
    stated = rank if rank is not None else lora.settings.rank
    if stated is not None and stated != own:
        raise CheckpointError(f"{lora.origin}: {module} has rank {own}, not {stated}; correct the rank given")
    known = (alpha, lora.alphas.get(module), lora.settings.alpha, float(own))
    used = next(value for value in known if value is not None)
    if not math.isfinite(used):
        raise CheckpointError(f"{lora.origin}: alpha is {used}; expected a finite number")
    return used / (math.sqrt(own) if lora.settings.rslora else own)
