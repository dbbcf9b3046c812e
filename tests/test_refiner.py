"""The refiner, the motions that tracks share, and a stream that shows what the refiner is given."""

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
from ms_infer.config import RefinerConfig, StreamConfig, TrackHeadConfig
from ms_infer.engines.torch import TorchEngine
from ms_infer.model.motions import STIFFNESS, backdrop_motion, quadratic, solve
from ms_infer.model.refiner import NOTICED, Refiner, relight
from tests.tiny import refined_student, tiny_config, tiny_student, without_tracks

NARROW = RefinerConfig(widths=(8, 8, 8))
SIZE = 32
SHARE, SHARPEN, GAIN, OFFSET = range(0, 16), range(16, 32), range(32, 80), range(80, 128)  # channels, 16 a value


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def inputs(frames: int = 2, size: int = SIZE) -> tuple[Tensor, Tensor, Tensor]:
    """decoded, moved and moved_valid with random values, another at every pixel."""
    made = torch.rand(1, frames, 7, size, size, generator=generator())
    decoded, moved, valid = made.split((3, 3, 1), dim=2)
    return decoded, moved, valid


def relit(decoded: Tensor, moved: Tensor, valid: Tensor) -> Tensor:
    """`relight` of frames as the refiner gets them."""
    return relight(moved[0], decoded[0], valid[0])[None]


def saying(**biases: float) -> Refiner:
    """A refiner that says the same at every pixel."""
    refiner = Refiner(NARROW).requires_grad_(False)
    for name, bias in biases.items():
        refiner.leave.bias[globals()[name.upper()]] = bias  # type: ignore[index]
    return refiner


@torch.no_grad()
def test_it_starts_as_nearly_the_moved_frame() -> None:
    decoded, moved, valid = inputs()
    share = torch.tensor(-3.0).sigmoid()

    assert share < 0.05
    nearly = share * decoded + (1 - share) * relit(decoded, moved, valid)
    torch.testing.assert_close(Refiner(NARROW).mix(decoded, moved, valid), nearly)


def picture_in_two_lights(cells: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """A picture of 16 pixels a cell with fine detail, the same without detail at night, and all valid."""
    areas = torch.rand(1, 3, cells, cells, generator=generator()) * 0.6 + 0.2
    large = areas.repeat_interleave(16, 2).repeat_interleave(16, 3)
    detail = torch.full((16 * cells, 16 * cells), 0.1)
    detail[::2] = -0.1
    return large + detail, at_night(large), torch.ones(1, 1, 16 * cells, 16 * cells)


def at_night(frame: Tensor) -> Tensor:
    """Darker, bluer, and half grey."""
    half_grey = 0.5 * frame + 0.5 * frame.mean(1, keepdim=True)
    return half_grey * torch.tensor([0.3, 0.4, 0.6]).view(3, 1, 1) + torch.tensor([0.0, 0.01, 0.06]).view(3, 1, 1)


def test_the_moved_frame_gets_the_light_of_the_decoded_one_and_keeps_its_detail() -> None:
    moved, decoded, valid = picture_in_two_lights()
    torch.testing.assert_close(relight(moved, decoded, valid), at_night(moved), atol=0.015, rtol=0)
    assert (decoded - at_night(moved)).abs().mean() > 0.02  # the decoded frame has less detail


def test_light_is_read_where_the_moved_frame_is_valid() -> None:
    moved, decoded, valid = picture_in_two_lights()
    decoded[..., :16, :], valid[..., :16, :] = 1.0, 0.0  # something white enters
    torch.testing.assert_close(relight(moved, decoded, valid), at_night(moved), atol=0.015, rtol=0)


def test_a_thing_that_differs_changes_the_light_of_the_whole_by_less_than_its_share() -> None:
    moved, _, valid = picture_in_two_lights(cells=8)
    decoded = moved.clone()
    decoded[..., :32, :32] += 0.3  # 4 of 64 cells
    assert (relight(moved, decoded, valid) - moved).abs().mean() < 0.3 * 4 / 64


@pytest.mark.parametrize(("change", "followed"), [(NOTICED / 2, 1 / 17), (NOTICED, 0.5), (NOTICED * 4, 1.0)])
def test_a_change_no_larger_than_the_decoders_errors_is_hardly_followed(change: float, followed: float) -> None:
    moved, _, valid = picture_in_two_lights()
    shift = (relight(moved, moved - change, valid) - moved).mean()
    assert shift.item() == pytest.approx(-followed * change, abs=0.02 * change)


def test_where_nothing_is_valid_the_light_stays() -> None:
    moved, decoded, valid = picture_in_two_lights()
    torch.testing.assert_close(relight(moved, decoded, 0 * valid), moved, atol=1e-6, rtol=0)


def test_a_share_of_one_is_the_decoded_frame_and_none_the_moved_one_relit() -> None:
    decoded, moved, valid = inputs()
    torch.testing.assert_close(saying(share=50.0)(decoded, moved, valid), decoded, atol=1e-6, rtol=0)
    made = saying(share=-50.0, gain=-0.5, offset=0.25)(decoded, moved, valid)
    torch.testing.assert_close(made, 0.5 * relit(decoded, moved, valid) + 0.25, atol=1e-6, rtol=0)


def test_sharpening_adds_what_the_moved_frame_has_above_its_surroundings() -> None:
    decoded, moved, valid = inputs()
    made = saying(share=-50.0, sharpen=1.0).mix(decoded, moved, valid)
    bright = relit(decoded, moved, valid)
    smooth = torch.nn.functional.avg_pool2d(bright[0], 3, 1)[None]
    inner = bright[..., 1:-1, 1:-1]
    torch.testing.assert_close(made[..., 1:-1, 1:-1], 2 * inner - smooth, atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_frame_stays_within_0_and_1() -> None:
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
    refiner, (decoded, moved, valid) = Refiner(NARROW), inputs()
    with pytest.raises(ConfigError, match=r"frames of 32x16 and references of \(1, 2, 3, 32, 32\)"):
        refiner(decoded[..., :16], moved, valid)
    with pytest.raises(ConfigError, match=r"frames of 32x32 and .*\(1, 2, 1, 16, 32\)"):
        refiner(decoded, moved, valid[..., :16, :])
    with pytest.raises(ConfigError, match=r"frames of 24x24 .* a multiple of 16"):
        refiner(*(picture[..., :24, :24] for picture in inputs()))


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
    terms, shares = backdrop_motion(places, moved, torch.ones(1, 100, 1), 1.0)
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

        assert (solve(matrix, right) - exact).norm() < 1e-4 * exact.norm()


@pytest.fixture(scope="module")
def student() -> Student:
    return refined_student()


def opening(engine: TorchEngine, monkeypatch: pytest.MonkeyPatch | None = None) -> NDArray[np.uint8]:
    """Frames of the first chunk; with a patch the refiner's references lie half a picture aside."""
    keep = engine._keep_references
    if monkeypatch is not None:
        monkeypatch.setattr(
            engine, "_keep_references", lambda *seen: keep(*(one.roll(one.shape[-1] // 2, -1) for one in seen))
        )
    size = engine.config.height
    image = np.random.default_rng(0).integers(0, 255, (size, size, 3), np.uint8)
    with Stream(engine, seed=3) as stream:
        stream.start(image, tracks=Tracks.grid(4, 4).drag((0.4, 0.5), (0.8, 0.5), seconds=1.0, radius=0.3))
        return stream.step().frames


def test_a_stream_shows_what_its_references_show(student: Student, monkeypatch: pytest.MonkeyPatch) -> None:
    engines = [TorchEngine(one, device="cpu") for one in (student, student, replace(student, refiner=None))]
    refined, plain = opening(engines[0]), opening(engines[2])
    others = opening(engines[1], monkeypatch)

    assert refined.shape == (9, 64, 64, 3)
    grey = (refined > 0) & (refined < 255)  # what is clamped says little
    assert grey.mean() > 0.1
    assert (refined != plain)[grey].mean() > 0.9
    assert (refined != others)[grey].mean() > 0.9
    np.testing.assert_array_equal(refined, opening(TorchEngine(student, device="cpu")))


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
