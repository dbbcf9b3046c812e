"""Our docstrings as Markdown: lines such as `name: what it is` or `name   what it is` become a list."""

from __future__ import annotations

import re
from typing import Any

import griffe

ENTRY = re.compile(r"^(?P<name>[a-z_]\w*)(?:: |  +)(?P<words>\S.*)$")
COLUMNS = re.compile(r"^(?P<name>[a-z_]\w*) +(?P<words>\S.*)$")
"""An entry beside others in columns: the longest name has one blank after it."""


class DocstringLists(griffe.Extension):
    """Rewrites the docstrings of everything that griffe reads."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for modules, classes, functions and attributes."""
        if obj.docstring is not None:
            obj.docstring.value = with_lists(obj.docstring.value)


def with_lists(text: str) -> str:
    """A docstring with its entries as list items; paragraphs and code stay."""
    return "\n\n".join(_block(block) for block in re.split(r"\n[ \t]*\n", text))


def _block(block: str) -> str:
    lines = block.splitlines()
    if not ENTRY.match(lines[0] if lines else ""):
        return block
    pattern = ENTRY if re.match(r"\w+: ", lines[0]) else COLUMNS
    made: list[str] = []
    for line in lines:
        entry = pattern.match(line)
        if entry:
            made.append(f"- `{entry['name']}`: {entry['words']}")
        else:
            made.append(f"  {line.strip()}")
    return "\n".join(made)
