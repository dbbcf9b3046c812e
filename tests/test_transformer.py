"""The transformer against stored forwards of the reference models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ms_infer.config import ModelConfig, TextConfig, preset
from ms_infer.model.rope import Rotation
from ms_infer.model.transformer import Transformer, full_attention

GOLDEN = Path(__file__).parent / "golden"
GRID = (4, 6)


def tiny(channels: int = 16) -> ModelConfig:
    return ModelConfig(
        name="tiny96",
        dim=96,
        ffn_dim=256,
        heads=3,
        layers=3,
        layout=(("noise", channels),),
        freq_dim=64,
        text=TextConfig(tokens=32, dim=64),
    )


@pytest.fixture(scope="module")
def model() -> Transformer:
    transformer = Transformer(tiny())
    weights = load_file(GOLDEN / "weights_tiny96.safetensors")
    transformer.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    return transformer.eval()


def frames_first(x: Tensor) -> Tensor:
    return x.transpose(1, 2)


@torch.no_grad()
def test_bidirectional_clip_equals_wan(model: Transformer) -> None:
    stored = load_file(GOLDEN / "wan21_bidirectional.safetensors")
    x = frames_first(stored["x"])
    timestep = stored["t"][:, None].expand(x.shape[:2])

    flow = model(x, timestep, model.condition(stored["context"]), full_attention(Rotation(5, GRID, 32)))

    torch.testing.assert_close(frames_first(flow), stored["out_wan"], atol=2e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize(("mask", "out"), [("mask.block3_full", "out_full"), ("mask.block3_local6", "out_local6")])
def test_block_causal_clip_equals_self_forcing(model: Transformer, mask: str, out: str) -> None:
    stored = load_file(GOLDEN / "sf_blockcausal_forward.safetensors")
    frames = stored[mask][:9, :9].bool()
    tokens = frames.repeat_interleave(24, 0).repeat_interleave(24, 1)

    attend = full_attention(Rotation(9, GRID, 32), tokens)
    flow = model(frames_first(stored["x"]), stored["t"], model.condition(stored["text"]), attend)

    torch.testing.assert_close(frames_first(flow), stored[out], atol=2e-5, rtol=0)


def test_patchify_and_unpatchify_use_their_own_orders(model: Transformer) -> None:
    x = torch.randn(1, 2, 16, 8, 12)
    weight, bias = model.patch_embedding.weight, model.patch_embedding.bias
    want = torch.nn.functional.conv3d(frames_first(x), weight, bias, stride=(1, 2, 2))

    torch.testing.assert_close(model.patchify(x), want.permute(0, 2, 3, 4, 1).flatten(2, 3), atol=1e-5, rtol=0)
    tokens = torch.randn(1, 2, 24, 64)
    pixels = model.unpatchify(tokens, (8, 12))
    assert pixels[0, 1, 5, 2 * 3 + 1, 2 * 4].item() == tokens[0, 1, 3 * 6 + 4, (1 * 2 + 0) * 16 + 5].item()


def test_zero_text_rows_are_attended(model: Transformer) -> None:
    """Text is never masked: more padding changes the result."""
    x, timestep = torch.randn(1, 1, 16, 8, 12), torch.full((1, 1), 500.0)
    attend = full_attention(Rotation(1, GRID, 32))
    text = torch.randn(1, 8, 64)
    padded = torch.cat([text, torch.zeros(1, 8, 64)], 1)
    with torch.no_grad():
        short, long = (model(x, timestep, model.condition(t), attend) for t in (text, padded))

    assert (short - long).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("wan2.1-1.3b", 1.42e9), ("wan2.1-14b", 14.29e9), ("wan2.2-5b", 5.0e9), ("motionstream-1.3b", 1.56e9)],
)
def test_presets_have_the_published_sizes(name: str, parameters: float) -> None:
    with torch.device("meta"):
        transformer = Transformer(preset(name).model)

    assert sum(p.numel() for p in transformer.parameters()) == pytest.approx(parameters, rel=0.02)


def test_image_tokens_have_their_own_attention() -> None:
    config = ModelConfig(
        name="i2v", dim=24, ffn_dim=32, heads=2, layers=1, freq_dim=16, image_tokens=5, image_dim=8,
        text=TextConfig(tokens=4, dim=8),
    )  # fmt: skip
    torch.manual_seed(0)
    transformer = Transformer(config)
    names = {name for name, _ in transformer.named_parameters()}
    image = torch.randn(1, 5, 8)
    keys = transformer.condition(torch.randn(1, 4, 8), image)

    assert len(keys[0]) == 4
    assert {"blocks.0.cross_attn.k_img.weight", "blocks.0.cross_attn.norm_k_img.weight", "img_emb.proj.4.bias"} <= names
    text_only = [layer[:2] for layer in keys]
    x, t = torch.randn(1, 1, 16, 4, 4), torch.zeros(1, 1)
    attend = full_attention(Rotation(1, (2, 2), 12))
    assert not torch.equal(transformer(x, t, keys, attend), transformer(x, t, text_only, attend))
