"""Assets that training never sees; `ms_train evaluate` uses them alone where they are present."""

from __future__ import annotations

from pathlib import Path

HELD_OUT_FILE = Path(__file__).with_name("held_out.txt")


def held_out_names() -> frozenset[str]:
    """Names (folder/file without suffix) of the held-out assets, one a line in `held_out.txt`."""
    lines = HELD_OUT_FILE.read_text(encoding="utf-8").splitlines()
    return frozenset(line.strip() for line in lines if line.strip() and not line.startswith("#"))
