"""What the pages tell to type exists: extras, options, environment variables; the package comes from no index."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from scripts.docs.options import capture
from tests.docs.pages import DOCS, ROOT, pages

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SOURCES = [*pages(), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]


def tracked(*endings: str) -> list[Path]:
    """Files of the repository with these endings, as git or else the folder lists them."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    files = [ROOT / name for name in listed] or [path for path in ROOT.rglob("*") if ".venv" not in path.parts]
    return [path for path in files if path.suffix in endings and path.is_file()]


def test_nothing_says_to_install_a_name_that_no_index_has() -> None:
    """An extra of the package that is installed, `pip install 'ms-infer[cpu]'`, takes nothing but what it lacks."""
    name = PROJECT["name"].replace("-", "[-_]")
    pattern = re.compile(rf"pip install [^\n`]*?['\" ]{name}\b(?![/\\\[])")
    told = [
        f"{path.relative_to(ROOT)}: {found[0]}"
        for path in tracked(".md", ".py", ".cpp", ".hpp", ".h", ".cmake", ".html", ".js")
        if path != Path(__file__)
        for found in pattern.finditer(path.read_text())
    ]
    assert not told, told


def test_every_extra_that_is_named_exists() -> None:
    known = set(PROJECT["optional-dependencies"])
    named = {
        extra
        for path in [*SOURCES, *tracked(".py")]
        for group in re.findall(r"pip install (?:-e ['\"]\.|['\"]ms-infer)\[([a-z,]+)\]", path.read_text())
        for extra in group.split(",")
    }
    named |= {extra for page in pages() for extra in re.findall(r"`\[([a-z]+)\]`", page.read_text())}

    assert named
    assert named <= known


@pytest.mark.parametrize("command", sorted(PROJECT["scripts"]))
def test_every_option_that_is_shown_exists(command: str) -> None:
    known = {name for parser in capture(command).values() for one in parser._actions for name in one.option_strings}
    shown: dict[str, str] = {}
    for path in SOURCES:
        for line in path.read_text().splitlines():
            for call in re.findall(rf"(?<![\w/-]){command} ([^`|;&#>\n]*)", line):
                shown |= {option: f"{path.name}: {line}" for option in re.findall(r"(?<!\S)--?[a-z][\w-]*", call)}

    assert not {option: where for option, where in shown.items() if option not in known}


def test_the_environment_variables_are_those_that_are_read() -> None:
    page = (DOCS / "commands" / "environment.md").read_text()
    told = set(re.findall(r"^\| `MS_INFER_([A-Z_]+)`", page, re.M))
    sources = [
        path.read_text() for folder in ("ms_infer", "export", "training") for path in (ROOT / folder).rglob("*.py")
    ]
    read = {name for text in sources for name in re.findall(r"\benv\(\s*\"([A-Z_]+)\"", text)}
    read |= {name for text in sources for name in re.findall(r"environ(?:\.get\()?\[?\"MS_INFER_([A-Z_]+)\"", text)}

    assert told == read
