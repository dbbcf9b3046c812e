"""Names of diffusers for files that tests write: the tables of `ms_infer.checkpoint.names`, read the other way."""

from __future__ import annotations

from ms_infer.checkpoint import names

_TOP = {ours: theirs for theirs, ours in names._TOP_TO_ORIGINAL.items()}
_BLOCK = {ours: theirs for theirs, ours in names._BLOCK_TO_ORIGINAL.items()}


def to_diffusers(name: str) -> str:
    """Diffusers name of an original Wan name; unknown names stay as they are."""
    match = names._BLOCK_NAME.fullmatch(name)
    return match[1] + _BLOCK.get(match[2], match[2]) if match else _TOP.get(name, name)
