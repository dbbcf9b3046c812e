"""The track head: ids, cells, packing, the moved first frame, and chunk-by-chunk equality."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from ms_infer.config import PRESETS, StreamConfig, TrackHeadConfig
from ms_infer.errors import ConfigError, TrackShapeError
from ms_infer.model.taehv import TinyVae
from ms_infer.model.track_head import TrackHead
from ms_infer.model.word_encoder import WordEncoder

DEMO = PRESETS["demo"]


def small(size: int = 32, **head: object) -> StreamConfig:
    model = DEMO.model
    assert model.track_head is not None
    track_head = dataclasses.replace(model.track_head, **head)  # type: ignore[arg-type]
    layers = model.layer_network if track_head.content == "layers" else None
    vae = dataclasses.replace(model.vae, spatial_stride=8)
    model = dataclasses.replace(model, track_head=track_head, layer_network=layers, refiner=None, vae=vae)
    return dataclasses.replace(DEMO, model=model, height=size, width=size)


def random_tracks(count: int, frames: int, size: int = 32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(1, count, frames, 2, generator=generator) * (size + 8) - 4
    visible = torch.rand(1, count, frames, generator=generator) > 0.2
    return points, visible, torch.randint(100_000, (1, count), generator=generator)


@pytest.mark.parametrize("order", ["cos_sin", "sin_cos"])
def test_id_embedding_is_the_sinusoid_of_the_id(order: str) -> None:
    head = TrackHead(small(id_order=order))
    ids = torch.tensor([[0, 1, 255, 256, 99_999]])
    angles = ids.double()[..., None] * 10_000.0 ** (-torch.arange(32, dtype=torch.float64) / 32)
    parts = [angles.cos(), angles.sin()] if order == "cos_sin" else [angles.sin(), angles.cos()]
    torch.testing.assert_close(head.ids(ids), torch.cat(parts, -1).float(), atol=1e-6, rtol=0)


def test_a_point_lands_in_its_cell_and_outside_or_hidden_points_nowhere() -> None:
    head = TrackHead(small())
    points = torch.tensor([[[[9.9, 17.0]], [[32.0, 3.0]], [[4.0, 4.0]]]])
    visible = torch.tensor([[[True], [True], [False]]])
    volume = head.scatter(points, visible, torch.tensor([[7, 8, 9]]))
    occupied = torch.nonzero(volume.abs().sum(-1)[0, 0])
    assert occupied.tolist() == [[2, 1]]
    torch.testing.assert_close(volume[0, 0, 2, 1], head.ids(torch.tensor([[7]]))[0, 0])


def test_wantrack_rounds_to_the_nearest_cell_and_keeps_points_outside() -> None:
    head = TrackHead(small(rounding="round"))  # 4 x 4 cells: round(x / 32 * 3)
    places = {(16.1, 5.0): [0, 2], (15.9, 6.0): [1, 1], (-9.0, 40.0): [3, 0], (float("nan"), 1.0): None}
    for place, cell in places.items():
        points = torch.tensor(place).view(1, 1, 1, 2)
        volume = head.scatter(points, torch.ones(1, 1, 1, dtype=torch.bool), torch.tensor([[7]]))
        assert torch.nonzero(volume.abs().sum(-1)[0, 0]).tolist() == ([] if cell is None else [cell])


def test_two_points_in_one_cell_are_added_or_the_later_wins() -> None:
    points = torch.tensor([[[[1.0, 1.0]], [[2.0, 2.0]]]])
    visible, ids = torch.ones(1, 2, 1, dtype=torch.bool), torch.tensor([[3, 4]])
    added, last = TrackHead(small()), TrackHead(small(collision="last"))
    embedded = added.ids(ids)[0]
    torch.testing.assert_close(added.scatter(points, visible, ids)[0, 0, 0, 0], embedded.sum(0))
    torch.testing.assert_close(last.scatter(points, visible, ids)[0, 0, 0, 0], embedded[1])


@pytest.mark.parametrize(("rule", "copies"), [("repeat", 4), ("zero_pad", 1)])
def test_the_first_frame_fills_its_latent_frame_by_the_rule(rule: str, copies: int) -> None:
    head = TrackHead(small(first_frame=rule))
    packed = head.pack_ids(
        torch.full((1, 1, 1, 2), 5.0), torch.ones(1, 1, 1, dtype=torch.bool), torch.tensor([[5]]), opening=True
    )
    filled = packed[0, 0, :, 0, 0].view(4, 64).abs().sum(-1) > 0
    assert filled.tolist() == [False] * (4 - copies) + [True] * copies


def test_chunks_equal_slices_of_the_whole_clip() -> None:
    stream = small()
    head, vae = TrackHead(stream), TinyVae(stream.model.vae)
    points, visible, ids = random_tracks(12, 21)
    generator = torch.Generator().manual_seed(1)
    moved, valid = torch.rand(1, 21, 4, 32, 32, generator=generator).split([3, 1], dim=2)

    def encode(part: slice, state: list[torch.Tensor], opening: bool) -> tuple[torch.Tensor, list[torch.Tensor]]:
        content, state = vae.encode(moved[:, part], state, opening=opening)
        tracks = points[:, :, part], visible[:, :, part], ids
        return head(*tracks, opening=opening, content=content, validity=valid[:, part]), state

    with torch.no_grad():
        whole, _ = encode(slice(0, 21), vae.encoder_state(1, 32, 32), True)
        first, state = encode(slice(0, 9), vae.encoder_state(1, 32, 32), True)
        second, _ = encode(slice(9, 21), state, False)
    torch.testing.assert_close(torch.cat([first, second], 1), whole, atol=1e-5, rtol=1e-5)


def test_a_wrong_number_of_frames_is_an_error() -> None:
    head = TrackHead(small(content="none"))
    points, visible, ids = random_tracks(2, 8)
    with pytest.raises(TrackShapeError, match="expected 1 \\+ 4 k"):
        head(points, visible, ids, opening=True)
    assert head(points, visible, ids, opening=False).shape == (1, 2, 16, 4, 4)


def test_a_head_with_content_asks_for_it() -> None:
    points, visible, ids = random_tracks(2, 8)
    with pytest.raises(ConfigError, match="moved first frame"):
        TrackHead(small())(points, visible, ids, opening=False)


def test_the_paper_head_has_two_convolutions_where_configured() -> None:
    stream = dataclasses.replace(PRESETS["track-v0"], height=32, width=32)
    head = TrackHead(stream)
    points, visible, ids = random_tracks(3, 9)
    assert len(head.convs) == 2
    assert head(points, visible, ids, opening=True).shape == (1, 3, 16, 4, 4)
    assert TrackHeadConfig().content == "none"


def test_words_embed_in_order_and_padding_is_zero() -> None:
    text = dataclasses.replace(DEMO.model.text, vocabulary=("apple", "moves", "night"))
    encoder = WordEncoder(text)
    assert encoder.tokenize("Night, an apple moves!")[:5] == [3, 0, 1, 2, -1]
    embedded = encoder.encode("night apple")
    assert embedded.shape == (text.tokens, text.dim)
    assert embedded[2:].abs().max() == 0
    assert encoder.encode("").abs().max() == 0
    assert not torch.equal(encoder.encode("apple night")[0], embedded[0])
