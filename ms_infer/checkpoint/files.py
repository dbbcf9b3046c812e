"""Reads the tensors of a checkpoint file or folder without executing anything in it and without copying it."""

from __future__ import annotations

import json
import pickle
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ms_infer.checkpoint.locate import PICKLE_SUFFIXES, check_content, locate
from ms_infer.checkpoint.names import listed
from ms_infer.errors import CheckpointError

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
WRAPPERS = ("generator_ema", "generator", "model", "state_dict")
"""Entries of a pickled dict that hold the weights, best first (Self-Forcing, LongLive, CausVid trainers)."""

_MAX_JSON_BYTES = 64 << 20
_MAX_NESTING = 4


@dataclass(frozen=True)
class CheckpointFile:
    """What a checkpoint holds: memory-mapped tensors by their name in the file, and what stands beside them."""

    path: Path
    tensors: dict[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Text metadata of a safetensors file."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Model settings: the `config` metadata, or config.json beside a safetensors file; empty when there are none."""
    wrapper: tuple[str, ...] = ()
    """Dict entries that were opened to reach the tensors, outermost first."""
    outer: Mapping[str, Any] = field(default_factory=dict)
    """Text and numbers that stood beside the opened entry."""
    ignored: tuple[str, ...] = ()
    """Entries that were not opened (`critic.*`), and entries beside the tensors that are no tensors."""
    files: tuple[Path, ...] = ()
    """Every file that was read for this: the file itself, or index and shards, and config.json."""


def read_checkpoint(path: str | Path, *, wrappers: Sequence[str] = WRAPPERS) -> CheckpointFile:
    """Read a .safetensors (one file or shards with an index), a .pt/.pth, or a folder holding one of these.

    Tensors stay memory-mapped: keep the file unchanged while they are in use. Pickles are read with
    `weights_only=True`, so nothing in them runs; of a dict of dicts the first of `wrappers` is taken.
    CheckpointError: absent, empty, truncated, hostile, not a checkpoint, or with a tensor that is not a plain
    floating-point one.
    """
    file = locate(Path(path))
    check_content(file)
    if file.name.endswith(".safetensors.index.json"):
        found = _described(_read_shards(file))
    elif file.suffix == ".safetensors":
        found = _described(_read_safetensors(file))
    elif file.suffix in PICKLE_SUFFIXES:
        found = _read_pickle(file, wrappers)
    else:
        raise CheckpointError(
            f"{file} is no known checkpoint type; expected .safetensors, .safetensors.index.json, "
            f"{', '.join(PICKLE_SUFFIXES)} or a folder that holds one"
        )
    if not found.tensors:
        held = listed(found.ignored) or "metadata"
        raise CheckpointError(f"{file} holds no tensor (only {held}); expected weights")
    for name, tensor in found.tensors.items():
        _check_plain(file, name, tensor)
    return found


def check_finite(tensors: Mapping[str, Tensor], origin: str) -> None:
    """Raise CheckpointError naming the tensors that hold NaN or infinity."""
    bad = [name for name, tensor in tensors.items() if tensor.numel() and not _is_finite(tensor)]
    if bad:
        raise CheckpointError(
            f"{origin}: NaN or infinite values in {listed(bad)}; use an earlier checkpoint, or another dtype "
            "if they came from a conversion"
        )


def cast(tensor: Tensor, dtype: torch.dtype, origin: str) -> Tensor:
    """The tensor in another type; CheckpointError when values became infinite in it."""
    result = tensor.to(dtype)
    if torch.finfo(dtype).max < torch.finfo(tensor.dtype).max and tensor.numel() and not _is_finite(result):
        largest = max(abs(value.item()) for value in torch.aminmax(tensor.detach()))
        raise CheckpointError(
            f"{origin} holds values up to {largest:.3g}, {_dtype_name(dtype)} ends at {torch.finfo(dtype).max:.3g}; "
            "use bfloat16 or float32"
        )
    return result


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; CheckpointError when it is not one."""
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise CheckpointError(f"{path} is larger than {_MAX_JSON_BYTES >> 20} MiB; expected a small JSON file")
        return parse_json(path.read_text(encoding="utf-8-sig"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON text: {_first_line(error)}") from None


def parse_json(text: str, origin: str) -> dict[str, Any]:
    """A JSON object from text; CheckpointError when it is not one."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{origin} is not valid JSON: {_first_line(error)}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{origin} holds a JSON {type(value).__name__}; expected an object")
    return value


def _read_safetensors(file: Path) -> CheckpointFile:
    try:
        with safe_open(file, "pt") as opened:
            metadata = dict(opened.metadata() or {})
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError, ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(
            f"{file} is not a complete safetensors file ({_first_line(error)}); download or copy it again"
        ) from None
    return CheckpointFile(file, tensors, metadata, files=(file,))


def _described(found: CheckpointFile) -> CheckpointFile:
    """The same with its settings: those in its metadata, else those of a config.json beside it."""
    if "config" in found.metadata:
        config = parse_json(found.metadata["config"], f"metadata 'config' of {found.path}")
        return replace(found, config=config)
    beside = found.path.parent / "config.json"
    if not beside.is_file():
        return found
    return replace(found, config=read_json(beside), files=(*found.files, beside))


def _read_shards(index: Path) -> CheckpointFile:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no weight_map; expected the index of a sharded safetensors checkpoint")
    shards = sorted({_shard_name(index, shard) for shard in weight_map.values()})
    absent = [shard for shard in shards if not (index.parent / shard).is_file()]
    if absent:
        raise CheckpointError(f"{index} names shards that are not there: {listed(absent)}; download them")
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        check_content(index.parent / shard)
        for name, tensor in _read_safetensors(index.parent / shard).tensors.items():
            if name in tensors:
                raise CheckpointError(f"{index.parent / shard} repeats the tensor {name} of another shard")
            tensors[name] = tensor
    lost = [name for name in weight_map if name not in tensors]
    if lost:
        raise CheckpointError(f"{index} names tensors that no shard holds: {listed(lost)}; download the shards again")
    return CheckpointFile(index, tensors, files=(index, *(index.parent / shard for shard in shards)))


def _shard_name(index: Path, shard: object) -> str:
    """A shard is a plain file name: an index must not reach outside its folder."""
    if not isinstance(shard, str) or not shard.endswith(".safetensors") or set("/\\:\0") & set(shard):
        raise CheckpointError(
            f"{index} names the shard {str(shard)[:200]!r}; expected a .safetensors file name inside {index.parent}"
        )
    return shard


def _read_pickle(file: Path, wrappers: Sequence[str]) -> CheckpointFile:
    value = _load_pickle(file)
    opened: list[str] = []
    outer: dict[str, Any] = {}
    ignored: list[str] = []
    while isinstance(value, Mapping) and len(opened) < _MAX_NESTING:
        inner = next((key for key in wrappers if isinstance(value.get(key), Mapping) and value[key]), None)
        outer |= {str(key): item for key, item in value.items() if isinstance(item, str | int | float)}
        ignored += [f"{key}.*" for key, item in value.items() if isinstance(item, Mapping) and key != inner and item]
        if inner is None:
            break
        opened.append(inner)
        value = value[inner]
    if not isinstance(value, Mapping):
        raise CheckpointError(
            f"{file} holds a {type(value).__name__} instead of a state dict; expected tensors by name, "
            f"or a dict with one of {', '.join(wrappers)}"
        )
    tensors = {str(name): item.detach() for name, item in value.items() if isinstance(item, Tensor)}
    ignored += [str(name) for name, item in value.items() if not isinstance(item, Tensor | Mapping | str | int | float)]
    return CheckpointFile(file, tensors, wrapper=tuple(opened), outer=outer, ignored=tuple(ignored), files=(file,))


def _load_pickle(file: Path) -> object:
    """torch.load without code execution; old (non-zip) files cannot be memory-mapped and are read into memory."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks on odd pickles; those that matter are errors
            return torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{file} holds more than tensors ({_pickle_reason(error)}); a pickle can run code, so it was not "
            "loaded: have its author save a state dict or safetensors"
        ) from None
    except Exception as error:
        # A malformed pickle can make the unpickler raise nearly anything (IndexError, TypeError, KeyError ...).
        raise CheckpointError(
            f"{file} is not a complete PyTorch checkpoint ({_first_line(error)}); download or copy it again"
        ) from None


def _check_plain(file: Path, name: str, tensor: Tensor) -> None:
    """Refuse what only looks like weights: other layouts, no data, more elements than bytes, integers."""
    if type(tensor) is not Tensor or tensor.layout != torch.strided or tensor.device.type != "cpu":
        raise CheckpointError(f"{file}: {name} is not a plain dense tensor; save it as an ordinary state dict")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise CheckpointError(f"{file}: {name} claims shape {list(tensor.shape)} but holds fewer values")
    is_number = name.endswith(".alpha") and tensor.numel() == 1 and tensor.dtype in INTEGERS
    if tensor.dtype not in FLOATS and not is_number:
        raise CheckpointError(
            f"{file}: {name} has dtype {_dtype_name(tensor.dtype)}; expected float32, bfloat16 or float16 weights "
            "(fp8-scaled and other quantised checkpoints have to be converted back first)"
        )


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _is_finite(tensor: Tensor) -> bool:
    low, high = torch.aminmax(tensor.detach())  # NaN propagates; needs no memory of the tensor's size
    return bool(torch.isfinite(low) and torch.isfinite(high))


def _pickle_reason(error: Exception) -> str:
    """The line of torch's long advice that names the refused object."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if "GLOBAL" in line or "Unsupported" in line), lines[0] if lines else "")[:160]


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
