"""Track files: what is written reads back, foreign formats are understood, damaged files are refused."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ms_infer.errors import ConfigError, MotionStreamError, TrackShapeError
from ms_infer.tracks import Tracks

SIZE = (120, 160)


def sample(size: tuple[int, int] | None = SIZE) -> Tracks:
    generator = np.random.default_rng(0)
    height, width = size or (1, 1)
    points = generator.uniform(0, 1, (3, 5, 2)) * [width, height]
    return Tracks(points, generator.random((3, 5)) < 0.7, [4, 9, 2], size=size, fps=12.5)


def npz_bytes(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def write_ati(path: Path, array: np.ndarray) -> Path:
    torch.save(npz_bytes(array=array), path)
    return path


def write_wan_move(folder: Path, points: np.ndarray, visible: np.ndarray) -> Path:
    np.save(folder / "case_tracks.npy", points)
    np.save(folder / "case_visibility.npy", visible)
    return folder / "case_tracks.npy"


@pytest.mark.parametrize("ending", [".npz", ".json"])
@pytest.mark.parametrize("size", [SIZE, None])
def test_our_formats_keep_every_bit(tmp_path: Path, ending: str, size: tuple[int, int] | None) -> None:
    tracks = sample(size)
    tracks.save(tmp_path / f"t{ending}")
    back = Tracks.load(tmp_path / f"t{ending}", size=(7, 7), fps=3)  # the file knows better
    np.testing.assert_array_equal(back.points, tracks.points)
    np.testing.assert_array_equal(back.visible, tracks.visible)
    assert (back.ids.tolist(), back.size, back.fps) == ([4, 9, 2], size, 12.5)
    assert [file.name for file in tmp_path.iterdir()] == [f"t{ending}"]


@pytest.mark.parametrize("ending", [".npz", ".json"])
def test_no_tracks_are_kept_too(tmp_path: Path, ending: str) -> None:
    Tracks.empty(size=SIZE).save(tmp_path / f"t{ending}")
    back = Tracks.load(tmp_path / f"t{ending}")
    assert (back.count, back.size) == (0, SIZE)


def test_hand_written_json_needs_only_points(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text('{"tracks": [{"points": [[0.1, 0.2], [0.3, 0.2]]}, {"points": [[1, 0], [1, 1]]}]}')
    tracks = Tracks.load(tmp_path / "t.json")
    assert (tracks.count, tracks.rgb_frames, tracks.size, tracks.fps) == (2, 2, None, 16)
    assert tracks.visible.all()
    assert tracks.points[1].tolist() == [[1, 0], [1, 1]]


def test_a_trackers_npz_with_time_first_is_read(tmp_path: Path) -> None:
    begin = np.array([[10.0, 20], [80, 25], [140, 90]])
    points = (begin + np.arange(4)[:, None, None]).astype(np.float16)  # [4 RGB frames, 3 tracks, 2]
    visible = np.ones((4, 3), bool)
    visible[1, 1] = False
    np.savez(tmp_path / "t.npz", tracks=points, visible=visible, size=np.array(SIZE), fps=np.array(24))
    tracks = Tracks.load(tmp_path / "t.npz")
    assert (tracks.count, tracks.rgb_frames, tracks.size, tracks.fps) == (3, 4, SIZE, 24)
    assert tracks.points[1, 2].tolist() == points[2, 1].tolist()
    assert tracks.visible[1].tolist() == [True, False, True, True]


# ---- ATI


@pytest.mark.parametrize("dtype", [np.float32, np.uint16])
def test_ati_files_hold_eighths_of_pixels_at_24_fps(tmp_path: Path, dtype: type) -> None:
    array = np.zeros((2, 121, 1, 3), dtype)
    array[0, :, 0] = [80, 160, 8]
    array[1, 60:, 0] = [8, 16, 8]
    tracks = Tracks.load(write_ati(tmp_path / "a.pth", array), size=SIZE)
    assert (tracks.count, tracks.rgb_frames, tracks.fps, tracks.size) == (2, 121, 24, SIZE)
    assert tracks.points[0, 5].tolist() == [10, 20]
    assert tracks.visible[1].tolist() == [False] * 60 + [True] * 61


def test_ati_files_with_time_first_are_turned(tmp_path: Path) -> None:
    array = np.ones((121, 3, 1, 3), np.float32) * 8
    assert Tracks.load(write_ati(tmp_path / "a.pth", array), size=SIZE).count == 3


def test_ati_needs_the_picture_size(tmp_path: Path) -> None:
    path = write_ati(tmp_path / "a.pth", np.zeros((1, 121, 1, 3), np.float32))
    with pytest.raises(TrackShapeError, match=r"a\.pth: .*size=\(height, width\)"):
        Tracks.load(path)


@pytest.mark.parametrize("shape", [(1, 120, 1, 3), (1, 121, 3), (1, 121, 1, 2)])
def test_ati_of_another_shape_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(TrackShapeError, match=r"\[tracks, 121, 1, 3\]"):
        Tracks.load(write_ati(tmp_path / "a.pth", np.zeros(shape, np.float32)), size=SIZE)


def test_ati_round_trip_resamples_and_holds(tmp_path: Path) -> None:
    tracks = Tracks.grid(1, 2, size=SIZE, fps=12).drag((40, 60), (80, 60), seconds=1.0)
    tracks.save(tmp_path / "a.pth")
    back = Tracks.load(tmp_path / "a.pth", size=SIZE)
    np.testing.assert_allclose(back.points[:, :25:2], tracks.points, atol=1e-3)
    np.testing.assert_allclose(back.points[:, 25:], np.repeat(tracks.points[:, -1:], 96, 1), atol=1e-3)


def test_ati_cannot_hold_more_than_five_seconds_or_relative_coordinates(tmp_path: Path) -> None:
    with pytest.raises(TrackShapeError, match="121 RGB frames"):
        Tracks.grid(1, 1, size=SIZE).drag((1, 1), (2, 2), seconds=6).save(tmp_path / "a.pth")
    with pytest.raises(TrackShapeError, match="to_pixels"):
        Tracks.grid(1, 1).save(tmp_path / "a.pth")
    assert not list(tmp_path.iterdir())


def test_a_pth_with_code_in_it_is_refused_and_not_run(tmp_path: Path) -> None:
    class Touch:
        def __reduce__(self) -> tuple[object, tuple[str, str]]:
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save(Touch(), tmp_path / "a.pth")
    with pytest.raises(TrackShapeError, match="plain data"):
        Tracks.load(tmp_path / "a.pth", size=SIZE)
    (tmp_path / "b.pth").write_bytes(pickle.dumps(Touch()))
    with pytest.raises(TrackShapeError):
        Tracks.load(tmp_path / "b.pth", size=SIZE)
    assert not (tmp_path / "ran").exists()


def test_a_pth_of_something_else_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2)}, tmp_path / "a.pth")
    with pytest.raises(TrackShapeError, match=r"bytes of an \.npz, not dict"):
        Tracks.load(tmp_path / "a.pth", size=SIZE)


# ---- Wan-Move


def test_wan_move_pairs_are_pixels_of_480x832_at_16_fps(tmp_path: Path) -> None:
    points = np.arange(81 * 2 * 2, dtype=np.float32).reshape(1, 81, 2, 2)
    visible = np.ones((1, 81, 2), bool)
    visible[0, 3, 1] = False
    tracks = Tracks.load(write_wan_move(tmp_path, points, visible))
    assert (tracks.count, tracks.rgb_frames, tracks.size, tracks.fps) == (2, 81, (480, 832), 16)
    np.testing.assert_array_equal(tracks.points[1], points[0, :, 1])
    assert np.flatnonzero(~tracks.visible[1]).tolist() == [3]


def test_wan_move_round_trip_converts_the_size(tmp_path: Path) -> None:
    tracks = Tracks.grid(2, 2, size=(240, 416)).drag((104, 60), (200, 60))
    tracks.save(tmp_path / "x_tracks.npy")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["x_tracks.npy", "x_visibility.npy"]
    np.testing.assert_allclose(Tracks.load(tmp_path / "x_tracks.npy").points, tracks.points * 2, rtol=1e-6)
    assert np.load(tmp_path / "x_tracks.npy").shape == (1, 17, 4, 2)


def test_wan_move_needs_both_files_that_fit(tmp_path: Path) -> None:
    path = write_wan_move(tmp_path, np.zeros((1, 5, 2, 2)), np.ones((1, 5, 3), bool))
    with pytest.raises(TrackShapeError, match=r"found \[1, 5, 2, 2\] and \[1, 5, 3\]"):
        Tracks.load(path)
    (tmp_path / "case_visibility.npy").unlink()
    with pytest.raises(TrackShapeError, match=r"no case_visibility\.npy beside it"):
        Tracks.load(path)
    np.save(tmp_path / "other.npy", np.zeros(3))
    with pytest.raises(ConfigError, match=r"NAME_tracks\.npy"):
        Tracks.load(tmp_path / "other.npy")


def test_an_npy_with_pickled_objects_is_refused(tmp_path: Path) -> None:
    path = write_wan_move(tmp_path, np.zeros((1, 5, 2, 2)), np.ones((1, 5, 2), bool))
    np.save(path, np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(TrackShapeError, match=r"not an \.npy of numbers"):
        Tracks.load(path)


# ---- damage


@pytest.mark.parametrize(
    "header", ["{'descr': '<f4', 'shape': (1,", "{'descr': '<f4', 'fortran_order': False, 'shape': (", "!"]
)
def test_an_array_with_a_broken_header_is_refused(tmp_path: Path, header: str) -> None:
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
    with zipfile.ZipFile(tmp_path / "t.npz", "w") as archive:
        archive.writestr("points.npy", content)
    with pytest.raises(TrackShapeError, match=r"^t\.npz: not an \.npz of plain arrays"):
        Tracks.load(tmp_path / "t.npz")


def test_an_array_that_claims_to_be_huge_is_refused(tmp_path: Path) -> None:
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000000,), }".ljust(118) + "\n"
    path = write_wan_move(tmp_path, np.zeros((1, 5, 2, 2)), np.ones((1, 5, 2), bool))
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(64))
    with pytest.raises(TrackShapeError, match=r"not an \.npy of numbers"):
        Tracks.load(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "expected"),
        ('{"tracks": [{"id": 1}]}', "expected"),
        (
            '{"tracks": [{"points": [[0, 0]]}, {"points": [[0, 0], [1, 1]]}]}',
            "points of track 1 has length 2, of track 0 1",
        ),
        ('{"tracks": [{"points": [[0, 0], [1]]}]}', "pair"),
        ('{"tracks": [{"points": [[0, NaN]]}]}', "NaN"),
        ('{"tracks": [{"points": [[0, "x"]]}]}', "numeric"),
        ('{"tracks": [{"points": [[0, 0]], "visible": [1, 1]}]}', r"visible must be \[1, 1\]"),
        ('{"tracks": [{"points": [[0, 0]], "id": 0.5}]}', "ids must be"),
        ('{"fps": "fast", "tracks": []}', "fps must be one number"),
        ('{"size": 5, "tracks": []}', "size must be"),
        ('{"tracks": 5}', "expected"),
    ],
)
def test_wrong_json_is_refused_with_the_reason(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(TrackShapeError, match=rf"^t\.json: .*{message}"):
        Tracks.load(tmp_path / "t.json")


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ending=st.sampled_from([".npz", ".json", ".pth", "_tracks.npy"]), data=st.data())
def test_damaged_files_raise_only_our_errors(tmp_path: Path, ending: str, data: st.DataObject) -> None:
    path = tmp_path / f"t{ending}"
    Tracks.grid(2, 2, size=SIZE).save(path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with contextlib.suppress(MotionStreamError):  # anything else is a defect; harmless damage may load
        Tracks.load(path, size=SIZE)


def test_an_archive_that_unpacks_to_too_much_is_refused_before_unpacking(tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(tmp_path / "t.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("points.npy", "w") as file,
    ):
        for _ in range(1100):
            file.write(bytes(1 << 20))
    with pytest.raises(TrackShapeError, match="unpacks to 1153433600 bytes"):
        Tracks.load(tmp_path / "t.npz")


def test_missing_files_and_unknown_endings_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no track file at"):
        Tracks.load(tmp_path / "no.npz")
    (tmp_path / "t.csv").write_text("")
    with pytest.raises(ConfigError, match=r"\.npz, \.json, \.pth, \.npy"):
        Tracks.load(tmp_path / "t.csv")
    with pytest.raises(ConfigError, match=r"\.npz, \.json, \.pth, \.npy"):
        sample().save(tmp_path / "t.csv")
    with pytest.raises(ConfigError, match="cannot write"):
        sample().save(tmp_path / "no" / "t.npz")


def test_a_failed_save_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.json"
    sample().save(path)
    before = path.read_bytes()

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ConfigError, match="No space left"):
        sample(None).save(path)
    assert path.read_bytes() == before
    assert json.loads(before)["fps"] == 12.5
