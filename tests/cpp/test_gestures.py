"""Every gesture in C is Python's, bit for bit; and one script of gestures gives equal frames in Python, C and C++."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable
from ctypes import byref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load, save

from ms_infer import Stream, Tracks
from ms_infer.hand import Hand
from tests.cpp.conftest import needs_compiler
from tests.cpp.native import Camera, Library, NativeError, NativeHand, NativeTracks, corners_of

pytestmark = needs_compiler


def assert_same(native: NativeTracks, expected: Tracks) -> None:
    points, visible, ids = native.read()
    assert points.shape == expected.points.shape
    np.testing.assert_array_equal(points.view(np.uint32), expected.points.view(np.uint32))
    np.testing.assert_array_equal(visible, expected.visible)
    np.testing.assert_array_equal(ids, expected.ids)


def some_tracks(seed: int, size: tuple[int, int] | None, count: int = 300) -> Tracks:
    """Tracks that move, come and go; in pixels of a picture or in shares."""
    rng = np.random.default_rng(seed)
    unit = (1, 1) if size is None else (size[1], size[0])
    begin = rng.uniform(0, 1, (count, 1, 2)) + rng.normal(0, 0.01, (count, 12, 2)).cumsum(1)
    ids = rng.choice(10_000, count, replace=False)
    return Tracks(begin * unit, rng.random((count, 12)) < 0.9, ids, size=size, fps=float(rng.choice([16, 24, 30])))


SIZES = pytest.mark.parametrize("size", [None, (90, 161)])


def units(size: tuple[int, int] | None) -> tuple[float, float]:
    return (1.0, 1.0) if size is None else (float(size[1]), float(size[0]))


@SIZES
def test_grid_drag_path_and_resample(library: Library, size: tuple[int, int] | None) -> None:
    width, height = units(size)
    grid = Tracks.grid(13, 17, size=size, fps=24)
    native = library.tracks("ms_tracks_grid", 13, 17, *((0, 0) if size is None else (size[1], size[0])), 24.0)
    assert_same(native, grid)
    start, to = (0.31 * width, 0.42 * height), (0.87 * width, 0.13 * height)
    dragged = grid.drag(start, to, seconds=0.7, radius=0.4 * height, start=0.2)
    line = corners_of([start, to])
    native = library.tracks("ms_tracks_path", native.handle, line.ctypes.data, 2, 0.7, 0.4 * height, 0.2, 1)
    assert_same(native, dragged)
    corners = corners_of([start, to, (0.5 * width, 0.5 * height), (0.5 * width, 0.5 * height)])
    walked = dragged.path(corners[0], list(corners[1:]), seconds=1.1, start=0.5)
    native = library.tracks("ms_tracks_path", native.handle, corners.ctypes.data, len(corners), 1.1, 0.0, 0.5, 0)
    assert_same(native, walked)
    assert_same(library.tracks("ms_tracks_resample", native.handle, 30.0), walked.resample(fps=30.0))
    assert_same(library.tracks("ms_tracks_stretch", native.handle, 31), walked.resample(rgb_frames=31))
    assert_same(library.tracks("ms_tracks_stretch", native.handle, 1), walked.resample(rgb_frames=1))


@SIZES
@pytest.mark.parametrize("seed", range(4))
def test_grab(library: Library, size: tuple[int, int] | None, seed: int) -> None:
    width, height = units(size)
    tracks = some_tracks(seed, size)
    rng = np.random.default_rng(seed)
    (x, to_x), (y, to_y) = rng.random(2) * width, rng.random(2) * height
    expected = tracks.grab((x, y), (to_x, to_y), radius=0.2 * height, seconds=1.3, start=0.1)
    native = library.from_python(tracks)
    assert_same(library.tracks("ms_tracks_grab", native.handle, x, y, to_x, to_y, 1.3, 0.2 * height, 0.1), expected)


@SIZES
@pytest.mark.parametrize(
    "move",
    [
        {"pan": (0.1, -0.07)},
        {"zoom": 1.37},
        {"roll": 33.3, "aspect": 1.5},
        {"dolly": 0.45},
        {"pan": (0.02, 0.1), "zoom": 0.71, "roll": -71.0, "dolly": 1.3, "aspect": 0.6, "smooth": False},
    ],
)
@pytest.mark.parametrize("deep", [False, True])
def test_camera(library: Library, size: tuple[int, int] | None, move: dict[str, Any], deep: bool) -> None:
    tracks = some_tracks(7, size)
    depth = np.random.default_rng(2).uniform(0.3, 4, (9, 14)).astype(np.float32)
    expected = tracks.camera(**move, depth=depth if deep else None, seconds=0.9, start=0.15)
    camera = Camera(ctypes.sizeof(Camera))
    camera.pan_x, camera.pan_y = move.get("pan", (0.0, 0.0))
    for name in ("zoom", "roll", "dolly", "aspect"):
        setattr(camera, name, move.get(name, getattr(camera, name)))
    camera.linear, camera.seconds, camera.start = not move.get("smooth", True), 0.9, 0.15
    if deep:
        camera.depth, (camera.depth_height, camera.depth_width) = depth.ctypes.data, depth.shape
    native = library.from_python(tracks)
    assert_same(library.tracks("ms_tracks_camera", native.handle, byref(camera)), expected)


@SIZES
def test_static_merge_and_select(library: Library, size: tuple[int, int] | None) -> None:
    width, height = units(size)
    one, other = some_tracks(1, size, 40), some_tracks(2, None if size else (200, 300), 30)
    native, theirs = library.from_python(one), library.from_python(other)
    merged = library.tracks("ms_tracks_merge", native.handle, theirs.handle)
    assert_same(merged, one.merge(other))
    assert_same(library.tracks("ms_tracks_merge", theirs.handle, native.handle), other.merge(one))
    places = corners_of([(0.2 * width, 0.3 * height), (0.9 * width, 0.77 * height)])
    held = library.tracks("ms_tracks_static", merged.handle, places.ctypes.data, 2)
    assert_same(held, one.merge(other).static(places))
    wanted = one.ids[[7, 3, 11]]
    assert_same(library.tracks("ms_tracks_select", native.handle, wanted.ctypes.data, 3), one.select(wanted))
    hidden = Tracks(one.points, one.visible & (np.arange(40) % 3 > 0)[:, None], one.ids, size=one.size, fps=one.fps)
    seen = library.from_python(hidden)
    assert_same(library.tracks("ms_tracks_select", seen.handle, None, 0), hidden.select())
    assert_same(library.tracks("ms_tracks_select", native.handle, wanted.ctypes.data, 0), one.select([]))
    unknown = np.array([123456], np.int64)
    with pytest.raises(NativeError, match="no track has the id 123456"):
        library.tracks("ms_tracks_select", native.handle, unknown.ctypes.data, 1)


@SIZES
@pytest.mark.parametrize("ending", ["npz", "json"])
def test_files_go_both_ways(library: Library, size: tuple[int, int] | None, ending: str, tmp_path: Path) -> None:
    tracks = some_tracks(5, size)
    ours, theirs = tmp_path / f"ours.{ending}", tmp_path / f"theirs.{ending}"
    tracks.save(ours)
    native = library.tracks("ms_tracks_load", str(ours).encode(), 0, 0, 0.0)
    assert_same(native, tracks)
    library.call("ms_tracks_save", native.handle, str(theirs).encode())
    again = Tracks.load(theirs)
    assert (again.size, again.fps) == (tracks.size, tracks.fps)
    assert_same(native, again)


@pytest.mark.parametrize("count", [0, 1, 3000])
def test_deflated_archives_of_all_sizes_are_read(library: Library, count: int, tmp_path: Path) -> None:
    """Stored, fixed and dynamic blocks of DEFLATE."""
    tracks = Tracks(np.random.default_rng(0).integers(0, 9, (count, 7, 2)) / 8)
    tracks.save(tmp_path / "a.npz")
    assert_same(library.tracks("ms_tracks_load", str(tmp_path / "a.npz").encode(), 0, 0, 0.0), tracks)


def test_files_without_a_size_take_the_pictures(library: Library, tmp_path: Path) -> None:
    path = tmp_path / "plain.npz"
    for largest in (0.9, 90.0):
        np.savez(path, points=np.full((2, 3, 2), largest, np.float64))
        expected = Tracks.load(path, size=(100, 200), fps=24)
        assert_same(library.tracks("ms_tracks_load", str(path).encode(), 200, 100, 24.0), expected)
    with pytest.raises(NativeError, match=r"plain.npz: coordinates reach 90, so they are pixels"):
        library.tracks("ms_tracks_load", str(path).encode(), 0, 0, 0.0)


def damaged(data: bytes) -> list[tuple[str, bytes, str]]:
    flipped = bytearray(data)
    flipped[len(data) // 3] ^= 0x55
    return [
        ("cut.npz", data[:-30], "damaged"),
        ("flipped.npz", bytes(flipped), "flipped.npz: "),
        ("empty.npz", b"", "damaged"),
        ("a.json", b'{"tracks": [{"points": [[0, 0]], "speed": 1}]}', "'speed' means nothing here"),
        ("b.json", b'{"tracks": [{"points": [[0, 0]]}, {"points": [[0, 0], [1, 1]]}]}', "track 1 has length 2"),
        ("c.json", b"[1, 2", "c.json: "),
        ("d.pth", b"", "read and written as .npz and .json"),
    ]


def test_damaged_files_are_refused_by_name(library: Library, tmp_path: Path) -> None:
    some_tracks(1, None).save(tmp_path / "good.npz")
    for name, content, words in damaged((tmp_path / "good.npz").read_bytes()):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(NativeError, match=words.replace(".", r"\.")) as error:
            library.tracks("ms_tracks_load", str(tmp_path / name).encode(), 0, 0, 0.0)
        assert error.value.status == 1


def test_what_cannot_work_is_refused(library: Library) -> None:
    native = library.from_python(Tracks.grid(2, 2))
    with pytest.raises(NativeError, match="radius must be a positive number"):
        library.tracks("ms_tracks_grab", native.handle, 0.1, 0.1, 0.5, 0.5, 1.0, 0.0, 0.0)
    camera = Camera(ctypes.sizeof(Camera))
    for change, words in (({"zoom": -1.0}, "zoom must be"), ({"roll": 5.0}, "roll turns the picture")):
        changed = Camera.from_buffer_copy(camera)
        for name, value in change.items():
            setattr(changed, name, value)
        with pytest.raises(NativeError, match=words):
            library.tracks("ms_tracks_camera", native.handle, byref(changed))


THING = corners_of([(0.42, 0.42), (0.47, 0.47), (0.52, 0.52)])


def gestures(hand: Hand) -> None:
    """Things that are pressed and led, what was painted, what is taken away, tracks that are played."""
    hand.press(1, 0.45, 0.45, at=0.1, reach=0.1, thing=THING)
    hand.move(1, 0.55, 0.45, at=0.4)
    hand.path(THING[:2] + 0.3, seconds=1.5, reach=0.1, thing=THING + 0.2)
    hand.brush(THING * 0.5)
    hand.static(THING - 0.3)
    hand.remove(THING[:1] - 0.3)
    hand.steer(x=0.5, y=0.0, zoom=-0.25, roll=0.125)
    hand.carry(x=0.0, y=0.1, zoom=0.0, roll=0.0)


def same_gestures(hand: NativeHand) -> None:
    def places(array: NDArray[np.float64]) -> tuple[Any, int]:
        kept = np.ascontiguousarray(array)
        kept_alive.append(kept)
        return ctypes.c_void_p(kept.ctypes.data), len(kept)

    kept_alive: list[Any] = []
    hand.call("press", 1, 0.45, 0.45, 0.1, 0.1, *places(THING))
    hand.call("move", 1, 0.55, 0.45, 0.4)
    hand.call("path", *places(THING[:2] + 0.3), 1.5, 0.1, *places(THING + 0.2))
    hand.call("brush", *places(THING * 0.5))
    hand.call("static", *places(THING - 0.3))
    hand.call("remove", *places(THING[:1] - 0.3))
    hand.call("steer", 0.5, 0.0, -0.25, 0.125)
    hand.call("carry", 0.0, 0.1, 0.0, 0.0)


@pytest.mark.parametrize("played", [False, True])
def test_a_hand_goes_on_from_python_to_c_and_back(library: Library, played: bool) -> None:
    tracks = some_tracks(3, None, 20)
    ours, theirs, native = Hand(), NativeHand(library), library.from_python(tracks)
    if played:
        ours.play(tracks, loop=True)
        theirs.call("play", native.handle, 1)
    gestures(ours)
    same_gestures(theirs)
    for now in (0.5, 1.0):
        assert_same(theirs.tracks(now), ours.tracks(now))
    as_python, as_c = Hand(), NativeHand(library)
    as_python.load_state(load(theirs.save(1.0)), 1.0)
    as_c.load(1.0, save({name: np.ascontiguousarray(one) for name, one in ours.state(1.0).items()}))
    assert load(as_c.save(1.0)).keys() == ours.state(1.0).keys()
    for now in (1.5, 2.0, 5.0):
        expected = ours.tracks(now)
        assert_same(as_c.tracks(now), expected)
        assert_same(library.from_python(as_python.tracks(now)), expected)


class Script:
    """What Python makes of the words of tests/cpp/gestures.txt."""

    def __init__(self, stream: Stream) -> None:
        self.stream, self.tracks, self.hand = stream, Tracks.empty(), Hand()
        self.frames: list[NDArray[np.uint8]] = []

    def play(self, word: str, n: list[float]) -> None:
        pairs = list(zip(n[::2], n[1::2], strict=False))
        if word == "step":
            self.frames.append(np.array(self.stream.step().frames))
        elif word in ("set", "live"):
            live = self.hand.tracks(n[0], frames=self.stream.next_rgb_frames) if word == "live" else self.tracks
            self.stream.set_tracks(live)
        elif word == "hand":
            self.hand = Hand(int(n[0]), int(n[1]), aspect=n[2], fps=n[3], capacity=int(n[4]))
        elif word in ("press", "move", "release"):
            reach = {"reach": n[4]} if word == "press" else {}
            at = {"at": n[3]} if word != "release" else {}
            getattr(self.hand, word)(int(n[0]), *n[1:3], **at, **reach)
        elif word in ("steer", "carry"):
            getattr(self.hand, word)(x=n[0], y=n[1], zoom=n[2], roll=n[3])
        elif word in ("brush", "static_points"):
            getattr(self.hand, word.removesuffix("_points"))(pairs)
        else:
            self.tracks = self.changed(word, n, pairs)

    def changed(self, word: str, n: list[float], pairs: list[tuple[float, float]]) -> Tracks:
        tracks = self.tracks
        made: dict[str, Callable[[], Tracks]] = {
            "grid": lambda: Tracks.grid(int(n[0]), int(n[1])),
            "grab": lambda: tracks.grab(pairs[0], pairs[1], seconds=n[4], radius=n[5], start=n[6]),
            "static": lambda: tracks.static(pairs),
            "resample": lambda: tracks.resample(fps=n[0]),
            "path": lambda: tracks.path(pairs[2], pairs[3:], seconds=n[0], radius=n[1], start=n[2], smooth=n[3] != 0),
            "camera": lambda: tracks.camera(
                pan=(n[0], n[1]), zoom=n[2], roll=n[3], aspect=n[4], dolly=n[5], seconds=n[6], start=n[7]
            ),
        }
        return made[word]()


def test_one_script_of_gestures_gives_equal_frames_in_python_c_and_cpp(
    build: Path, bundle: Path, tmp_path: Path
) -> None:
    script = Path(__file__).parent / "gestures.txt"
    with Stream(bundle, engine="openvino", precision="fp32") as stream:
        player = Script(stream)
        for line in script.read_text().splitlines():
            word, *numbers = line.split()
            player.play(word, [float(number) for number in numbers])
    expected = np.concatenate(player.frames)
    assert len(expected) == 9 + 7 * 12
    for name in ("script_c", "script_cpp"):
        out = tmp_path / f"{name}.rgb"
        done = subprocess.run([build / "tests" / "cpp" / name, bundle, script, out], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
        np.testing.assert_array_equal(np.fromfile(out, np.uint8).reshape(expected.shape), expected)
