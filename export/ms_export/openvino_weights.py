"""Weights of OpenVINO stages go from file to file: a model is written around zeros, then its file is filled."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO
from xml.etree import ElementTree

import numpy as np

from ms_export.weights import Region, WeightTable

ALIGNMENT = 64
_LARGE = 4096  # bytes; smaller constants are written by OpenVINO
_PIECE = 1 << 24


def hollow(openvino: Any, model: Any, table: WeightTable) -> list[Any]:
    """Let every large weight of a model be zeros that nobody stores; what is returned must outlive the writing.

    OpenVINO maps the weights it reads and keeps every page that it has looked at: all of them when it writes a model.
    Zeros are one page for all, and one place in the file for each size.
    """
    found = [op for op in model.get_ops() if op.get_type_name() == "Constant" and _region(op, table) is not None]
    zeros = np.zeros(max((op.get_byte_size() for op in found), default=0), np.uint8)
    for op in found:
        tensor = zeros[: op.get_byte_size()].view(np.float32).reshape(tuple(op.get_output_shape(0)))
        stand_in = openvino.opset13.constant(tensor, shared_memory=True)
        stand_in.set_friendly_name(op.get_friendly_name())
        for reader in op.output(0).get_target_inputs():
            reader.replace_source_output(stand_in.output(0))
    return [zeros]


def _region(op: Any, table: WeightTable) -> Region | None:
    region = table.regions.get(op.get_friendly_name())
    return region if region is not None and region.nbytes == op.get_byte_size() > _LARGE else None


def fill(xml: Path, table: WeightTable, weights: Path) -> None:
    """Put the weights of `table`, which lie in the file `weights`, into a stage that was written around zeros."""
    tree = ElementTree.parse(xml)
    written = xml.with_suffix(".bin")
    filled = written.with_name(f".{written.name}.unfinished")
    with written.open("rb") as small, weights.open("rb") as large, filled.open("wb") as target:
        places: dict[tuple[bool, int], int] = {}
        for layer in tree.iter("layer"):
            data = layer.find("data")
            if layer.get("type") != "Const" or data is None:
                continue
            offset, size = int(data.get("offset", "0")), int(data.get("size", "0"))
            region = table.regions.get(layer.get("name", ""))
            ours = region is not None and region.nbytes == size > _LARGE
            key = (ours, region.offset if ours and region is not None else offset)
            if key not in places:
                places[key] = _append(target, large if ours else small, key[1], size)
            data.set("offset", str(places[key]))
    filled.replace(written)
    tree.write(xml, encoding="utf-8", xml_declaration=True)


def _append(target: BinaryIO, source: BinaryIO, offset: int, size: int) -> int:
    """Copy a piece of one file to the end of another, aligned; returns where it begins there."""
    start = -(-target.tell() // ALIGNMENT) * ALIGNMENT
    target.write(bytes(start - target.tell()))
    source.seek(offset)
    left = size
    while left:
        piece = source.read(min(left, _PIECE))
        assert piece, "the file of weights is as long as its table says"
        target.write(piece)
        left -= len(piece)
    return start
