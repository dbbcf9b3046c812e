"""The tiny autoencoder against the published TAEHV, and its streaming promises."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from ms_infer.config import VaeConfig, preset
from ms_infer.errors import CheckpointError, ConfigError
from ms_infer.model.autoencoders import build_vae
from ms_infer.model.taehv import TinyVae, tiny_vae_config, tiny_vae_weights
from tests.hash_weights import hash_weights

GOLDEN = Path(__file__).parent / "golden"
SMALL = VaeConfig(latent_channels=4, decoder_widths=(8, 6, 4, 4), encoder_width=6, blocks=2)


@pytest.fixture(scope="module")
def published() -> tuple[TinyVae, dict[str, Tensor]]:
    rule = json.loads((GOLDEN / "taehv_w21.json").read_text())
    weights = hash_weights((name, shape) for name, shape, *_ in rule["params"])
    config = tiny_vae_config(weights)
    vae = TinyVae(config)
    vae.load_state_dict(tiny_vae_weights(weights, config), strict=True)
    return vae.eval().requires_grad_(False), load_file(GOLDEN / "taehv_w21.safetensors")


@pytest.fixture(scope="module")
def small() -> TinyVae:
    torch.manual_seed(0)
    return TinyVae(SMALL).eval().requires_grad_(False)


def split(tensor: Tensor, sizes: list[int]) -> list[Tensor]:
    return list(tensor.split(sizes, dim=1))


def decode_in(vae: TinyVae, latents: Tensor, sizes: list[int]) -> Tensor:
    state, out = vae.decoder_state(latents.shape[0], *latents.shape[3:]), []
    for index, part in enumerate(split(latents, sizes)):
        frames, state = vae.decode(part, state, opening=index == 0)
        out.append(frames)
    return torch.cat(out, dim=1)


def test_sizes_are_read_from_the_published_names(published: tuple[TinyVae, dict[str, Tensor]]) -> None:
    assert published[0].config == VaeConfig()
    assert sum(p.numel() for p in published[0].decoder.parameters()) == pytest.approx(9.84e6, rel=1e-3)


def test_decode_matches_the_published_decoder(published: tuple[TinyVae, dict[str, Tensor]]) -> None:
    vae, golden = published
    state = vae.decoder_state(1, 4, 6)
    raw, _ = vae.decode_unclamped(golden["latent"], state, opening=False)
    torch.testing.assert_close(raw, golden["decoder_raw"], atol=5e-6, rtol=0)
    frames, _ = vae.decode(golden["latent"], state, opening=True)
    torch.testing.assert_close(frames, golden["decoder_raw"][:, 3:].clamp(0, 1), atol=5e-6, rtol=0)


def test_streamed_decode_matches_the_published_decoder(published: tuple[TinyVae, dict[str, Tensor]]) -> None:
    vae, golden = published
    frames = decode_in(vae, golden["latent"], [1, 3, 2])
    torch.testing.assert_close(frames, golden["decoder_raw"][:, 3:].clamp(0, 1), atol=5e-6, rtol=0)


def test_encode_matches_the_published_encoder(published: tuple[TinyVae, dict[str, Tensor]]) -> None:
    vae, golden = published
    latents, _ = vae.encode(golden["video"], vae.encoder_state(1, 32, 48), opening=False)
    torch.testing.assert_close(latents, golden["encoded"], atol=5e-6, rtol=0)


@given(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4), batch=st.integers(1, 3))
@settings(max_examples=20, deadline=None)
def test_any_split_decodes_to_the_whole_clip(sizes: list[int], batch: int) -> None:
    torch.manual_seed(sum(sizes))
    vae = TinyVae(SMALL).eval().requires_grad_(False)
    latents = torch.randn(batch, sum(sizes), 4, 3, 2)
    whole = decode_in(vae, latents, [sum(sizes)])
    assert whole.shape == (batch, 4 * sum(sizes) - 3, 3, 24, 16)
    torch.testing.assert_close(decode_in(vae, latents, sizes), whole, atol=1e-6, rtol=0)
    alone = decode_in(vae, latents[-1:], [sum(sizes)])
    torch.testing.assert_close(whole[-1:], alone, atol=1e-6, rtol=0)


@pytest.mark.parametrize("spatial_stride", [8, 16])
@pytest.mark.parametrize("chunks", [[1, 4, 8], [5, 4, 4], [9, 4]])
def test_any_split_encodes_to_the_whole_clip(spatial_stride: int, chunks: list[int]) -> None:
    torch.manual_seed(1)
    config = VaeConfig(latent_channels=4, spatial_stride=spatial_stride, encoder_width=6, blocks=1)
    vae = TinyVae(config).eval().requires_grad_(False)
    frames = torch.rand(2, 13, 3, 32, 48)
    whole, _ = vae.encode(frames, vae.encoder_state(2, 32, 48), opening=True)
    assert whole.shape == (2, 4, 4, 32 // spatial_stride, 48 // spatial_stride)
    state, out = vae.encoder_state(2, 32, 48), []
    for index, part in enumerate(split(frames, chunks)):
        latents, state = vae.encode(part, state, opening=index == 0)
        out.append(latents)
    torch.testing.assert_close(torch.cat(out, dim=1), whole, atol=1e-6, rtol=0)


def test_the_first_frame_is_encoded_as_four(small: TinyVae) -> None:
    frame = torch.rand(1, 1, 3, 16, 16)
    opened, _ = small.encode(frame, small.encoder_state(1, 16, 16), opening=True)
    repeated, _ = small.encode(frame.repeat(1, 4, 1, 1, 1), small.encoder_state(1, 16, 16), opening=False)
    assert torch.equal(opened, repeated)


def test_a_call_writes_nothing_into_its_state(small: TinyVae) -> None:
    state = small.decoder_state(1, 2, 2)
    _, first = small.decode(torch.randn(1, 2, 4, 2, 2), state, opening=True)
    kept = [s.clone() for s in first]
    _, second = small.decode(torch.randn(1, 3, 4, 2, 2), first, opening=False)
    assert all(not s.any() for s in state)
    assert all(torch.equal(a, b) for a, b in zip(kept, first, strict=True))
    assert [s.shape for s in state] == [s.shape for s in first] == [s.shape for s in second]


def test_channels_last_gives_the_same_frames(small: TinyVae) -> None:
    latents = torch.randn(1, 3, 4, 3, 2)
    expected = decode_in(small, latents, [3])
    faster = TinyVae(SMALL).eval().requires_grad_(False)
    faster.load_state_dict(small.state_dict())
    faster.to(memory_format=torch.channels_last)
    torch.testing.assert_close(decode_in(faster, latents, [1, 2]), expected, atol=1e-6, rtol=0)


def test_patch_of_two_decodes_with_stride_sixteen() -> None:
    config = VaeConfig(latent_channels=48, spatial_stride=16, decoder_widths=(8, 8, 4, 4), encoder_width=4, blocks=1)
    vae = TinyVae(config)
    frames, _ = vae.decode(torch.randn(1, 2, 48, 2, 3), vae.decoder_state(1, 2, 3), opening=True)
    assert frames.shape == (1, 5, 3, 32, 48)
    assert tiny_vae_config(vae.state_dict()) == config


def test_gradients_reach_every_weight() -> None:
    vae = TinyVae(SMALL)
    frames = torch.rand(1, 5, 3, 16, 16)
    latents, _ = vae.encode(frames, vae.encoder_state(1, 16, 16), opening=True)
    decoded, _ = vae.decode_unclamped(latents, vae.decoder_state(1, 2, 2), opening=True)
    (decoded - frames).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in vae.parameters())
    assert vae.get_parameter("encoder.0.weight").grad.abs().max() > 0  # type: ignore[union-attr]


def test_bigger_kernels_of_old_files_keep_their_last_channels(small: TinyVae) -> None:
    weights = small.state_dict()
    name = "decoder.6.conv.weight"
    weights[name] = torch.cat([torch.full((8, 8, 1, 1), 9.0), weights[name]])
    config = tiny_vae_config(weights)
    vae = TinyVae(config)
    vae.load_state_dict(tiny_vae_weights(weights, config), strict=True)
    assert torch.equal(vae.get_parameter(name), small.get_parameter(name))


def test_the_demo_preset_builds_and_exports() -> None:
    vae = build_vae(preset("demo").model.vae).eval()
    state = vae.decoder_state(1, 4, 4)

    class Decode(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vae = vae

        def forward(self, latents: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
            return self.vae.decode(latents, state, opening=False)

    latents = torch.randn(1, 3, 16, 4, 4)
    with torch.no_grad():
        program = torch.export.export(Decode().eval(), (latents, state))
        frames, new_state = program.module()(latents, state)
        expected, _ = vae.decode(latents, state, opening=False)
    torch.testing.assert_close(frames, expected)
    assert [s.shape for s in new_state] == [s.shape for s in state]


@pytest.mark.parametrize(
    ("frames", "opening", "message"),
    [
        (torch.rand(1, 4, 3, 16, 16), True, "1 \\+ 4 k"),
        (torch.rand(1, 5, 3, 16, 16), False, "4 k"),
        (torch.rand(1, 1, 4, 16, 16), True, "\\[batch, T, 3"),
        (torch.rand(1, 1, 3, 16, 20), True, "multiples of 8"),
    ],
)
def test_frames_that_do_not_fit_are_refused(small: TinyVae, frames: Tensor, opening: bool, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small.encode(frames, small.encoder_state(1, 16, 16), opening=opening)


def test_latents_and_states_that_do_not_fit_are_refused(small: TinyVae) -> None:
    with pytest.raises(ConfigError, match="latents have the shape"):
        small.decode(torch.randn(1, 1, 5, 2, 2), small.decoder_state(1, 2, 2), opening=True)
    with pytest.raises(ConfigError, match="state holds 2 tensors, expected 6"):
        small.decode(torch.randn(1, 1, 4, 2, 2), small.decoder_state(1, 2, 2)[:2], opening=True)
    with pytest.raises(ConfigError, match=r"tensor 0 of the state has the shape \(1, 8, 2, 2\), this input needs"):
        small.decode(torch.randn(1, 1, 4, 2, 3), small.decoder_state(1, 2, 2), opening=True)


def test_other_files_are_refused_by_name() -> None:
    with pytest.raises(CheckpointError, match="no TAEHV file"):
        tiny_vae_config({"conv1.weight": torch.zeros(1)})
