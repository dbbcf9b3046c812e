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
from ms_infer.cli.tour import ARCH, tour_scenes
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
        (["--sheet", "frames.txt"], "NAME.jpg"),
        (["--tour", "--image", "photo.png", "--drag", "0,0:1,1"], "leave --image, --drag out"),
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


def test_a_tour_has_three_scenes_and_a_row_for_each(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, sheet = tmp_path / "tour.mp4", tmp_path / "tour.png"

    status = main([str(checkpoint), "--tour", "--grid", "4", "--seconds", "1.5", "--sheet", str(sheet), "-o", str(out)])

    lines = capsys.readouterr().err.strip().splitlines()
    frames, _ = read_video(out)
    assert status == 0
    assert len(frames) == 24
    assert [line.partition(":")[2].partition(" s:")[0].strip() for line in lines[:3]] == [
        "0.0-0.5",
        "0.5-1.0",
        "1.0-1.5",
    ]
    assert lines[3].endswith(f"→ {out}, {sheet}")
    with Image.open(sheet) as picture:
        assert picture.size == (8 * 34 - 2, 3 * 34 - 2)
        shown = np.asarray(picture)
    for row in range(3):
        first = shown[34 * row : 34 * row + 32, :32].astype(np.int16)
        assert np.abs(first - frames[8 * row]).mean() < 8  # the codec's error


def test_a_sheet_of_one_scene_is_one_row(checkpoint: Path, photo: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.webp"
    options = ["--grid", "4", "--seconds", "0.5", "--sheet", str(sheet), "-o", f"{tmp_path / 'frames'}/", "-q"]

    assert main([str(checkpoint), "--image", str(photo), *options]) == 0
    with Image.open(sheet) as picture:
        assert picture.size == (8 * 34 - 2, 32)


def test_the_tour_drags_on_a_path_moves_the_camera_and_drags_in_a_photograph() -> None:
    path, camera, photograph = tour_scenes(Tracks.grid(12, 12), 2.0)
    grip = path.example.drags[0][0]
    ball = np.linalg.norm(path.tracks.points[:, 0] - grip, axis=-1) < 0.05
    way = path.tracks.points[ball].mean(0) - path.tracks.points[ball, 0].mean(0) + grip
    corners = [np.linalg.norm(way - corner, axis=-1).min() for corner in ARCH]
    ends = [scene.tracks.points[:, -1] - scene.tracks.points[:, 0] for scene in (path, camera, photograph)]
    moved = [np.linalg.norm(end, axis=-1) > 0.01 for end in ends]

    assert ball.any()
    assert max(corners) < 0.02
    np.testing.assert_allclose(way[-1], ARCH[-1], atol=0.01)
    assert moved[0].mean() < 0.2
    assert moved[1].mean() > 0.9, "the camera takes the whole picture along"
    assert 0 < moved[2].mean() < 0.4
    assert all(scene.tracks.seconds <= 2.0 for scene in (path, camera, photograph))
    assert photograph.example.image.suffix == ".jpg"


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
