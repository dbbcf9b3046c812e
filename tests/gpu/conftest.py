"""Skips this folder without a CUDA device, and says how many tests that were."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
SKIPPED = pytest.StashKey[int]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    ours = [item for item in items if HERE in item.path.parents]
    for item in ours:
        item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
    config.stash[SKIPPED] = len(ours)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    count = config.stash.get(SKIPPED, 0)
    if count:
        terminalreporter.write_line(f"tests/gpu: {count} tests skipped, no CUDA device: nothing is known about GPUs")
