"""What image-to-video models see of the first frame: CLIP tokens, and the encoding of grey frames after it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ms_infer import CheckpointError, ConfigError, Stream
from ms_infer.checkpoint import Student, load_student
from ms_infer.config import GREY_LATENT_FRAMES, ImageEncoderConfig, VaeConfig
from ms_infer.engines.torch import TorchEngine
from ms_infer.model.autoencoders import build_vae
from ms_infer.model.first_frame import GreyTail
from ms_infer.model.image_encoder import MEAN, STD, ImageEncoder, image_encoder_of, seen_pixels
from tests.public_checkpoints import make
from tests.tiny import tiny_student

VAES = {
    "tiny": VaeConfig(decoder_widths=(8, 8, 8, 8), encoder_width=8, blocks=3),
    "wan2.1": VaeConfig(kind="wan2.1", base_dim=4),
    "wan2.2": VaeConfig(kind="wan2.2", latent_channels=48, spatial_stride=16, base_dim=4, decoder_dim=4),
}


def picture(height: int, width: int) -> torch.Tensor:
    """uint8 `[H, W, 3]` with detail at every scale."""
    return torch.randint(0, 256, (height, width, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def as_input(image: torch.Tensor) -> torch.Tensor:
    return image.permute(2, 0, 1)[None].float() / 255


@pytest.mark.parametrize(("height", "width"), [(480, 832), (300, 200), (96, 96)])
def test_the_cropped_picture_is_that_of_clips_processor(height: int, width: int) -> None:
    transformers = pytest.importorskip("transformers")
    from PIL import Image

    image = picture(height, width)
    size = {"shortest_edge": 224}
    processor = transformers.CLIPImageProcessor(size=size, crop_size={"height": 224, "width": 224})
    expected = processor(images=Image.fromarray(image.numpy()), return_tensors="pt")["pixel_values"]

    difference = (seen_pixels(as_input(image), ImageEncoderConfig()) - expected).abs()

    assert difference.max() <= 1.01 / 255 / min(STD)  # a sum beside .5 may round to the level next to it
    assert (difference > 1e-4).float().mean() < 1e-3


def test_the_squashed_picture_is_wans() -> None:
    image = as_input(picture(480, 832))
    square = F.interpolate(image * 2 - 1, size=(224, 224), mode="bicubic", align_corners=False) * 0.5 + 0.5
    expected = (square - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]

    torch.testing.assert_close(seen_pixels(image, ImageEncoderConfig(fit="squash")), expected, atol=1e-3, rtol=0)


def test_tokens_are_those_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    settings = transformers.CLIPVisionConfig(
        hidden_size=160, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2, image_size=28,
        patch_size=14, hidden_act="gelu",
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = transformers.CLIPVisionModel(settings).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, 0, 0.1)
    config, tensors = image_encoder_of(theirs.state_dict(), settings.to_dict())
    ours = ImageEncoder(config)
    ours.load_state_dict(tensors, strict=True)
    image = as_input(picture(48, 80))

    with torch.no_grad():
        hidden = theirs(pixel_values=seen_pixels(image, config), output_hidden_states=True).hidden_states
        torch.testing.assert_close(ours(image), hidden[-2], atol=1e-5, rtol=0)


def test_wans_file_and_the_folder_of_diffusers_hold_the_same_encoder(tmp_path: Path) -> None:
    tokens = []
    for name in ("wan2.1-i2v-14b", "diffusers-i2v"):
        made = make(name, tmp_path)
        assert made.image_encoder is not None
        student = load_student(made.student, vae=made.vae, image_encoder=made.image_encoder, dtype=torch.float32)
        model = student.config.model
        assert student.missing == ()
        assert model.image_encoder is not None
        assert (model.image_at, model.image_encoder.fit) == ("grey", "squash" if name.startswith("wan") else "crop")
        assert student.image_encoder is not None
        with torch.no_grad():
            tokens.append(student.image_encoder(as_input(picture(224, 224))))
    torch.testing.assert_close(*tokens, atol=0.05, rtol=0)  # a square: both fits leave it nearly alone


def test_a_quick_gelu_is_refused() -> None:
    with pytest.raises(CheckpointError, match="activation 'quick_gelu'"):
        image_encoder_of({}, {"hidden_act": "quick_gelu"})


def test_an_autoencoder_is_no_image_encoder(tmp_path: Path) -> None:
    made = make("diffusers-i2v", tmp_path)
    assert made.vae is not None
    with pytest.raises(CheckpointError, match="no CLIP vision encoder"):
        load_student(made.student, image_encoder=made.vae)


@pytest.mark.parametrize("kind", VAES)
def test_the_slot_is_the_encoding_of_the_image_and_grey_frames(kind: str) -> None:
    torch.manual_seed(0)
    vae = build_vae(VAES[kind]).requires_grad_(False)
    image = torch.rand(1, 3, 32, 32)
    tail = GreyTail(vae, image)
    latents = torch.stack([tail.latent(index) for index in range(4)], dim=1)

    clip = torch.cat([image[:, None], torch.full((1, 12, 3, 32, 32), 0.5)], dim=1)
    expected, _ = vae.encode(clip, vae.encoder_state(1, 32, 32), opening=True)

    torch.testing.assert_close(latents, expected, atol=1e-5, rtol=0)
    assert (latents[:, 1] - latents[:, 0]).abs().max() > 1e-3
    assert latents[:, 1].abs().max() > 1e-3


@pytest.mark.parametrize("kind", VAES)
def test_autoencoders_have_forgotten_the_image_when_the_slot_stands_still(kind: str) -> None:
    torch.manual_seed(0)
    vae = build_vae(VAES[kind]).requires_grad_(False)
    tails = [GreyTail(vae, torch.rand(1, 3, 32, 32)) for _ in range(2)]
    settled = [tail.latent(GREY_LATENT_FRAMES) for tail in tails]

    assert torch.equal(*settled)
    assert all(torch.equal(tail.latent(10**6), settled[0]) for tail in tails)
    assert not torch.equal(tails[0].latent(1), tails[1].latent(1))


def grey_student() -> Student:
    encoder = ImageEncoderConfig(width=12, ffn_dim=16, heads=2, layers=1, pixels=28)
    return tiny_student(
        image_tokens=encoder.tokens, image_dim=12, image_encoder=encoder, image_at="grey",
        layout=(("noise", 16), ("mask", 4), ("image", 16), ("track", 16)),
    )  # fmt: skip


def test_image_tokens_reach_the_video_and_outlive_a_prompt() -> None:
    student = grey_student()
    engine = TorchEngine(student, device="cpu")
    with Stream(engine) as stream:
        stream.start(picture(32, 32).numpy(), "a cat")
        assert engine._image_tokens is not None
        keys = [layer[2].clone() for layer in engine._keys]
        stream.step()
        stream.set_prompt("snow")
        stream.step()
        assert all(torch.equal(before, layer[2]) for before, layer in zip(keys, engine._keys, strict=True))
        stream.start(255 - picture(32, 32).numpy(), "snow")
        assert not torch.equal(keys[0], engine._keys[0][2])


def test_a_model_that_reads_image_tokens_needs_an_image() -> None:
    with Stream(grey_student()) as stream, pytest.raises(ConfigError, match="needs a first frame"):
        stream.start(prompt="a cat")


def test_a_snapshot_in_the_middle_of_the_grey_frames_goes_on_bit_for_bit(tmp_path: Path) -> None:
    with Stream(grey_student()) as stream:
        stream.start(picture(32, 32).numpy(), "a cat")
        stream.step()
        stream.snapshot(tmp_path / "s.safetensors")
        expected = stream.step().frames
        stream.restore(tmp_path / "s.safetensors")
        np.testing.assert_array_equal(stream.step().frames, expected)


def test_a_student_without_its_image_encoder_is_refused() -> None:
    student = dataclasses.replace(grey_student(), image_encoder=None)
    with pytest.raises(ConfigError, match="no image encoder"):
        Stream(student)
