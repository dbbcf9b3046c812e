"""Weights that engines of one student share: moved, cast, laid out, joined and quantised once per device and type."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakKeyDictionary, WeakValueDictionary

from torch import nn

from ms_infer.checkpoint.parts import changed
from ms_infer.model.transformer import Transformer

if TYPE_CHECKING:
    from ms_infer.engines.torch.fused import FusedOperations

Part = TypeVar("Part", bound=nn.Module)
_lock = threading.RLock()
_parts: WeakKeyDictionary[nn.Module, WeakValueDictionary[Hashable, nn.Module]] = WeakKeyDictionary()
_operations: WeakKeyDictionary[nn.Module, dict[type, FusedOperations]] = WeakKeyDictionary()


def shared_part(part: Part, kind: Hashable, change: Callable[[Part], object]) -> Part:
    """The part after `change` (`changed`), the same one for every engine that asks for this kind while one has it.

    kind: all that `change` depends on. Weights that were written to since are another part.
    """
    with _lock:
        made = _parts.setdefault(part, WeakValueDictionary())
        found = made.get((kind, _version(part)))
        if found is None:
            found = made[kind, _version(part)] = changed(part, change)
            _parts.setdefault(found, WeakValueDictionary())[kind, _version(found)] = found  # of a twin
        return found  # type: ignore[return-value]


def _version(part: nn.Module) -> int:
    """Changes when a weight is written to."""
    return sum(parameter._version for parameter in part.parameters())


def shared_operations(transformer: Transformer, kind: type[FusedOperations], kernels: ModuleType) -> FusedOperations:
    """The fused operations of a transformer, which join or quantise its weights, made once."""
    with _lock:
        made = _operations.setdefault(transformer, {})
        if kind not in made:
            made[kind] = kind(transformer, kernels)
        return made[kind]
