"""Reference of a C header: every type and function with the comment that stands with it."""

from __future__ import annotations

import re
from dataclasses import dataclass

SECTION = re.compile(r"/\* ---- (.+?) \*/", re.S)
ITEM = re.compile(
    r"(?P<comment>/\*(?:(?!\*/).)*\*/\s*)?"
    r"(?P<code>typedef (?:struct|enum) \w+ \{.*?\} \w+;(?:[^\n]*)|typedef [^;{]+;[^\n]*|MS_API[^;]+;[^\n]*)",
    re.S,
)


@dataclass(frozen=True)
class Item:
    """A type or a function."""

    name: str
    words: str
    code: str


def header_reference(text: str) -> str:
    """Markdown of a header: its opening comment, then sections of types and functions."""
    opening, _, body = text.partition("*/")
    body = body[: body.rfind("#ifdef __cplusplus")]
    body = body[body.find('extern "C" {') :]
    parts = SECTION.split(body)
    named = [("Basics", parts[0]), *zip(parts[1::2], parts[2::2], strict=True)]
    sections = [_section(title, part) for title, part in named]
    return "\n\n".join([_opening(opening.removeprefix("/*")), *sections])


def header_items(text: str) -> list[Item]:
    """Types and functions of a piece of a header, in its order."""
    return [_item(found) for found in ITEM.finditer(text)]


def _item(found: re.Match[str]) -> Item:
    code = found["code"].strip()
    function = re.search(r"\b(ms_\w+)\(", code) if code.startswith("MS_API") else None
    name = function[1] if function else re.findall(r"\w+", code.partition(";\n")[0].split("/*")[0])[-1]
    if code.startswith("typedef") and "{" in code:
        name = re.findall(r"\} (\w+);", code)[-1]
    lines = [line.removeprefix("MS_API ").rstrip() for line in code.splitlines()]
    return Item(name, _plain(found["comment"] or ""), "\n".join(lines))


def _section(title: str, text: str) -> str:
    head, _, note = " ".join(title.split()).partition(": ")
    lines = [f"## {head[0].upper()}{head[1:]}"]
    if note:
        lines.append(f"{note[0].upper()}{note[1:]}.")
    for item in header_items(text):
        lines += [f"### `{item.name}`", *([item.words] if item.words else []), f"```c\n{item.code}\n```"]
    return "\n\n".join(lines)


def _plain(comment: str) -> str:
    inner = comment.strip().removeprefix("/*").removesuffix("*/")
    return _escape(" ".join(line.strip().removeprefix("* ") for line in inner.splitlines()).strip())


def _escape(text: str) -> str:
    """Asterisks and underscores as such."""
    return re.sub(r"([*_])", r"\\\1", text) if "`" not in text else text.replace("*_", "\\*\\_")


def _opening(comment: str) -> str:
    """The header's first comment: lines without indentation are headings, an indented block after "Use" is code."""
    lines = [line.removeprefix(" *").removeprefix(" ").rstrip() for line in comment.splitlines()]
    blocks: list[str] = []
    for block in re.split(r"\n\s*\n", "\n".join(lines).strip()):
        title, _, rest = block.partition("\n")
        body = "\n".join(line.removeprefix("    ") for line in rest.splitlines())
        if not rest or not rest.startswith("    "):
            blocks.append(" ".join(block.split()))
        elif title == "Use":
            blocks.append(f"```c\n{body}\n```")
        else:
            blocks.append(f"**{title}.** {_escape(' '.join(body.split()))}")
    return "\n\n".join(blocks)
