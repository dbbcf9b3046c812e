"""The Wan 2.1 and 2.2 autoencoders against their references, and their streaming promises."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from ms_infer.config import VaeConfig, preset
from ms_infer.errors import CheckpointError, ConfigError
from ms_infer.model.autoencoders import build_vae
from ms_infer.model.vae import Vae
from ms_infer.model.wan_vae import WanVae, wan_vae_config, wan_vae_key_map
from tests.hash_weights import hash_weights

GOLDEN = Path(__file__).parent / "golden"
SMALL = {
    "wan2.1": VaeConfig(kind="wan2.1", base_dim=2),
    "wan2.2": VaeConfig(kind="wan2.2", base_dim=2, decoder_dim=3, latent_channels=48, spatial_stride=16),
}


def numbers(name: str) -> dict[str, Tensor]:
    return load_file(GOLDEN / f"{name}.safetensors")


def words(name: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((GOLDEN / f"{name}.json").read_text())
    return values


def hashed(params: list[tuple[str, list[int]]]) -> WanVae:
    """The autoencoder of a golden, from the diffusers names and shapes of its weights."""
    weights = hash_weights(params)
    vae = build_vae(wan_vae_config(weights))
    names = wan_vae_key_map(weights)
    vae.load_state_dict({names[name]: weight for name, weight in weights.items()}, strict=True)
    assert isinstance(vae, WanVae)
    return vae.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def wan21() -> WanVae:
    return hashed([(name, shape) for _, name, shape in words("vae21")["key_map"]])


@pytest.fixture(scope="module")
def wan22() -> WanVae:
    return hashed(words("vae22")["params"])


def small(kind: str) -> Vae:
    torch.manual_seed(3)
    return build_vae(SMALL[kind]).eval().requires_grad_(False)


def decode_in(vae: Vae, latents: Tensor, sizes: list[int]) -> tuple[Tensor, list[list[Tensor]]]:
    """Decode in parts; the frames and the state after each part."""
    state = vae.decoder_state(latents.shape[0], *latents.shape[3:])
    out, states = [], []
    for index, part in enumerate(latents.split(sizes, dim=1)):
        frames, state = vae.decode_unclamped(part, state, opening=index == 0)
        out.append(frames)
        states.append(state)
    return torch.cat(out, dim=1), states


def encode_in(vae: Vae, frames: Tensor, sizes: list[int]) -> Tensor:
    state, out = vae.encoder_state(frames.shape[0], *frames.shape[3:]), []
    for index, part in enumerate(frames.split(sizes, dim=1)):
        latents, state = vae.encode(part, state, opening=index == 0)
        out.append(latents)
    return torch.cat(out, dim=1)


def frames_first(video: Tensor) -> Tensor:
    """`[B, C, T, H, W]` in [-1, 1] -> `[B, T, C, H, W]` in [0, 1]."""
    return video.transpose(1, 2) / 2 + 0.5


@pytest.mark.parametrize("sizes", [[5], [3, 1, 1], [1] * 5])
def test_decode_matches_the_reference_in_any_split(wan21: WanVae, sizes: list[int]) -> None:
    golden = numbers("vae21")
    frames, _ = decode_in(wan21, golden["z"].transpose(1, 2), sizes)
    torch.testing.assert_close(frames, frames_first(golden["decoded"]), atol=2e-5, rtol=0)


def test_decode_clamps_to_the_range_of_pictures(wan21: WanVae) -> None:
    golden = numbers("vae21")
    frames, _ = wan21.decode(golden["z"].transpose(1, 2), wan21.decoder_state(1, 2, 3), opening=True)
    assert (golden["decoded"].abs() > 1).any()
    torch.testing.assert_close(frames, frames_first(golden["decoded"].clamp(-1, 1)), atol=2e-5, rtol=0)


def test_states_are_the_static_caches_of_the_reference(wan21: WanVae) -> None:
    golden = numbers("vae21")
    _, states = decode_in(wan21, golden["z"].transpose(1, 2), [1, 2, 2])
    assert len(states[0]) == 32
    for state, prefix in ((states[0], "static_cache_after_1"), (states[1], "cache_after_3")):
        caches = {int(name[-2:]): cache for name, cache in golden.items() if name.startswith(prefix)}
        assert len(caches) == 23
        for index, cache in caches.items():
            torch.testing.assert_close(state[index], cache, atol=1e-4, rtol=0)


@pytest.mark.parametrize("sizes", [[9], [1, 4, 4], [5, 4], [1, 8]])
def test_encode_matches_the_reference_in_any_split(wan21: WanVae, sizes: list[int]) -> None:
    golden = numbers("vae21")
    latents = encode_in(wan21, frames_first(golden["pixels"]), sizes)
    torch.testing.assert_close(latents, golden["latent"].transpose(1, 2), atol=2e-5, rtol=0)


def test_statistics_are_the_published_ones(wan21: WanVae) -> None:
    golden = numbers("vae21")
    assert torch.equal(wan21.scale.mean.flatten(), golden["mean"])
    assert torch.equal(wan21.scale.std.flatten(), golden["std"])


def test_diffusers_names_map_to_the_published_ones() -> None:
    triples = words("vae21")["key_map"]
    assert wan_vae_key_map(name for _, name, _ in triples) == {name: original for original, name, _ in triples}
    published = [original for original, _, _ in triples]
    assert wan_vae_key_map(published) == {name: name for name in published}


@pytest.mark.parametrize("sizes", [[3], [1, 1, 1], [2, 1]])
def test_wan22_decode_matches_diffusers_in_any_split(wan22: WanVae, sizes: list[int]) -> None:
    golden = numbers("vae22")
    frames, _ = decode_in(wan22, (golden["z"] - wan22.scale.mean) / wan22.scale.std, sizes)
    torch.testing.assert_close(frames.clamp(0, 1), golden["decoded"] / 2 + 0.5, atol=2e-5, rtol=0)


@pytest.mark.parametrize("sizes", [[5], [1, 4]])
def test_wan22_encode_matches_diffusers_in_any_split(wan22: WanVae, sizes: list[int]) -> None:
    golden = numbers("vae22")
    latents = encode_in(wan22, golden["pixels"], sizes)
    torch.testing.assert_close(latents * wan22.scale.std + wan22.scale.mean, golden["mu"], atol=2e-5, rtol=0)


def test_full_size_models_have_the_published_structure() -> None:
    with torch.device("meta"):
        wan21, wan22 = build_vae(VaeConfig(kind="wan2.1")), build_vae(preset("wan2.2-5b").model.vae)
    assert sum(p.numel() for p in wan21.parameters()) == 126_892_531
    assert sum(p.numel() for p in wan22.parameters()) == 704_688_668
    shapes = {name: tuple(weight.shape) for name, weight in wan22.state_dict().items()}
    assert shapes["encoder.conv1.weight"] == (160, 12, 3, 3, 3)
    assert shapes["encoder.downsamples.1.downsamples.2.time_conv.weight"] == (320, 320, 3, 1, 1)
    assert shapes["encoder.downsamples.3.downsamples.1.residual.6.weight"] == (640, 640, 3, 3, 3)
    assert shapes["decoder.upsamples.2.upsamples.3.resample.1.weight"] == (512, 512, 3, 3)
    assert shapes["decoder.upsamples.3.upsamples.0.shortcut.weight"] == (256, 512, 1, 1, 1)
    assert shapes["decoder.head.2.weight"] == (12, 256, 3, 3, 3)
    assert wan_vae_config(wan22.state_dict()) == preset("wan2.2-5b").model.vae


@given(kind=st.sampled_from(list(SMALL)), sizes=st.lists(st.integers(1, 3), min_size=1, max_size=3))
@settings(max_examples=10, deadline=None)
def test_any_split_of_a_batch_equals_the_whole_clip(kind: str, sizes: list[int]) -> None:
    vae, total = small(kind).double(), sum(sizes)
    unit, channels = SMALL[kind].spatial_stride, SMALL[kind].latent_channels
    latents = torch.randn(2, total, channels, 1, 2, dtype=torch.float64)
    whole, _ = decode_in(vae, latents, [total])
    assert whole.shape == (2, 4 * total - 3, 3, unit, 2 * unit)
    torch.testing.assert_close(decode_in(vae, latents, sizes)[0], whole, atol=1e-9, rtol=0)
    torch.testing.assert_close(decode_in(vae, latents[1:], [total])[0], whole[1:], atol=1e-9, rtol=0)
    frames = torch.rand(2, 4 * total - 3, 3, unit, 2 * unit, dtype=torch.float64)
    encoded = encode_in(vae, frames, [4 * total - 3])
    assert encoded.shape == (2, total, channels, 1, 2)
    parts = [4 * sizes[0] - 3, *(4 * size for size in sizes[1:])]
    torch.testing.assert_close(encode_in(vae, frames, parts), encoded, atol=1e-9, rtol=0)


@pytest.mark.parametrize("kind", list(SMALL))
def test_state_shapes_never_change_and_old_states_stay(kind: str) -> None:
    vae, unit = small(kind), SMALL[kind].spatial_stride
    decoder, encoder = vae.decoder_state(1, 2, 1), vae.encoder_state(1, 2 * unit, unit)
    latents, frames = torch.randn(1, 2, SMALL[kind].latent_channels, 2, 1), torch.rand(1, 5, 3, 2 * unit, unit)
    for state, call, values in ((decoder, vae.decode, latents), (encoder, vae.encode, frames)):
        _, after = call(values, state, opening=True)
        kept = [cache.clone() for cache in after]
        _, later = call(values[:, -4:], after, opening=False)
        assert [c.shape for c in state] == [c.shape for c in after] == [c.shape for c in later]
        assert not any(c.any() for c in state)
        assert all(torch.equal(a, b) for a, b in zip(kept, after, strict=True))


def test_bfloat16_stays_close_to_fp32(wan21: WanVae) -> None:
    latents = numbers("vae21")["z"].transpose(1, 2)[:, :3]
    expected, _ = decode_in(wan21, latents, [3])
    frames, states = decode_in(copy.deepcopy(wan21).to(torch.bfloat16), latents.to(torch.bfloat16), [1, 2])
    assert frames.dtype == states[0][0].dtype == torch.bfloat16
    assert (frames.float() - expected).abs().mean() < 0.03 * expected.std()


@pytest.mark.parametrize("opening", [True, False])
@pytest.mark.parametrize("kind", list(SMALL))
def test_decode_exports_with_static_shapes(kind: str, opening: bool) -> None:
    vae = small(kind)

    class Decode(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vae = vae

        def forward(self, latents: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
            return self.vae.decode(latents, state, opening=opening)

    latents = torch.randn(1, 2, SMALL[kind].latent_channels, 1, 1)
    state = [torch.zeros_like(c) if opening else torch.randn_like(c) for c in vae.decoder_state(1, 1, 1)]
    program = torch.export.export(Decode().eval(), (latents, state))
    frames, new_state = program.module()(latents, state)
    expected, expected_state = vae.decode(latents, state, opening=opening)
    torch.testing.assert_close(frames, expected)
    torch.testing.assert_close(new_state, expected_state)


def test_gradients_reach_every_weight_of_the_decoder() -> None:
    vae = small("wan2.2").requires_grad_(True)
    frames, _ = decode_in(vae, torch.randn(1, 2, 48, 1, 1), [1, 1])
    frames.square().mean().backward()
    missing = [n for n, p in vae.named_parameters() if n.startswith(("decoder", "conv2")) and p.grad is None]
    assert missing == []


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match="48 latent channels and the spatial stride 16, not 16 and 8"):
        build_vae(VaeConfig(kind="wan2.2"))
    vae = small("wan2.2")
    with pytest.raises(ConfigError, match="multiples of 16"):
        vae.encoder_state(1, 24, 32)
    with pytest.raises(ConfigError, match="state holds 24 tensors, expected 32"):
        vae.decode(torch.randn(1, 1, 48, 1, 1), vae.encoder_state(1, 16, 16), opening=True)


def test_other_files_are_refused_by_name() -> None:
    with pytest.raises(CheckpointError, match=r"no Wan VAE file: conv2\.weight missing"):
        wan_vae_config({"decoder.conv_in.weight": torch.zeros(1)})
