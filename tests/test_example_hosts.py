"""The examples that put a stream into another program run as they stand: window, web service, notebook, pipes."""

from __future__ import annotations

import http.client
import io
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

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


def test_three_streams_of_one_model_make_one_video(checkpoint: str, tmp_path: Path) -> None:
    out = tmp_path / "three.gif"
    subprocess.run([sys.executable, EXAMPLES / "three_streams.py", checkpoint, out], check=True)

    with Image.open(out) as video:
        assert (video.width, video.height) == (96, 32)
        assert getattr(video, "n_frames", 1) == 32


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


def jpegs(answer: http.client.HTTPResponse, count: int) -> list[NDArray[np.uint8]]:
    """The first pictures of a motion JPEG."""
    pictures, taken = [], b""
    while len(pictures) < count:
        taken += answer.read1(65536)
        while (end := taken.find(b"\xff\xd9")) >= 0:
            pictures.append(np.asarray(Image.open(io.BytesIO(taken[taken.find(b"\xff\xd8") : end + 2]))))
            taken = taken[end + 2 :]
    return pictures


def test_the_web_service_shows_a_video_and_takes_what_a_pointer_does(checkpoint: str) -> None:
    pytest.importorskip("fastapi")
    command = [sys.executable, str(EXAMPLES / "fastapi_endpoint.py"), checkpoint, "0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        port = next(int(found[1]) for line in server.stderr if (found := re.search(r"http://127.0.0.1:(\d+)", line)))
        watching = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        watching.request("GET", "/video/me")
        answer = watching.getresponse()
        pictures = jpegs(answer, 2)
        taken = [post(port, "/hand/me", event=name, x=0.5, y=0.5) for name in ("press", "move", "release")]
        pictures += jpegs(answer, 24)
        assert taken[0][1] > 0
        assert post(port, "/hand/nobody", event="press")[0] == 404
        assert pictures[0].shape == (32, 32, 3)
        assert moved(pictures)
        answer.close()
        watching.close()
    finally:
        server.terminate()
        server.wait(60)


def post(port: int, path: str, **body: Any) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def test_the_cells_of_the_notebook_run_in_turn(checkpoint: str) -> None:
    notebook = json.loads((EXAMPLES / "notebook.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    names: dict[str, Any] = {}
    shown = []
    for cell in cells:
        *lines, last = cell.replace('Stream("demo")', f"Stream({checkpoint!r})").splitlines()
        exec("\n".join(lines), names)
        shown.append(eval(last, names))

    assert not any(cell.get("outputs") for cell in notebook["cells"])
    assert [len(clip.frames) for clip in shown if hasattr(clip, "frames")] == [33, 24]
    assert "data:image/webp" in shown[1]._repr_mimebundle_()["text/html"]


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="no ffmpeg")
@pytest.mark.skipif(shutil.which("gst-launch-1.0") is None, reason="no GStreamer")
def test_other_programs_read_the_stream_from_a_pipe(checkpoint: str, tmp_path: Path) -> None:
    from ms_infer.media import read_video

    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [EXAMPLES / "pipes.sh", checkpoint, tmp_path, "32x32", "--grid", "4"]
    subprocess.run(command, env={**os.environ, "PATH": path}, check=True)

    for name in ("ffmpeg.mp4", "gstreamer.ogv"):
        frames, _ = read_video(tmp_path / name)
        assert len(frames) == 32


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


def test_the_linter_of_dockerfiles_finds_nothing() -> None:
    linter = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if linter is None:
        pytest.skip("no hadolint")
    found = subprocess.run([linter, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")


def test_what_the_image_is_built_from_makes_its_wheel(tmp_path: Path) -> None:
    """The build's own command, over the files that `COPY . .` takes."""
    ignored = {line.removeprefix("**/") for line in (ROOT / ".dockerignore").read_text().split()}
    shutil.copytree(ROOT, tmp_path / "src", ignore=shutil.ignore_patterns(*ignored))
    command = re.search(r"pip wheel (.+?) \.", (ROOT / "Dockerfile").read_text())
    assert command is not None
    arguments = command[1].replace("/wheels", str(tmp_path / "wheels")).split()
    call = [sys.executable, "-m", "pip", "wheel", *arguments, "--no-build-isolation", "-q", tmp_path / "src"]
    subprocess.run(call, check=True, cwd=tmp_path)

    assert [path.name.split("-")[0] for path in (tmp_path / "wheels").iterdir()] == ["ms_infer"]
