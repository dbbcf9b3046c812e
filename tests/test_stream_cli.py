"""`ms-stream`: arguments, exit codes, the video it writes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ms_infer.checkpoint import save_student
from ms_infer.cli.stream import load_tracks, main, parse_camera, parse_drag
from ms_infer.errors import ConfigError
from ms_infer.media import read_video
from ms_infer.tracks import Tracks
from tests.tiny import tiny_config, tiny_student


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("student") / "tiny.safetensors"
    save_student(tiny_student(), path)
    return path


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.linear_gradient("L").convert("RGB").save(path)
    return path


def test_a_drag_becomes_an_mp4(
    checkpoint: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.mp4"
    drag = ["--drag", "0.3,0.3:0.7,0.5", "--grid", "4", "--show-tracks"]

    status = main([str(checkpoint), "--image", str(photo), *drag, "--seconds", "2", "-o", str(out), "--json"])

    captured = capsys.readouterr()
    frames, fps = read_video(out)
    assert status == 0
    assert (len(frames), fps, frames.shape[1:]) == (32, 16.0, (32, 32, 3))
    assert json.loads(captured.out)["frames"] == 32
    assert captured.err.rstrip().endswith(f"→ {out}")


def test_png_folders_and_camera(checkpoint: Path, photo: Path, tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    camera = ["--camera", "pan=0.1,0 zoom=1.1 roll=5", "--grid", "4"]

    status = main([str(checkpoint), "--image", str(photo), *camera, "--seconds", "0.5", "-o", f"{folder}/", "-q"])

    assert status == 0
    assert len(list(folder.glob("*.png"))) == 8


def test_raw_frames_go_to_a_pipe(checkpoint: Path, photo: Path) -> None:
    command = [sys.executable, "-m", "ms_infer.cli.stream", str(checkpoint), "--image", str(photo)]

    run = subprocess.run([*command, "--grid", "4", "--seconds", "0.5", "-o", "-"], capture_output=True, check=True)

    assert len(run.stdout) == 8 * 32 * 32 * 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--image", "nowhere.jpg"], "nowhere.jpg"),
        (["--drag", "1,2"], "x0,y0:x1,y1"),
        (["--camera", "spin=3"], "pan=dx,dy"),
        (["--tracks", "nowhere.npz"], "nowhere.npz"),
        (["-o", "video.xyz"], ".mp4"),
        (["-o", "-", "--json"], "stdout"),
        (["--seconds", "0"], "positive"),
        (["--engine", "warp"], "one of auto"),
        (["--grid", "20"], "at most 24"),
    ],
)
def test_mistakes_get_one_line_and_status_one(
    checkpoint: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main([str(checkpoint), "--grid", "4", *arguments])

    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    assert status == 1
    assert len(lines) == 1
    assert lines[0].startswith("ms-stream: failed: ")
    assert words in lines[0]


def test_usage_errors_exit_with_two(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["--no-such-option"])

    assert exit_info.value.code == 2


def test_help_needs_no_torch() -> None:
    code = (
        "import sys\n"
        "from ms_infer.cli.stream import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit as done:\n    print(done.code, 'torch' in sys.modules, file=sys.stderr)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "--drag" in run.stdout
    assert run.stderr.split() == ["0", "False"]


def test_drag_and_camera_words() -> None:
    assert parse_drag("0.1,0.2:0.3,0.4") == ((0.1, 0.2), (0.3, 0.4))
    assert parse_camera("pan=0.1,-0.2; zoom=2") == {"pan": (0.1, -0.2), "zoom": 2.0}
    with pytest.raises(ConfigError, match="zoom=factor"):
        parse_camera("zoom=big")


def test_ati_tracks_take_their_size_from_the_picture(photo: Path, tmp_path: Path) -> None:
    size = (256, 256)
    path = tmp_path / "ati.pth"
    Tracks.grid(3, 3, size=size, fps=24).drag((100, 100), (160, 100), radius=60).save(path)

    tracks = load_tracks(str(path), str(photo), tiny_config())

    assert tracks.size == (32, 32)
    assert tracks.points.max() < 32
    assert np.ptp(tracks.points[..., 0], axis=1).max() == pytest.approx(60 / 8, rel=0.1)
