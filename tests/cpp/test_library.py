"""The C++ library against Python: host logic number for number, and frames of one bundle."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from collections.abc import Callable
from ctypes import c_double, c_int, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ms_export.exporter import export_bundle
from ms_export.options import ExportOptions
from numpy.typing import NDArray

from ms_infer import ContextConfig, Model, ScheduleConfig, StreamConfig, Tracks
from ms_infer.blend import WAYS, Blend, Way
from ms_infer.config import TextConfig
from ms_infer.media import load_image
from ms_infer.numerics.angles import RotationTables, timestep_sinusoids
from ms_infer.numerics.noise import normal
from ms_infer.numerics.schedule import denoise_steps
from ms_infer.text import tokenize
from ms_infer.tracks.player import TrackPlayer
from tests.cpp.compare_python import compare, picture
from tests.cpp.conftest import needs_compiler
from tests.cpp.native import Library, NativeError, NativeModel, NativeStream
from tests.test_recompute import AGAIN
from tests.tiny import without_tracks

ROOT = Path(__file__).resolve().parents[2]

pytestmark = needs_compiler

Both = Callable[[Path], tuple[Model, NativeModel]]


def pointer(array: NDArray[Any]) -> c_void_p:
    assert array.flags.c_contiguous
    return c_void_p(array.ctypes.data)


def assert_within_one_float32_step(made: NDArray[Any], expected: NDArray[Any]) -> None:
    """The mathematics libraries may round the last bit of a cosine differently."""
    np.testing.assert_array_max_ulp(made, expected, maxulp=1)


@pytest.mark.parametrize(("seed", "chunk", "denoise_pass"), [(0, 0, 0), (2**64 - 1, 2**40 + 5, 3), (12345, 7, 1)])
def test_noise_is_the_same(probe: ctypes.CDLL, seed: int, chunk: int, denoise_pass: int) -> None:
    made = np.zeros(9_999, np.float32)
    probe.ms_probe_normal(c_uint64(seed), c_uint64(chunk), c_uint32(denoise_pass), pointer(made), c_size_t(made.size))
    assert_within_one_float32_step(made, normal(seed, chunk, denoise_pass, made.size))


@pytest.mark.parametrize("position", [0, 6, 10_000_000])
@pytest.mark.parametrize("head_dim", [12, 64, 128])
def test_rotation_tables_are_the_same(probe: ctypes.CDLL, position: int, head_dim: int) -> None:
    frames, rows, columns = 3, 4, 5
    shape = (1, frames * rows * columns, head_dim // 2)
    made, expected = np.zeros((2, *shape), np.float32), np.zeros((2, *shape), np.float32)
    RotationTables(expected[0], expected[1], (rows, columns), head_dim).move_to(position)
    sizes = (c_int(n) for n in (frames, rows, columns, head_dim))
    probe.ms_probe_tables(c_int64(position), *sizes, pointer(made[0]), pointer(made[1]))
    # float32 of two float64 that differ in the last bit: equal but for rare ties, near zero to 1e-9
    np.testing.assert_allclose(made, expected, rtol=1.2e-7, atol=2e-9)


def test_timestep_sinusoids_are_the_same(probe: ctypes.CDLL) -> None:
    for timestep in (0.0, 333.25, 1000.0):
        made = np.zeros(256, np.float32)
        probe.ms_probe_sinusoids(c_double(timestep), pointer(made), c_size_t(made.size))
        np.testing.assert_allclose(made, timestep_sinusoids(timestep, 256), rtol=1.2e-7, atol=2e-9)


@pytest.mark.parametrize("shift", [1.0, 5.0, 6.0, 8.5])
@pytest.mark.parametrize("warp", [True, False])
@pytest.mark.parametrize("twice", [True, False])
def test_schedule_is_bit_equal(probe: ctypes.CDLL, shift: float, warp: bool, twice: bool) -> None:
    steps = (1000.0, 750.0, 500.5, 333.0, 1.0)
    config = ScheduleConfig(timesteps=steps, warp=warp, shift=shift, shifted_twice=twice)
    given_steps = np.array(config.timesteps)
    made = np.zeros((len(given_steps), 3))
    options = (int(warp), c_double(shift), int(twice))
    probe.ms_probe_schedule(pointer(given_steps), c_size_t(len(made)), *options, pointer(made))
    expected = [(s.timestep, s.sigma, s.next_sigma) for s in denoise_steps(config)]
    np.testing.assert_array_equal(made, np.array(expected))


@given(
    chunk=st.integers(1, 5),
    sink=st.integers(0, 5),
    window=st.integers(0, 9),
    relative=st.booleans(),
    start=st.integers(0, 10**7),
    sink_start=st.integers(0, 50),
    longer=st.integers(0, 6),
)
@settings(max_examples=300, deadline=None)
def test_places_in_the_ring_are_the_same(
    probe: ctypes.CDLL,
    chunk: int,
    sink: int,
    window: int,
    relative: bool,
    start: int,
    sink_start: int,
    longer: int,
) -> None:
    rope = "relative" if relative else "absolute"
    context = ContextConfig(chunk_frames=chunk, sink_frames=sink, window_frames=window, rope=rope)  # type: ignore[arg-type]
    start, frames = start + sink_start, min(chunk + longer, context.cache_frames)
    expected = context.place(start, frames, sink_start=sink_start)
    sizes = np.array([chunk, sink, window, chunk, relative], np.int32)
    slots, out = np.zeros(64, np.int32), np.zeros(2, np.int64)
    count = probe.ms_probe_place(
        pointer(sizes), c_int64(start), c_int(frames), c_int64(sink_start), pointer(slots), pointer(out)
    )
    assert tuple(slots[:count]) == expected.slots
    assert (out[0], out[1]) == (expected.valid_frames, expected.sink_position)


@pytest.mark.parametrize(
    "prompt", ["", "A cat, a DOG!", "snow snow snow snow snow snow snow", "naïve K9 İce ẞ9", "x_y-9"]
)
def test_words_become_the_same_rows(probe: ctypes.CDLL, prompt: str) -> None:
    config = TextConfig(
        kind="words", tokens=6, dim=8, vocabulary=("a", "cat", "dog", "snow", "na", "ve", "k9", "i", "9")
    )
    vocabulary = (ctypes.c_char_p * len(config.vocabulary))(*(word.encode() for word in config.vocabulary))
    made = np.zeros(config.tokens, np.int64)
    probe.ms_probe_words(vocabulary, c_size_t(len(vocabulary)), prompt.encode(), pointer(made), c_size_t(made.size))
    assert made.tolist() == tokenize(prompt, config)


def fitted(probe: ctypes.CDLL, given_picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    made = np.zeros((32, 48, 3), np.uint8)
    height, width = given_picture.shape[:2]
    probe.ms_probe_picture(pointer(given_picture), c_int(height), c_int(width), pointer(made), c_int(32), c_int(48))
    return made


@pytest.mark.parametrize(("height", "width"), [(32, 48), (64, 64), (31, 200), (9, 13), (480, 640)])
def test_pictures_are_fitted_bit_for_bit(probe: ctypes.CDLL, height: int, width: int) -> None:
    given_picture = np.random.default_rng(5).integers(0, 256, (height, width, 3), dtype=np.uint8)
    np.testing.assert_array_equal(fitted(probe, given_picture), load_image(given_picture, 32, 48))


@pytest.mark.parametrize(("height", "width"), [(100, 37), (333, 48), (90, 160)])
def test_smooth_pictures_are_fitted_alike_where_pillow_takes_the_axes_in_turn(
    probe: ctypes.CDLL, height: int, width: int
) -> None:
    """Newer Pillow resizes some shapes by columns first; both round to bytes in between."""
    given_picture = picture(height, width)
    expected = load_image(given_picture, 32, 48).astype(int)
    np.testing.assert_allclose(fitted(probe, given_picture).astype(int), expected, atol=2)


@pytest.mark.parametrize("hide_outside", [True, False])
def test_a_player_plays_the_same(probe: ctypes.CDLL, hide_outside: bool) -> None:
    """Ten controls one after the other: points, visibility, ids and anchors are bit-equal."""
    rng, controls = np.random.default_rng(3), []
    for _ in range(10):
        count, length = int(rng.integers(0, 20)), int(rng.integers(1, 30))
        points = rng.uniform(-0.2, 1.2, (count, length, 2)).astype(np.float32)
        visible, ids = rng.random((count, length)) < 0.8, rng.choice(40, count, replace=False)
        controls.append(Tracks(points, visible, ids, fps=float(rng.choice([8, 16, 24, 30]))))
    assert_played_the_same(probe, controls, hide_outside=hide_outside)


@pytest.mark.parametrize("noise", [0.0, 0.004, 0.02])
def test_a_player_anchors_points_the_same_while_the_camera_moves(probe: ctypes.CDLL, noise: float) -> None:
    """Fits that hold for 12 neighbours, for 6 and for none."""
    rng, controls = np.random.default_rng(5), []
    for number in range(12):
        grid = Tracks.grid(8, 8).camera(zoom=1.1, roll=8.0, aspect=1.5, seconds=0.75)
        points = grid.points + rng.normal(0, noise, (64, 1, 2)) * np.linspace(0, 1, grid.rgb_frames)[None, :, None]
        visible = rng.random((64, grid.rgb_frames)) < 0.9
        ids = np.where(rng.random(64) < 0.3, np.arange(64), 100 * number + 100 + np.arange(64))
        controls.append(Tracks(points, visible, ids))
    assert_played_the_same(probe, controls)


def assert_played_the_same(probe: ctypes.CDLL, controls: list[Tracks], *, hide_outside: bool = True) -> None:
    most = max(control.count for control in controls)
    expected = TrackPlayer(32, 48, 16.0, most, hide_outside=hide_outside)
    options = (c_double(16.0), c_int(most), c_int(hide_outside))
    player = c_void_p(probe.ms_probe_player(c_int(32), c_int(48), *options))
    frame = 0
    for control in controls:
        expected.set(control, frame)
        sizes = (c_int(n) for n in (control.count, control.rgb_frames, 0, 0))
        arrays = [np.ascontiguousarray(a) for a in (control.points, control.visible, control.ids)]
        pointers = [pointer(array) for array in arrays]
        probe.ms_probe_player_set(player, *pointers, *sizes, c_double(control.fps), c_int64(frame))
        for _ in range(2):
            made = np.zeros((most, 12, 2), np.float32), np.zeros((most, 12), np.bool_), np.zeros(most, np.int64)
            anchors = np.zeros((most, 2), np.float32)
            targets = [pointer(array) for array in (*made, anchors)]
            probe.ms_probe_player_fill(player, c_int64(frame), c_int(12), c_int(most), *targets)
            chunk = expected.chunk(frame, 12)
            for array, wanted in zip(
                (*made, anchors), (chunk.points, chunk.visible, chunk.ids, chunk.anchors), strict=True
            ):
                np.testing.assert_array_equal(array, wanted)
            frame += 12
    probe.ms_probe_player_free(player)


def test_the_settings_have_the_same_digest(probe: ctypes.CDLL, bundle: Path) -> None:
    text = ctypes.create_string_buffer(1 << 16)
    length = probe.ms_probe_config(str(bundle).encode(), text, c_size_t(len(text)))
    values = json.loads((bundle / "manifest.json").read_text())["config"]
    expected = json.dumps(StreamConfig.from_dict(values).to_dict(), sort_keys=True)
    assert length == len(expected)
    assert text.value.decode() == expected


def test_50_chunks_of_one_bundle_have_equal_frames(library: Library, bundle: Path) -> None:
    """With an image, a prompt, drags that change on the way and a re-encoded context."""
    found = compare(Path(library.handle._name), bundle, chunks=50)
    assert found.largest <= 1


def test_a_model_with_image_tokens_and_grey_frames_has_equal_frames(library: Library, grey_bundle: Path) -> None:
    """Beyond the latent frame 32, after which the grey ones do not change; with a re-encoded context."""
    found = compare(Path(library.handle._name), grey_bundle, chunks=14)
    assert found.largest <= 1


def test_a_context_that_is_encoded_again_before_every_chunk_gives_equal_frames(
    library: Library, tmp_path: Path
) -> None:
    """After a given latent frame, and over a change of the prompt."""
    export_bundle(without_tracks(context=AGAIN), "0" * 64, tmp_path, ExportOptions())
    found = compare(Path(library.handle._name), tmp_path, chunks=10)
    assert found.largest <= 1


def test_a_model_with_an_image_encoder_needs_a_first_frame(library: Library, grey_bundle: Path) -> None:
    with NativeStream(library, grey_bundle, precision="fp32") as native:
        with pytest.raises(NativeError, match="needs a first frame"):
            native.start(None, "a cat")
        native.start(picture(32, 32), "a cat")
        native.step()


@pytest.mark.parametrize("kind", ["bundle", "grey_bundle"])
def test_a_snapshot_of_python_goes_on_in_cpp_and_back(
    library: Library, kind: str, opened: Both, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    bundle: Path = request.getfixturevalue(kind)
    models = opened(bundle)
    with models[0].stream() as python, NativeStream(library, models[1]) as native:
        python.start(picture(32, 32), "a cat", Tracks.grid(3, 3).drag((0.5, 0.5), (0.8, 0.5)), seed=2**63 + 1)
        for _ in range(4):
            python.step()
        python.snapshot(tmp_path / "python.snapshot")
        native.restore(tmp_path / "python.snapshot")
        for _ in range(3):
            expected = python.step().frames
            np.testing.assert_allclose(native.step()[0].astype(int), expected.astype(int), atol=1)
        native.snapshot(tmp_path / "native.snapshot")
        python.restore(tmp_path / "native.snapshot")
        made, chunk = native.step()
        again = python.step()
        assert (again.index, again.first_rgb_frame) == (chunk.index, chunk.first_rgb_frame)
        np.testing.assert_allclose(made.astype(int), again.frames.astype(int), atol=1)


def test_reset_after_restore_starts_the_same_stream_in_both(
    library: Library, bundle: Path, opened: Both, tmp_path: Path
) -> None:
    models = opened(bundle)
    with models[0].stream() as python, NativeStream(library, models[1]) as native:
        python.start(picture(32, 32), "a cat", Tracks.grid(3, 3).drag((0.5, 0.5), (0.8, 0.5)), seed=7)
        first = [python.step().frames for _ in range(3)]
        python.snapshot(tmp_path / "python.snapshot")
        native.restore(tmp_path / "python.snapshot")
        native.reset()
        for frames in first:
            np.testing.assert_allclose(native.step()[0].astype(int), frames.astype(int), atol=1)


@pytest.mark.parametrize("way", WAYS)
def test_a_prompt_comes_over_chunks_as_in_python_and_snapshots_between_two_go_on_in_both(
    library: Library, bundle: Path, opened: Both, tmp_path: Path, way: Way
) -> None:
    """A newer prompt sets out from the middle of a blend; each library goes on with what the other one saved."""
    file = tmp_path / "a.snapshot"
    models = opened(bundle)
    with models[0].stream() as python, NativeStream(library, models[1]) as native:
        for stream in (python, native):
            stream.start(picture(32, 32), "a cat", seed=3)
        for index in range(9):
            if index in (2, 4):
                for stream in (python, native):
                    stream.set_prompt("night snow" if index == 2 else "dog", over=4, way=way, recache=index == 4)
            if index in (3, 5):  # in the middle of one
                python.snapshot(file)
                native.restore(file)
            if index in (4, 6):  # with one that no chunk has begun, and in the middle
                native.snapshot(file)
                python.restore(file)
            np.testing.assert_array_equal(native.step()[0], python.step().frames)


def test_prompts_blend_by_the_numbers_of_python(probe: ctypes.CDLL) -> None:
    chance = np.random.default_rng(0)
    old, new = (chance.normal(size=(6, 40)).astype(np.float32) for _ in range(2))
    old[0], new[1], new[2], new[3] = 0, 0, 3 * old[2], -old[3]  # no arc between them
    for way in WAYS:
        for chunk in range(1, 5):
            made = np.empty_like(old)
            sizes = (c_size_t(old.size), c_size_t(old.shape[1]))
            probe.ms_probe_blend(4, int(way == "slerp"), chunk, *sizes, *map(pointer, (old, new, made)))
            expected = Blend(4, way).between(old, new, chunk)
            np.testing.assert_allclose(made, expected, rtol=0, atol=0 if way == "linear" else 3e-7)


def test_a_number_of_chunks_that_no_prompt_takes_is_refused(library: Library, bundle: Path, opened: Both) -> None:
    with NativeStream(library, opened(bundle)[1]) as native:
        for over in (-1, 1 << 21):
            with pytest.raises(NativeError, match=f"takes 1 to 1048576 chunks to come, not {over}"):
                native.set_prompt("dog", over=over)


def test_a_snapshot_of_another_precision_is_refused(library: Library, bundle: Path, tmp_path: Path) -> None:
    with (
        NativeStream(library, bundle, precision="fp32") as one,
        NativeStream(library, bundle, precision="bf16") as other,
    ):
        one.step()
        one.snapshot(tmp_path / "a.snapshot")
        with pytest.raises(NativeError, match="other settings or another engine") as error:
            other.restore(tmp_path / "a.snapshot")
        assert error.value.status == 1


def test_the_module_prints_folders_that_exist() -> None:
    done = subprocess.run([sys.executable, "-m", "ms_infer", "--cmake-dir"], capture_output=True, text=True, check=True)
    assert (Path(done.stdout.strip()) / "ms_inferConfig.cmake").is_file()
    done = subprocess.run(
        [sys.executable, "-m", "ms_infer", "--include-dir"], capture_output=True, text=True, check=True
    )
    assert (Path(done.stdout.strip()) / "ms_infer" / "ms_infer.h").is_file()


def test_the_header_stays_short_and_plain() -> None:
    text = (ROOT / "ms_infer/cpp/include/ms_infer/ms_infer.h").read_text()
    assert text.count("\n") < 260
    assert [line for line in text.splitlines() if line.startswith("#include")] == [
        "#include <stddef.h>",
        "#include <stdint.h>",
    ]
