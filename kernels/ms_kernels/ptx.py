"""PTX of a compiled kernel: its parameters, and the form TensorRT's ahead-of-time plugins launch."""

from __future__ import annotations

import re

HIDDEN = 2
"""Trailing pointers that Triton 3.3 and later add to every kernel: global scratch and profile scratch."""


def parameters(name: str, ptx: str) -> list[str]:
    """Declarations of the entry's parameters, in order; ValueError when there is no such entry."""
    return [part.strip() for part in _entry(name, ptx)[2].split(",") if part.strip()]


def drop_hidden_parameters(name: str, ptx: str) -> str:
    """PTX whose entry takes only the kernel's own parameters.

    TensorRT passes input pointers, integers and output pointers, nothing else. ValueError when a hidden parameter is
    used (the kernel needs scratch memory) or is not a pointer.
    """
    head, declared = _entry(name, ptx), parameters(name, ptx)
    for parameter in declared[-HIDDEN:]:
        symbol = parameter.split()[-1]
        if ".u64" not in parameter and ".b64" not in parameter:
            raise ValueError(f"{name}: the hidden parameter {parameter!r} is no pointer; is this Triton 3.6 or 3.7?")
        if len(re.findall(rf"\b{re.escape(symbol)}\b", ptx)) != 1:
            raise ValueError(f"{name} uses {symbol}: it needs scratch memory, which a plugin cannot give")
    kept = ",\n\t".join(declared[:-HIDDEN])
    return f"{ptx[: head.start(2)]}\n\t{kept}\n{ptx[head.end(2) :]}"


def target(ptx: str) -> str:
    """Architecture the PTX is for, such as "90a"."""
    found = re.search(r"^\.target sm_(\w+)", ptx, re.MULTILINE)
    if found is None:
        raise ValueError("the PTX names no .target")
    return found[1]


def _entry(name: str, ptx: str) -> re.Match[str]:
    found = re.search(rf"(\.entry {re.escape(name)}\()([^)]*)\)", ptx)
    if found is None:
        raise ValueError(f"the PTX has no entry {name}")
    return found
