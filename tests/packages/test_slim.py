"""`pip install ms-infer[cpu]` on every Python that can be had: no PyTorch, and the same frames as with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.packages.conftest import Environment

pytestmark = pytest.mark.timeout(1800)
STREAM = ("--seconds", "1", "--grid", "4", "--precision", "fp32", "--seed", "3", "-o", "-")


def test_a_bundle_streams_the_same_frames_without_pytorch(slim: Environment, full: Environment, bundle: Path) -> None:
    assert slim.run("python", "-c", "import torch").returncode != 0

    done, expected = (one.run("ms-stream", bundle, *STREAM) for one in (slim, full))

    assert done.returncode == 0, done.stderr.decode()
    assert len(done.stdout) == 16 * 32 * 32 * 3
    assert done.stdout == expected.stdout


def test_what_needs_pytorch_says_what_to_install(slim: Environment) -> None:
    done = slim.run("ms-stream", "demo", "-o", "demo.gif")

    assert done.returncode == 3
    assert "pip install 'ms-infer[torch]'" in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1


def test_frames_per_second_are_measured_without_pytorch(slim: Environment, bundle: Path) -> None:
    done = slim.run("ms-bench", bundle, "--chunks", "3", "--warm-up", "1")

    assert done.returncode == 0, done.stderr.decode()
