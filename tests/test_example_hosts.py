"""The examples that put a stream into another program run as they stand: window, web service, notebook, pipes."""

from __future__ import annotations

import re
import runpy
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ms_infer.checkpoint import save_student
from tests.tiny import tiny_student

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("student") / "tiny.safetensors"
    save_student(tiny_student(), path)
    return str(path)


def moved(frames: list[NDArray[np.uint8]]) -> bool:
    return bool((frames[0] != frames[-1]).any())


def test_the_window_gives_the_mouse_to_the_hand(checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The build of OpenCV without windows, with those of its functions that need one played by this test."""
    cv2 = pytest.importorskip("cv2")
    shown: list[NDArray[np.uint8]] = []
    mouse: list[Any] = []

    def wait(_: int) -> int:
        (on_mouse, given), frame = mouse[0], len(shown)
        event = {2: cv2.EVENT_LBUTTONDOWN, 20: cv2.EVENT_LBUTTONUP}.get(frame, cv2.EVENT_MOUSEMOVE)
        on_mouse(event, 64 + frame, 64, 0, given)
        return ord("q") if frame == 34 else -1

    monkeypatch.setattr(cv2, "namedWindow", lambda name: None)
    monkeypatch.setattr(cv2, "setMouseCallback", lambda name, call, given: mouse.append((call, given)))
    monkeypatch.setattr(cv2, "imshow", lambda name, picture: shown.append(picture))
    monkeypatch.setattr(cv2, "waitKey", wait)
    monkeypatch.setattr(cv2, "destroyAllWindows", lambda: None)
    monkeypatch.setattr(sys, "argv", ["opencv_window.py", checkpoint])

    runpy.run_path(str(EXAMPLES / "opencv_window.py"), run_name="__main__")

    assert len(shown) == 34
    assert shown[0].shape == (128, 128, 3)
    assert moved(shown)
    hand = mouse[0][1][0]
    assert (hand.kinds > 0).any()  # points that the mouse took along


def test_the_image_is_made_of_what_is_there() -> None:
    """Without a container engine: every extra, script and file that the Dockerfile names exists."""
    text = (ROOT / "Dockerfile").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [*re.findall(r"\[([a-z,]+)\]", text), *re.findall(r"EXTRAS=([a-z,]+)", text)]
    extras += re.findall(r"EXTRAS=([a-z,]+)", (ROOT / "docs/howto/docker.md").read_text())

    assert {one for group in extras for one in group.split(",")} <= set(project["optional-dependencies"])
    assert set(re.findall(r"\bms-\w+", text)) - {"ms-infer"} <= set(project["scripts"])
    assert f'"{project["optional-dependencies"]["torch"][0]}"' in text
    assert not set((ROOT / ".dockerignore").read_text().split()) & {"ms_infer", "export", "kernels", "LICENSE"}
