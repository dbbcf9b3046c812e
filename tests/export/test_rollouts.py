"""Free rollouts of a bundle are judged by how they follow their tracks."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ms_export import verify
from ms_export.motion_error import track_errors
from ms_export.stimulus import example_player

from ms_infer.checkpoint import Student
from ms_infer.config import StreamConfig, preset
from ms_infer.demo import default_example
from ms_infer.tracks import Tracks
from ms_infer.tracks.player import TrackPlayer
from tests.tiny import tiny_config


@pytest.fixture(scope="module")
def drawn() -> verify.Frames:
    """24 frames of a smooth picture whose left half moves a pixel a frame to the right."""
    rows, columns = np.mgrid[0:64, 0:160] / 8
    wide = np.stack([127 + 60 * np.sin(rows * (1 + c) + columns * 2) * np.cos(columns * (3 - c)) for c in range(3)], -1)
    return np.stack([wide[:, 64 - t : 128 - t] for t in range(24)]).astype(np.uint8)


def player_of(shift: float) -> TrackPlayer:
    """A grid of 4 x 4 points that moves `shift` pixels to the right in 24 frames."""
    path = Tracks.grid(4, 4, size=(64, 64)).points + np.linspace(0, [shift, 0], 24)[None]
    player = TrackPlayer(64, 64, 16.0, 20)
    player.set(Tracks(path, size=(64, 64)), 0)
    return player


def test_end_point_errors_are_distances_to_the_tracks(drawn: verify.Frames) -> None:
    pytest.importorskip("cv2", reason="needs the extra [video]")
    followed, halfway = (track_errors([drawn, drawn], player_of(shift), 4, 4) for shift in (23.0, 11.5))
    assert followed[0] == followed[1] < 1
    assert halfway[0] == pytest.approx(6, abs=1), "the mean of 0.5 to 11.5"


def test_frames_that_move_otherwise_have_another_error(drawn: verify.Frames) -> None:
    pytest.importorskip("cv2", reason="needs the extra [video]")
    still = np.repeat(drawn[:1], 24, axis=0)
    moving, resting = track_errors([drawn, still], player_of(23.0), 4, 4)
    assert moving < 1
    assert resting > 5


def played(config: StreamConfig) -> Any:
    """Stands for an engine whose frames are prepared."""
    return SimpleNamespace(name="played", precision="fp32", config=config)


def judged(monkeypatch: pytest.MonkeyPatch, ours: float, theirs: float) -> verify.Check:
    frames = [np.zeros((9, 32, 32, 3), np.uint8), np.zeros((12, 32, 32, 3), np.uint8)]
    monkeypatch.setattr(verify, "rollout", lambda engine, chunks: iter(frames[:chunks]))
    monkeypatch.setattr(verify, "track_errors", lambda *_: [ours, theirs])
    return verify.check_rollout(played(tiny_config()), frames)


def test_a_rollout_must_follow_the_tracks_as_pytorch_does(monkeypatch: pytest.MonkeyPatch) -> None:
    assert judged(monkeypatch, 1.09, 1.0).passed
    assert not judged(monkeypatch, 1.11, 1.0).passed
    assert not judged(monkeypatch, 0.89, 1.0).passed
    check = judged(monkeypatch, 0.5, 0.52)
    assert (check.name, check.track_error, check.torch_track_error) == ("2 free", 0.5, 0.52)
    assert "0.500 (0.520)" in verify.format_checks([check])


def test_without_opencv_a_rollout_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    frames = [np.zeros((9, 32, 32, 3), np.uint8)]
    monkeypatch.setattr(verify, "rollout", lambda engine, chunks: iter(frames))
    check = verify.check_rollout(played(tiny_config()), frames)
    assert (check.passed, check.track_error, check.note) == (True, None, "no OpenCV")
    assert "no OpenCV" in verify.format_checks([check])


def test_the_example_is_the_demo_s_own(student: Student) -> None:
    shown = default_example()
    player = example_player(preset("demo"))
    assert player is not None
    moved = player.chunk(0, 48)
    path = np.linalg.norm(moved.points[:144, -1] - moved.points[:144, 0], axis=-1)
    assert shown.image.is_file()
    assert path.max() > 10
    assert np.median(path) == 0, "the background rests"
    assert example_player(student.config) is None
