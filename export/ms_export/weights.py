"""The one weights file of a set of graphs: every tensor of the student once, in a region that all stages share."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import mmap
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ms_infer.checkpoint import Student
from ms_infer.checkpoint.files import cast
from ms_infer.checkpoint.parts import PARTS
from ms_infer.errors import BundleError
from ms_infer.files import whole_file

logger = logging.getLogger(__name__)

ALIGNMENT = 4096  # so that engines may map the file
WEIGHTS = "weights.bin"
SECONDS_BETWEEN_LINES = 5.0
_MADV_PAGEOUT = 21  # of Linux 5.4 and later


@dataclass(frozen=True)
class Region:
    """Where a tensor lies in the weights file."""

    offset: int
    nbytes: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class WeightTable:
    """Regions of all tensors by `part.name`, and the type they are stored in."""

    dtype: torch.dtype
    regions: dict[str, Region]
    nbytes: int

    @classmethod
    def of(cls, student: Student, dtype: torch.dtype) -> WeightTable:
        """Lay out all tensors of the student; reads no values."""
        regions: dict[str, Region] = {}
        end = 0
        for name, tensor in named_tensors(student):
            nbytes = tensor.numel() * dtype.itemsize
            regions[name] = Region(end, nbytes, tuple(tensor.shape))
            end += -(-nbytes // ALIGNMENT) * ALIGNMENT
        return cls(dtype, regions, end)


def named_tensors(student: Student) -> Iterator[tuple[str, Tensor]]:
    """Tensors of all parts under `part.name`."""
    for part in PARTS:
        module = getattr(student, part)
        if module is not None:
            for name, tensor in module.state_dict().items():
                yield f"{part}.{name}", tensor


def write_weights(student: Student, table: WeightTable, path: Path) -> str:
    """Write the file tensor by tensor, so that one tensor at a time is in memory. Returns its sha256.

    The file appears under its name only when it is whole. BundleError when the disk is full.
    """
    advice = f"; it needs {table.nbytes >> 20} MiB"
    digest = hashlib.sha256()
    with whole_file(path, BundleError, advice=advice, sync=True) as unfinished, unfinished.open("wb") as file:
        for name, tensor in _reported(named_tensors(student), table, path.name):
            region = table.regions[name]
            data = _bytes(cast(tensor.detach(), table.dtype, name))
            padding = bytes(-region.nbytes % ALIGNMENT)
            for piece in (data, padding):
                file.write(piece)
                digest.update(piece)
    return digest.hexdigest()


def _reported(tensors: Iterator[tuple[str, Tensor]], table: WeightTable, file: str) -> Iterator[tuple[str, Tensor]]:
    """The same tensors, with a line in the log every few seconds: how much of the file is written."""
    said = time.monotonic()
    for name, tensor in tensors:
        if time.monotonic() - said > SECONDS_BETWEEN_LINES:
            said = time.monotonic()
            logger.info("  %s  %d of %d MiB", file, table.regions[name].offset >> 20, table.nbytes >> 20)
        yield name, tensor


def _bytes(tensor: Tensor) -> Any:
    """The values as a buffer, without a copy where they lie on the host already."""
    host = tensor.cpu().contiguous().reshape(-1)
    return host.view(torch.uint8).numpy()


def release_pages(student: Student) -> None:
    """Let the system take back the memory of mapped weights; whoever needs them reads them from their file again.

    A hint, for Linux: nothing happens elsewhere, nor to weights that are in no file.
    """
    if sys.platform != "linux":
        return
    advise = ctypes.CDLL(None).madvise
    for _, tensor in named_tensors(student):
        storage = tensor.untyped_storage()
        start = -(-storage.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        whole = storage.data_ptr() + storage.nbytes() - start
        if whole > 0:
            advise(ctypes.c_void_p(start), ctypes.c_size_t(whole), _MADV_PAGEOUT)
