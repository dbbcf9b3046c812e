"""Sections of the evaluation: swapped tracks, motion transfer, removed inputs, and the whole of it on tiny assets."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ms_train.data.assets import load_assets
from ms_train.data.captions import vocabulary
from ms_train.data.clips import ClipMaker, Rendered
from ms_train.data.scene import draw_scene
from ms_train.evaluate.ablation import content_only, ids_only
from ms_train.evaluate.drift import Look, compare_ends, measure_drift, segments, stream_scene
from ms_train.evaluate.evaluation import SETS, EvaluateConfig, evaluate, set_maker, student_file
from ms_train.evaluate.measure import LAYERS_ALONE, held_still, measure_rows, without_sink
from ms_train.evaluate.photographs import NEAR, Dragged, photograph_sheet, tracks_of
from ms_train.evaluate.swaps import APART_PIXELS, make_swaps, swapped_errors
from ms_train.evaluate.tables import markdown
from ms_train.evaluate.transfer import as_rendered, mean_table, read_clip
from ms_train.students import Network, as_student, export, warm_start_

from ms_infer.config import RefinerConfig, TrackHeadConfig
from ms_infer.engines.torch import TorchEngine
from ms_infer.errors import ConfigError
from ms_infer.media import open_writer
from ms_infer.model.refiner import Refiner
from ms_infer.model.taehv import TinyVae
from ms_infer.serve.pictures.thing import Thing

from .test_train_data import write_assets
from .test_train_stages import SIZE, tiny_layers, tiny_stream


@dataclasses.dataclass(frozen=True)
class Oracle:
    """A tracker that finds every point at the places given."""

    places: np.ndarray
    name = "oracle"
    hop = 1

    def follow(self, frames: np.ndarray, starts: np.ndarray) -> np.ndarray:
        return self.places


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_assets(tmp_path_factory.mktemp("assets"))


@pytest.fixture(scope="module")
def maker(folder: Path) -> ClipMaker:
    assets = load_assets(folder, "all")
    stream = tiny_stream(vocabulary(assets))
    torch.manual_seed(0)
    vae = TinyVae(stream.model.vae).requires_grad_(False)
    # Fast things for a small picture, that stay inside it
    scene = dataclasses.replace(SETS["object drags"], size=SIZE, object_speed=0.6, object_reach=8.0, max_objects=1)
    return set_maker(stream, assets, vae, scene, 5, tiny_layers(stream))


@pytest.fixture(scope="module")
def pair(maker: ClipMaker) -> tuple[Rendered, Rendered]:
    return make_swaps(maker, 3)


def test_a_swap_has_one_first_frame_and_opposite_ways(pair: tuple[Rendered, Rendered]) -> None:
    one, other = pair
    assert torch.equal(one.frames[:, 0], other.frames[:, 0])
    assert torch.equal(one.clips.words, other.clips.words)
    assert torch.equal(one.anchors, other.anchors)
    assert not torch.equal(one.frames[:, -1], other.frames[:, -1])
    on_object = one.owner >= 0
    way, back = (data.clips.points.float()[on_object] - data.anchors[on_object][:, None] for data in pair)
    turned = way + back  # what spin and scale add to both
    assert (way - back).norm(dim=-1)[:, -1].median() > 4 * turned.norm(dim=-1)[:, -1].median()
    standing = ~on_object
    torch.testing.assert_close(one.clips.points[standing], other.clips.points[standing])


def test_swapped_errors_tell_the_motions_apart(pair: tuple[Rendered, Rendered]) -> None:
    one, other = pair
    for row in range(len(one.frames)):
        starts = one.clips.visible[row, :, 0]
        places = one.clips.points[row, starts].float().numpy()
        own, swapped = swapped_errors(Oracle(places), one, other, row, one.frames, one.frames)
        assert own.max(initial=0.0) == 0
        assert (swapped > APART_PIXELS).all()
        lost, _ = swapped_errors(Oracle(places + 5), one, other, row, one.frames, one.frames)
        assert not len(lost)  # a tracker that fails on the truth counts nowhere
    assert len(own)


def test_ids_only_and_content_only_take_the_other_input_away(maker: ClipMaker) -> None:
    clips = maker.make(0, 2)
    ids, content = ids_only(clips), content_only(clips)
    assert torch.equal(ids.visible, clips.visible)
    assert ids.validity.abs().max() == 0
    assert torch.equal(ids.content[:, :3], clips.still)
    assert torch.equal(ids.content[:, -1], clips.still[:, -1])
    assert torch.equal(content.content, clips.content)
    assert torch.equal(content.validity, clips.validity)
    assert not content.visible.any()


def test_the_truth_has_no_error_and_a_still_frame_has(maker: ClipMaker) -> None:
    data = maker.make_with_frames(0, 1)
    places = data.clips.points[0, data.clips.visible[0, :, 0]].float().numpy()
    table = measure_rows({"truth": data.frames, "still": held_still(data)}, data, Oracle(places))
    assert table["truth"]["psnr"] == 100
    assert table["truth"]["ssim"] == 1
    assert table["truth"]["epe_object"] == table["truth"]["epe_background"] == 0
    assert table["still"]["psnr"] < 40
    assert table["still"]["ssim"] < 1


def sliding(frames: int, size: int) -> np.ndarray:
    """A smooth picture that slides one pixel to the left a frame, uint8 [T, size, size, 3]."""
    coarse = torch.rand(1, 3, 8, 16, generator=torch.Generator().manual_seed(3))
    wide = torch.nn.functional.interpolate(coarse, size=(size, 2 * size), mode="bicubic").clamp(0, 1)
    pixels = wide[0].permute(1, 2, 0).mul(255).byte().numpy()
    return np.stack([pixels[:, t : t + size] for t in range(frames)])


def test_tracks_of_a_real_clip_carry_its_first_frame(maker: ClipMaker) -> None:
    data = as_rendered(maker, sliding(9, SIZE))
    assert data.clips.visible[..., 0].all()
    moved = (data.clips.points[0, :, -1].float() - data.anchors[0])[data.clips.visible[0, :, -1]]
    assert (moved.median(0).values - torch.tensor([-8.0, 0.0])).norm() < 1
    inner = (..., slice(4, -4), slice(4, -12))
    still = (held_still(data) - data.frames)[:, -1][inner].abs().mean()
    assert (data.moved - data.frames)[:, -1][inner].abs().mean() < 0.3 * still


@pytest.mark.parametrize(("length", "kept"), [(40, 33), (33, 33), (32, 21), (9, 9), (8, None)])
def test_a_real_clip_is_cut_to_whole_chunks(length: int, kept: int | None, maker: ClipMaker, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", length)
    frames = read_clip(path, maker.stream)
    assert (None if frames is None else frames.shape) == (None if kept is None else (kept, SIZE, SIZE, 3))


def write_clip(path: Path, frames: int) -> Path:
    path.parent.mkdir(exist_ok=True)
    with open_writer(str(path), height=64, width=96, fps=16) as writer:
        writer.write(np.ascontiguousarray(np.repeat(sliding(frames, 64), 2, axis=2)[:, :, :96]))
    return path


def test_the_mean_over_clips_sums_points_and_skips_what_a_clip_lacks() -> None:
    one = {"still": {"psnr": 20.0, "epe_background": 2.0, "points_background": 3}}
    other = {"still": {"psnr": 30.0}}
    assert mean_table([one, other]) == {"still": {"psnr": 25.0, "epe_background": 2.0, "points_background": 3}}


@pytest.mark.parametrize("real", [False, True])
def test_the_evaluation_runs_on_assets_it_has_never_seen(real: bool, folder: Path, tmp_path: Path) -> None:
    assets = write_assets(tmp_path / "assets") if real else folder
    if real:
        write_clip(assets / "clips" / "wide.mp4", 12)
        write_clip(assets / "clips" / "short.mp4", 5)
    stream = tiny_stream(vocabulary(load_assets(folder, "all")))
    network, refiner = Network(stream), Refiner(RefinerConfig(widths=(8, 8, 8)))
    warm_start_(network)
    vae, layers = TinyVae(stream.model.vae), tiny_layers(stream)
    export(network, vae, None, tmp_path / "student.safetensors", refiner, layers)
    config = EvaluateConfig(
        json=tmp_path / "e.json",
        report=tmp_path / "e.md",
        sheets=tmp_path / "sheets",
        clips=1,
        region_clips=1,
        rest_frames=45,
        rest_scenes=1,
        panoramas=1,
        drift_frames=0,
    )
    evaluate(tmp_path / "student.safetensors", assets, config)
    result = json.loads((tmp_path / "e.json").read_text(), parse_constant=pytest.fail)
    assert list(result["transfer"].get("clips", {})) == (["wide"] if real else [])
    assert set(result["ablation"]) == set(result["sets"]) == set(SETS)
    assert set(result["swaps"]) == {"truth", LAYERS_ALONE, "student"}
    tables = [
        *result["sets"].values(),
        result["regions"],
        result["swaps"],
        *result["transfer"].get("clips", {}).values(),
    ]
    assert all(LAYERS_ALONE in table for table in tables)
    report = (tmp_path / "e.md").read_text()
    for title, shown in (("Tracks swapped", True), ("inputs removed", True), ("Motion transfer", real)):
        assert (title in report) == shown
    assert (tmp_path / "sheets" / "tracks_swapped.png").exists()
    assert (tmp_path / "sheets" / "transfer_wide.png").exists() == real
    assert (tmp_path / "sheets" / "photographs.png").exists() == bool(result["photographs"])


def test_a_picked_thing_is_dragged_and_the_grid_around_it_stands() -> None:
    mask = np.zeros((32, 32), dtype=bool)
    thing = Thing(mask, [], [(0.45, 0.45), (0.5, 0.5), (0.55, 0.55)])
    picture = Dragged("box", np.zeros((32, 32, 3), np.uint8), thing, (0.2, -0.1))
    tracks = tracks_of(picture, 160)
    first, last = tracks.points[:, 0], tracks.points[:, -1]
    np.testing.assert_allclose(last[:3] - first[:3], [[0.2, -0.1]] * 3, atol=1e-6)
    np.testing.assert_array_equal(last[3:], first[3:])
    apart = np.linalg.norm(first[3:, None] - first[None, :3], axis=-1)
    assert apart.min() > NEAR
    assert 90 < len(first) - 3 < 100
    assert 20 < tracks_of(picture, 40).count <= 40


def test_photographs_come_by_name_and_things_of_panoramas_by_size(folder: Path, tmp_path: Path) -> None:
    """A bright disc on a grey ground is picked and dragged; a picture without a thing is left out."""
    from PIL import Image, ImageDraw

    stream = tiny_stream()
    network, layers = Network(stream), tiny_layers(stream)
    student = as_student(network, TinyVae(stream.model.vae), Refiner(RefinerConfig(widths=(8, 8, 8))), layers)
    photographs = tmp_path / "photos"
    photographs.mkdir()
    picture = Image.new("RGB", (64, 64), (90, 90, 90))
    picture.save(photographs / "nothing.png")
    ImageDraw.Draw(picture).ellipse((20, 20, 44, 44), fill=(250, 40, 40))
    picture.save(photographs / "disc.png")
    names = photograph_sheet(student, photographs, load_assets(folder, "all", size=SIZE), 0, 1, tmp_path / "sheet.png")
    assert names == ["disc"]
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 4 * sheet.height


def test_a_student_without_layers_is_not_compared_with_them(folder: Path, tmp_path: Path) -> None:
    stream = tiny_stream()
    plain = TrackHeadConfig(max_tracks=100, id_dim=8)
    model = dataclasses.replace(stream.model, track_head=plain, layer_network=None, refiner=None)
    stream = dataclasses.replace(stream, model=model)
    export(Network(stream), TinyVae(model.vae), None, tmp_path / "plain.safetensors")
    with pytest.raises(ConfigError, match="has no layer network"):
        evaluate(tmp_path / "plain.safetensors", folder)


def test_the_demo_is_evaluated_by_its_name() -> None:
    assert student_file(Path("demo")).name == "demo.safetensors"
    assert student_file(Path("other.safetensors")) == Path("other.safetensors")


def test_the_ends_of_a_long_stream_are_compared() -> None:
    row = {"offset": 1.0, "sharpness": 0.02, "colour": [0.5, 0.4, 0.2]}
    last = {"offset": 1.3, "sharpness": 0.019, "colour": [0.5, 0.36, 0.21]}
    numbers = compare_ends([row, row, {**row, "offset": 9.0}, last, last])
    assert numbers == {"offset_ratio": 1.3, "sharpness_percent": -5.0, "colour_percent": -10.0}
    assert "offset_ratio" not in compare_ends([{**row, "offset": 0.0}] * 4)
    assert compare_ends([row] * 3) == {}


def test_segments_are_means_of_100_frames() -> None:
    looks = [Look(float(number), 0.1, torch.full((3,), 0.5)) for number in range(11)]
    looks[1] = dataclasses.replace(looks[1], offset=float("nan"))  # no point was visible
    rows = segments(looks)
    assert [row["offset"] for row in rows] == [2.25, 7.0]
    assert rows[0]["colour"] == [0.5, 0.5, 0.5]


def test_without_sink_a_stream_differs_once_its_context_is_full(maker: ClipMaker) -> None:
    torch.manual_seed(3)
    network = Network(maker.stream).eval().requires_grad_(False)
    vae = copy.deepcopy(maker.vae)
    for parameter in (*network.parameters(), *vae.decoder.parameters()):
        torch.nn.init.normal_(parameter, std=0.08)
    torch.nn.init.constant_(vae.decoder[-1].bias, 0.5)
    scene = draw_scene(maker.assets, 1, torch.Generator().manual_seed(1), maker.config.scene)
    made = []
    student = as_student(network, vae, layer_network=maker.layer_network)
    for context in (student.config, without_sink(student.config)):
        engine = TorchEngine(dataclasses.replace(student, config=context))
        chunks = stream_scene(engine, maker.assets, scene, 45, seed=2)
        made.append(torch.cat([chunk[1] for chunk in chunks]))
    assert made[0].shape[0] == 45
    assert torch.equal(made[0][:33], made[1][:33])
    assert not torch.equal(made[0][33:], made[1][33:])


def test_a_long_stream_is_measured_with_and_without_sink(maker: ClipMaker, tmp_path: Path) -> None:
    network = Network(maker.stream).eval().requires_grad_(False)
    student = as_student(network, maker.vae, layer_network=maker.layer_network)
    drift = measure_drift(student, maker.assets, 100, 5, tmp_path)
    names = ("truth", "student", "without sink", LAYERS_ALONE)
    assert [len(drift[name]) for name in names] == [1, 1, 1, 1]
    assert drift["truth"][0]["offset"] == 0
    assert drift["student"][0]["offset"] > 0
    assert drift["summary"] == {name: {} for name in names}
    assert (tmp_path / "drift_without_sink.png").exists()


def test_the_report_sums_up_a_long_stream() -> None:
    row = {"offset": 1.0, "sharpness": 0.02, "colour": [0.5, 0.4, 0.2]}
    names = ("truth", "student", "without sink", LAYERS_ALONE)
    drift = {name: [row] * 4 for name in names} | {"summary": {name: compare_ends([row] * 4) for name in names}}
    result = {"command": "", "tracker": "", "clips": 1, "sets": {}, "ablation": {}, "transfer": {}}
    result |= {"swaps": {"truth": {}}, "drift": drift | {"frames": 400, "segment": 100}}
    line = "- student, last 200 frames beside the first 200: offset x 1.0, sharpness +0.0 %, colour +0.0 %"
    assert line in markdown(result).splitlines()
