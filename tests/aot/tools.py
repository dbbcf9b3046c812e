"""Registers, spills and instructions of compiled kernels, read with the tools that Triton ships."""

from __future__ import annotations

import re
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import triton
from ms_kernels import ptx


class Resources(NamedTuple):
    registers: int
    spilled_bytes: int
    parameter_bytes: int


@lru_cache
def assemble(path: Path) -> Resources:
    """Assemble a PTX file and read what ptxas says; fails on PTX that does not assemble."""
    target = ptx.target(path.read_text())
    knobs = triton.knobs.nvidia
    tool = knobs.ptxas_blackwell if int(re.match(r"\d+", target)[0]) >= 100 else knobs.ptxas
    command = [tool.path, "-v", f"--gpu-name=sm_{target}", str(path), "-o", str(path.with_suffix(".check"))]
    words = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    stored, loaded = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", words).groups()
    bank = re.search(r"(\d+) bytes cmem\[0\]", words)
    return Resources(
        int(re.search(r"Used (\d+) registers", words)[1]), int(stored) + int(loaded), int(bank[1]) if bank else 0
    )


@lru_cache
def instructions(cubin: Path) -> dict[str, int]:
    """How often each opcode occurs in the machine code."""
    command = [triton.knobs.nvidia.nvdisasm.path, "-c", str(cubin)]
    sass = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    counts: dict[str, int] = {}
    for opcode in re.findall(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z0-9_]+)", sass, re.MULTILINE):
        counts[opcode] = counts.get(opcode, 0) + 1
    return counts


def images(fatbin: Path) -> list[str]:
    """Architectures of the images in a fatbin."""
    command = [triton.knobs.nvidia.cuobjdump.path, "--list-elf", str(fatbin)]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return re.findall(r"ELF file.*\.sm_(\w+)\.cubin", listing)
