"""Every message of the troubleshooting page is one that the source can print."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, ROOT

MESSAGES = re.findall(r"^### `(.+)`$", (DOCS / "troubleshooting.md").read_text(), re.M)
GAP = "…"


@cache
def templates() -> tuple[str, ...]:
    """Every string of the packages, with `…` where a value is put in."""
    found: list[str] = []
    for folder in ("ms_infer", "kernels", "export", "training"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            found += strings(path)
    return tuple(found)


def strings(path: Path) -> list[str]:
    made = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            parts = [str(part.value) if isinstance(part, ast.Constant) else GAP for part in node.values]
            made.append("".join(parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            made.append(node.value)
    return made


def fits(message: str, template: str) -> bool:
    """Whether a template prints the message: its words in their order, with anything for each `…`."""
    pattern = ".*".join(re.escape(part) for part in message.split(GAP))
    return re.fullmatch(pattern, template, re.S) is not None


@pytest.mark.parametrize("message", MESSAGES)
def test_the_source_has_the_message(message: str) -> None:
    assert any(fits(message, template) for template in templates()), f"no string of the source reads {message!r}"


def test_the_page_has_messages_and_a_wrong_one_would_be_found() -> None:
    assert len(MESSAGES) > 25
    assert not any(fits("… tracks, but this stream takes at least …; …", template) for template in templates())
