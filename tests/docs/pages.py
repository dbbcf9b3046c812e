"""What the tests of the documentation read: pages and the code blocks in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
BLOCK = re.compile(
    r"(?:<!-- (?P<mark>not run|file): (?P<words>.+?) -->\n+)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S
)


@dataclass(frozen=True)
class Block:
    """A fenced code block."""

    page: str
    line: int
    language: str
    text: str
    not_run: str = ""
    """Why the tests do not run it."""
    file: str = ""
    """Name of the file that the block is."""


def blocks(path: Path) -> list[Block]:
    """The code blocks of a page, in its order."""
    text = path.read_text()
    return [_block(path, text, found) for found in BLOCK.finditer(text)]


def _block(path: Path, text: str, found: re.Match[str]) -> Block:
    line = text.count("\n", 0, found.start("language")) + 1
    marks = {"not run": ("", ""), "file": ("", "")}
    if found["mark"]:
        marks[found["mark"]] = (found["words"], "")
    return Block(
        str(path.relative_to(ROOT)), line, found["language"], found["text"], marks["not run"][0], marks["file"][0]
    )


def pages() -> list[Path]:
    """All pages of the site."""
    return sorted(DOCS.rglob("*.md"))
