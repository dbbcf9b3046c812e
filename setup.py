"""What pyproject.toml cannot say: the README of a package index, where links to files lead nowhere."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!\w+:|#)([^)]+)\)")


def index_readme(text: str, source: str | None, version: str) -> str:
    """The README with links to files made absolute.

    source: address of the repository (Source in project.urls); without one, links become their words and pictures go.
    """

    def absolute(found: re.Match[str]) -> str:
        picture, words, target = found.groups()
        if source is None:
            return "" if picture else words
        return f"{picture}[{words}]({source.rstrip('/')}/{'raw' if picture else 'blob'}/v{version}/{target})"

    return LINK.sub(absolute, text)


def main() -> None:
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
    version = re.search(r'__version__ = "(.+)"', (ROOT / "ms_infer" / "_version.py").read_text())
    assert version is not None, "ms_infer/_version.py holds no version"
    readme = index_readme((ROOT / "README.md").read_text(), urls.get("Source"), version[1])
    setup(long_description=readme, long_description_content_type="text/markdown")


if __name__ == "__main__":
    main()
