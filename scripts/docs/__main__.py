"""Build the documentation site: python -m scripts.docs [--serve]. A broken link fails."""

from __future__ import annotations

import http.server
import subprocess
import sys
from functools import partial
from importlib.util import find_spec

from scripts.docs.links import broken_links
from scripts.docs.pages import ROOT, write_pages

PAGES = ROOT / "build" / "docs" / "pages"
SITE = ROOT / "build" / "docs" / "site"


def build() -> int:
    """Write the pages, make the site from them, check its links; returns the exit code."""
    if find_spec("zensical") is None or find_spec("mkdocstrings_handlers") is None:
        print("docs: zensical or mkdocstrings is missing: pip install -e '.[docs]'", file=sys.stderr)
        return 3
    write_pages(PAGES)
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict", "-f", str(ROOT / "zensical.toml")]
    if subprocess.run(command, cwd=ROOT, check=False).returncode:
        return 1
    broken = broken_links(SITE)
    for line in broken:
        print(f"docs: {line}", file=sys.stderr)
    print(f"docs: {len(broken)} broken links; open {SITE / 'index.html'}", file=sys.stderr)
    return 1 if broken else 0


def serve(port: int = 8700) -> None:
    """Show the site at a local address until interrupted; its search needs one."""
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(SITE))
    print(f"http://localhost:{port}/")
    http.server.ThreadingHTTPServer(("127.0.0.1", port), handler).serve_forever()


def main() -> int:
    code = build()
    if code == 0 and "--serve" in sys.argv[1:]:
        serve()
    return code


if __name__ == "__main__":
    sys.exit(main())
