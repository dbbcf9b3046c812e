"""From `docs/` to what the site is made of: marks in the pages become option tables, programs and the C reference."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

from scripts.docs.c_header import header_reference
from scripts.docs.options import option_tables

ROOT = Path(__file__).resolve().parents[2]
MARK = re.compile(r"^<!-- (options|include|c-header|file|not run): (.+?) -->$", re.M)
LANGUAGES = {".py": "python", ".hpp": "cpp", ".h": "c", ".c": "c", ".cpp": "cpp"}


def write_pages(folder: Path) -> None:
    """Copy `docs/` to `folder` with every mark replaced; whatever else lies there goes."""
    if folder.exists():
        shutil.rmtree(folder)
    shutil.copytree(ROOT / "docs", folder)
    for page in folder.rglob("*.md"):
        page.write_text(expand(page.read_text()))


def expand(text: str) -> str:
    """A page with its marks replaced."""
    return MARK.sub(lambda mark: _EXPANDERS[mark[1]](mark[2]), text)


def include(path: str) -> str:
    """A file of the repository as a code block."""
    return f"```{LANGUAGES[Path(path).suffix]}\n{(ROOT / path).read_text().rstrip()}\n```"


def not_run(reason: str) -> str:
    """A line that says why the tests do not run the block below it."""
    return f"*Not run by the tests: {reason}.*\n"


_EXPANDERS: dict[str, Callable[[str], str]] = {
    "options": option_tables,
    "include": include,
    "c-header": lambda path: header_reference((ROOT / path).read_text()),
    "file": "**`{}`**\n".format,
    "not run": not_run,
}
