"""What pages share: the demo's bundle, which is made by the first block that exports it."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that is not there before a block of a page has exported the demo."""
    return tmp_path_factory.mktemp("exported") / "demo"
