"""The files of the page: short modules that need no build step, in plain words."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import pytest

STATIC = Path(str(files("ms_infer.serve"))) / "static"
MODULES = sorted(STATIC.glob("*.js"))
MOST_LINES = 250


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.name)
def test_module_is_short_and_imports_what_is_there(module: Path) -> None:
    text = module.read_text()
    assert len(text.splitlines()) <= MOST_LINES
    for name in re.findall(r'^import .*"\./(.+?)";$', text, re.M):
        assert (STATIC / name).is_file()


def test_page_speaks_without_jargon() -> None:
    shown = (STATIC / "index.html").read_text() + (STATIC / "words.js").read_text()
    assert not re.search(r"photon|jitter|\bp50<|\bp95<|latency|frustum|anchor", shown)
