"""Pictures left alone: what is measured, from when, and how it is summed up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ms_train.data.assets import load_assets
from ms_train.evaluate.measure import LAYERS_ALONE
from ms_train.evaluate.rest import (
    DRAG_SECONDS,
    controls_of,
    leave_alone,
    measure_rest,
    photographs_at_rest,
    prompts_of,
    psnr_of,
    scenes_at_rest,
    summary,
)
from ms_train.evaluate.tables import markdown
from PIL import Image

from ms_infer.chunk import Chunk
from ms_infer.stream import Stream
from ms_infer.tracks import Tracks

from .test_train_data import write_assets
from .tiny import tiny_student


def test_scenes_and_photographs_have_their_size_and_a_grip(tmp_path: Path) -> None:
    assets = load_assets(write_assets(tmp_path / "assets"), "all")
    scenes = scenes_at_rest(assets, 32, 2, seed=1)
    (tmp_path / "photos").mkdir()
    Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(tmp_path / "photos" / "red_cup.png")
    photographs = photographs_at_rest(tmp_path / "photos", 32)
    assert photographs_at_rest(tmp_path / "none", 32) == []
    assert [picture.name for picture in (*scenes, *photographs)] == ["scene 0", "scene 1", "red cup"]
    for picture in (*scenes, *photographs):
        assert picture.image.shape == (32, 32, 3)
        assert all(0 <= value <= 1 for value in (*picture.grip, *picture.target))
    assert prompts_of(photographs + scenes, 0) == {"own": "red cup", "other": scenes[0].prompt, "empty": ""}


def test_a_drag_has_an_end_and_a_grid_stands(tmp_path: Path) -> None:
    assets = load_assets(write_assets(tmp_path / "assets"), "all")
    controls = controls_of(scenes_at_rest(assets, 32, 1, seed=1)[0])
    assert controls["no tracks"] is None
    grid, dragged = controls["standing grid"], controls["drag that ended"]
    assert grid is not None
    assert dragged is not None
    assert grid.rgb_frames == 1
    assert dragged.seconds == pytest.approx(DRAG_SECONDS, abs=0.1)


def test_the_least_and_the_last_are_of_the_frames_after_the_kept_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frame k of the stream is grey level 100 + level(k): a drag's own frames do not count."""
    made = iter(range(10_000))

    def step(self: Stream) -> Chunk:
        first = next(made)
        count = 9 if first == 0 else 12
        begin = 0 if first == 0 else 9 + 12 * (first - 1)
        levels = [100 + 40 * (k < 20) + 2 * (k == 45) + (k > 50) for k in range(begin, begin + count)]
        frames = np.stack([np.full((32, 32, 3), level, np.uint8) for level in levels])
        return Chunk(first, frames, begin, 0, {})

    monkeypatch.setattr(Stream, "step", step)
    image = np.zeros((32, 32, 3), np.uint8)
    drag = Tracks.grid(4, 4).grab((0.5, 0.5), (0.7, 0.5), radius=0.2, seconds=DRAG_SECONDS)
    with Stream(tiny_student(), engine="torch") as stream:
        least, last = leave_alone(stream, image, "", drag, 60)
    assert least == pytest.approx(psnr_of(np.full((1, 1, 3), 102, np.uint8), np.full((1, 1, 3), 100, np.uint8)))
    assert last == pytest.approx(psnr_of(np.full((1, 1, 3), 101, np.uint8), np.full((1, 1, 3), 100, np.uint8)))


def test_every_way_is_run_and_the_report_has_a_row_a_picture(tmp_path: Path) -> None:
    assets = load_assets(write_assets(tmp_path / "assets"), "all")
    rest = measure_rest(tiny_student(), scenes_at_rest(assets, 32, 1, seed=1), 40)
    assert len(rest["runs"]) == 9
    assert rest["least"] == min(run["least"] for run in rest["runs"])
    result = {"command": "", "tracker": "", "clips": 1, "sets": {}, "ablation": {}, "transfer": {}}
    report = markdown(result | {"swaps": {"truth": {}}, "rest": rest})
    assert "## Left alone for 40 frames" in report
    assert report.count("| scene 0 |") == 1
    assert "no tracks, empty prompt" in report
    assert set(rest["layers"]) == {"no tracks", "standing grid", "drag that ended"}
    assert min(rest["layers"].values()) > 40, "layers alone remember nothing"
    assert report.count(f"| {LAYERS_ALONE}, least of all |") == 1


def test_the_summary_counts_what_was_kept() -> None:
    runs = [{"least": value} for value in (40.0, 33.0, 50.0, 35.0)]
    assert summary(runs) == {"kept": 0.75, "least": 33.0}
    assert psnr_of(np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2, 3), np.uint8)) == 99.0
