"""The refiner, the motions that tracks share, and a stream that uses both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from ms_infer import ConfigError, Stream, Tracks
from ms_infer.checkpoint import Student, random_student
from ms_infer.config import LAYER_CHANNELS, MOTION_LAYERS, RefinerConfig, StreamConfig, TrackHeadConfig, preset
from ms_infer.engines.torch import TorchEngine
from ms_infer.model.motions import STIFFNESS, _solve, quadratic, shared_motion
from ms_infer.model.refiner import SOURCES, Refiner
from ms_infer.model.warp import motion_layers
from tests.tiny import tiny_config, tiny_student, without_tracks

NARROW = RefinerConfig(widths=(8, 8, 8))
SIZE = 32


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def inputs(frames: int = 2, size: int = SIZE) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """decoded, moved, moved_valid and layers with random values, another at every pixel."""
    channels = (3, 3, 1, MOTION_LAYERS * LAYER_CHANNELS)
    made = torch.rand(1, frames, sum(channels), size, size, generator=generator())
    decoded, moved, valid, layers = made.split(channels, dim=2)
    return decoded, moved, valid, layers


def sources(decoded: Tensor, moved: Tensor, layers: Tensor) -> list[Tensor]:
    return [decoded, moved, *(layer[:, :, :3] for layer in layers.chunk(MOTION_LAYERS, dim=2))]


@torch.no_grad()
def test_it_starts_as_the_decoded_frame() -> None:
    decoded, moved, valid, layers = inputs()
    share = torch.tensor([4.0, *[0.0] * (SOURCES - 1)]).softmax(0)[0]
    others = torch.stack(sources(decoded, moved, layers)[1:]).mean(0)
    out = Refiner(NARROW)(decoded, moved, valid, layers)

    assert share > 0.9
    torch.testing.assert_close(out, share * decoded + (1 - share) * others, atol=1e-5, rtol=0)


@pytest.mark.parametrize("source", range(SOURCES))
@torch.no_grad()
def test_every_pixel_follows_the_source_that_the_logits_choose(source: int) -> None:
    decoded, moved, valid, layers = inputs()
    refiner = Refiner(NARROW)
    refiner.leave.bias[4 * source : 4 * source + 4] = 50.0  # type: ignore[index]
    out = refiner(decoded, moved, valid, layers)

    torch.testing.assert_close(out, sources(decoded, moved, layers)[source], atol=1e-6, rtol=0)


@torch.no_grad()
def test_the_correction_is_added_and_the_frame_stays_within_0_and_1() -> None:
    refiner = random_student(tiny_config(refiner=NARROW)).refiner
    assert refiner is not None
    refiner.leave.weight *= 20
    free, clamped = (made(*inputs()) for made in (refiner.mix, refiner))

    assert free.min() < -0.1
    assert free.max() > 1.1
    torch.testing.assert_close(clamped, free.clamp(0, 1), atol=0, rtol=0)


@pytest.mark.parametrize("frames", [1, 5])
@torch.no_grad()
def test_every_frame_is_refined_alone(frames: int) -> None:
    refiner = random_student(tiny_config(refiner=NARROW)).refiner
    assert refiner is not None
    whole = refiner(*inputs(frames))
    parts = [refiner(*(picture[:, k : k + 1] for picture in inputs(frames))) for k in range(frames)]

    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=0)


def test_frames_and_references_of_other_sizes_are_refused() -> None:
    refiner, (decoded, moved, valid, layers) = Refiner(NARROW), inputs()
    with pytest.raises(ConfigError, match=r"frames of 32x24 and references of \(1, 2, 3, 32, 32\)"):
        refiner(decoded[..., :24], moved, valid, layers)
    with pytest.raises(ConfigError, match=r"frames of 32x32 and .*\(1, 2, 12, 32, 16\)"):
        refiner(decoded, moved, valid, layers[..., :16])
    with pytest.raises(ConfigError, match=r"frames of 32x32 and .*\(1, 2, 1, 16, 32\)"):
        refiner(decoded, moved, valid[..., :16, :], layers)
    with pytest.raises(ConfigError, match=r"frames of 28x28 .* a multiple of 8"):
        refiner(*(picture[..., :28, :28] for picture in inputs()))


def pan(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return 9 + 0 * x, -5 + 0 * y


def zoom(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return 2 + 6 * x, -1 + 6 * y


def turn_of_the_head(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return 5 + 3 * x + 2 * x * x, -3 + 2 * y * y - 2 * x * y


Field = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@pytest.mark.parametrize("field", [pan, zoom, turn_of_the_head])
@pytest.mark.parametrize("seed", range(4))
def test_the_commonest_motion_is_found_though_things_move_otherwise(field: Field, seed: int) -> None:
    """Two things with 15 of 100 tracks each; displacements in pixels at places in -1..1."""
    places = torch.rand(1, 100, 2, generator=generator(seed)) * 2 - 1
    backdrop = torch.cat(field(*places.split(1, -1)), -1)
    moved = backdrop.clone()
    moved[:, :15], moved[:, 15:30] = torch.tensor([-14.0, 11.0]), torch.tensor([20.0, 3.0])
    terms, shares = shared_motion(quadratic(places), moved, torch.ones(1, 100, 1))
    grid = torch.rand(1, 500, 2, generator=generator(seed)) * 2 - 1
    off = (quadratic(grid) @ terms - torch.cat(field(*grid.split(1, -1)), -1)).norm(dim=-1)

    assert off.max() < 0.3
    assert shares[:, :30].max() < 0.05
    assert shares[:, 30:].min() > 0.9


@pytest.mark.parametrize("tracks", [1, 2, 3, 5, 20, 256])
def test_the_solver_is_as_exact_as_float32_allows(tracks: int) -> None:
    for seed in range(10):
        basis = quadratic(torch.rand(1, tracks, 2, generator=generator(seed)) * 2 - 1)
        weighted = (basis * torch.rand(1, tracks, 1, generator=generator(seed + 100))).transpose(1, 2)
        matrix = weighted @ basis + torch.diag(torch.tensor(STIFFNESS))
        right = weighted @ (torch.rand(1, tracks, 2, generator=generator(seed)) * 40 - 20)
        exact = torch.linalg.solve(matrix.double(), right.double())

        assert (_solve(matrix, right) - exact).norm() < 1e-4 * exact.norm()


def picture(size: int = SIZE) -> Tensor:
    return torch.rand(1, 3, size, size, generator=generator())


def grid(size: int = SIZE, side: int = 4) -> Tensor:
    """Points `[1, N, 2]` at the centres of equal cells."""
    axis = (torch.arange(side) + 0.5) * size / side
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([x, y], -1).reshape(1, -1, 2)


def shifted(image: Tensor, x: int, y: int) -> Tensor:
    return image.roll((y, x), dims=(2, 3))


def layers_of(image: Tensor, points: Tensor, visible: Tensor, anchors: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Pictures `[T, 3, H, W]` and weights `[T, H, W]` of the layers."""
    made = motion_layers(image, points, visible, anchors)[0].chunk(MOTION_LAYERS, dim=1)
    return [layer[:, :3] for layer in made], [layer[:, 3] for layer in made]


def test_one_track_moves_the_backdrop() -> None:
    image, anchors = picture(), torch.tensor([[[10.0, 12.0]]])
    points = (anchors + torch.tensor([4.0, 2.0]))[:, :, None]
    pictures, weights = layers_of(image, points, torch.ones(1, 1, 1, dtype=torch.bool), anchors)
    near = (slice(None), slice(10, 19), slice(10, 19))

    assert weights[0][near].min() > 0.999  # the share that a stiff fit leaves is no thing
    torch.testing.assert_close(pictures[0][0][near], shifted(image, 4, 2)[0][near], atol=0.1, rtol=0)
    assert weights[1].max() < 0.01


def test_without_a_visible_track_the_first_frame_stands_still() -> None:
    image, points = picture(), grid()[:, :, None] + 9.0
    pictures, weights = layers_of(image, points, torch.zeros(1, 16, 1, dtype=torch.bool), grid())
    nothing, all_of_it = layers_of(image, points[:, :0], torch.zeros(1, 0, 1, dtype=torch.bool), grid()[:, :0])

    for still in (*pictures, *nothing):
        torch.testing.assert_close(still, image, atol=1e-5, rtol=0)
    assert [float(weight.mean()) for weight in (*weights, *all_of_it)] == [1, 0, 0, 1, 0, 0]


def test_backdrop_and_thing_get_a_layer_each() -> None:
    """The backdrop pans by (4, 0); a thing in its middle goes by (-3, 6)."""
    image, anchors = picture(64), grid(64, 8)
    thing = ((anchors - 32).abs().amax(-1) < 9)[..., None]
    moved = torch.where(thing, torch.tensor([-3.0, 6.0]), torch.tensor([4.0, 0.0]))
    points = (anchors + moved)[:, :, None]
    pictures, weights = layers_of(image, points, torch.ones(1, 64, 1, dtype=torch.bool), anchors)
    inner = (0, slice(None), slice(28, 48), slice(20, 36))

    backdrop = (pictures[0] - shifted(image, 4, 0))[..., 4:].abs()
    assert backdrop.mean() < 0.02
    assert (pictures[1] - shifted(image, -3, 6))[inner].abs().mean() < 0.05
    assert weights[1][0, 38, 29] > 0.8
    assert weights[1][0, :8].max() < 0.2
    assert weights[0][0, 32, 36] < 0.2, "the backdrop's picture still shows the thing where it set out"
    assert weights[0][0, 60, 10] > 0.95
    assert weights[0][0, :, :3].max() == 0, "nothing of the first frame came in from the left"


def test_a_clip_made_frame_by_frame_is_the_whole_clip() -> None:
    image, anchors = picture(), grid()
    speed = torch.randn(1, 16, 1, 2, generator=generator()) * 0.5 + torch.tensor([1.0, -0.5])
    points = anchors[:, :, None] + speed * torch.arange(9.0)[:, None]
    visible = torch.rand(1, 16, 9, generator=generator()) > 0.2
    whole = motion_layers(image, points, visible, anchors)
    parts = [motion_layers(image, points[:, :, k : k + 1], visible[:, :, k : k + 1], anchors) for k in range(9)]

    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-4, rtol=0)
    assert (whole[:, 1:] - whole[:, :-1]).abs().amax((0, 2, 3, 4)).min() > 0.1, "the clip moves"


@pytest.fixture(scope="module")
def demo() -> Student:
    """The demo's settings with one layer, and random weights."""
    config = preset("demo")
    return random_student(replace(config, model=replace(config.model, layers=1)))


def opening(engine: TorchEngine, monkeypatch: pytest.MonkeyPatch | None = None) -> NDArray[np.uint8]:
    """Frames of the first chunk; with a patch the refiner's references are negatives."""
    keep = engine._keep_references
    if monkeypatch is not None:
        monkeypatch.setattr(engine, "_keep_references", lambda *seen: keep(*(1 - one for one in seen)))
    image = np.random.default_rng(0).integers(0, 255, (128, 128, 3), np.uint8)
    with Stream(engine, seed=3) as stream:
        stream.start(image, tracks=Tracks.grid(4, 4).drag((0.4, 0.5), (0.8, 0.5), seconds=1.0, radius=0.3))
        return stream.step().frames


def test_a_stream_of_the_demo_shows_what_its_references_show(demo: Student, monkeypatch: pytest.MonkeyPatch) -> None:
    engines = [TorchEngine(student, device="cpu") for student in (demo, demo, replace(demo, refiner=None))]
    refined, plain = opening(engines[0]), opening(engines[2])
    others = opening(engines[1], monkeypatch)

    assert refined.shape == (9, 128, 128, 3)
    assert (refined != plain).mean() > 0.5
    assert (refined != others).mean() > 0.5
    np.testing.assert_array_equal(refined, opening(TorchEngine(demo, device="cpu")))


@pytest.mark.parametrize("widths", [(8, 8), (8, 0, 8), (8, 8, 8, 8), (-1, 8, 8)])
def test_widths_are_three_positive_sizes(widths: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="3 positive sizes"):
        RefinerConfig(widths=widths)  # type: ignore[arg-type]


def test_a_refiner_needs_a_head_that_moves_the_first_frame() -> None:
    for make in (
        lambda: without_tracks(refiner=NARROW),
        lambda: tiny_student(refiner=NARROW, track_head=TrackHeadConfig(max_tracks=24, id_dim=8)),
    ):
        with pytest.raises(ConfigError, match="track head with content"):
            make()


@pytest.mark.parametrize("refiner", [None, RefinerConfig(), NARROW])
def test_settings_of_the_refiner_survive_their_dictionary(refiner: RefinerConfig | None) -> None:
    config = tiny_config(refiner=refiner)
    back = StreamConfig.from_dict(config.to_dict())

    assert back == config
    assert back.model.refiner == refiner
    assert (random_student(back).refiner is None) == (refiner is None)
