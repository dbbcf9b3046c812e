"""Every link and picture of a built site leads somewhere inside it: also those that the site's maker does not check."""

from __future__ import annotations

from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class _Page(HTMLParser):
    """Anchors and links of one page."""

    def __init__(self) -> None:
        super().__init__()
        self.anchors: set[str] = {""}
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.anchors.update(value for name in ("id", "name") if (value := values.get(name)))
        target = values.get("href") if tag in ("a", "link") else values.get("src")
        if target:
            self.links.append(target)


@cache
def _read(path: Path) -> _Page:
    page = _Page()
    page.feed(path.read_text())
    return page


def broken_links(site: Path) -> list[str]:
    """Lines that name a page and what it links to in vain; addresses of other hosts are not followed."""
    _read.cache_clear()
    pages = sorted(path for path in site.rglob("*.html") if path.name != "404.html")
    return [f"{page.relative_to(site)} links to {link}" for page in pages for link in _broken(page, site)]


def _broken(page: Path, site: Path) -> list[str]:
    found = []
    for link in _read(page).links:
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            continue
        target = (page.parent / unquote(parts.path)).resolve() if parts.path else page.resolve()
        target = target / "index.html" if target.is_dir() else target
        if not _reaches(target, unquote(parts.fragment), site.resolve()):
            found.append(link)
    return list(dict.fromkeys(found))


def _reaches(target: Path, fragment: str, site: Path) -> bool:
    if not (target.is_relative_to(site) and target.is_file()):
        return False
    return target.suffix != ".html" or fragment in _read(target).anchors
