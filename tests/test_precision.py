"""Constants and weights keep their precision until an engine casts, and a cast that overflows is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from ms_export.weights import WeightTable, write_weights
from safetensors.torch import save_file

from ms_infer.checkpoint import load_student
from ms_infer.checkpoint.autoencoder import vae_of
from ms_infer.checkpoint.files import read_checkpoint
from ms_infer.config import VaeConfig
from ms_infer.engines.torch.plain import TorchEngine
from ms_infer.errors import CheckpointError
from ms_infer.model.autoencoders import build_vae
from ms_infer.model.constants import LATENT_STATISTICS
from ms_infer.model.vae import Vae
from tests.public_checkpoints import VAE21, VAE22, make, tiny_vae, vae_weights
from tests.tiny import tiny_student


def loaded(config: VaeConfig, dtype: torch.dtype) -> Vae:
    vae = build_vae(config)
    vae.load_state_dict(vae_weights(config, dtype), assign=True)
    return vae


@pytest.mark.parametrize("config", [VAE21, VAE22], ids=["wan2.1", "wan2.2"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_file_widens_to_the_exact_statistics(config: VaeConfig, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    latents = torch.randn(1, 1, config.latent_channels, 2, 2)
    widened = loaded(config, dtype).to(dtype).to(torch.float32)
    exact = loaded(config, torch.float32)
    exact.load_state_dict({name: tensor.to(dtype).float() for name, tensor in exact.state_dict().items()})

    frames = [vae.decode(latents, vae.decoder_state(1, 2, 2), opening=True)[0] for vae in (widened, exact)]

    assert torch.equal(frames[0], frames[1])
    assert dict(widened.named_buffers())["scale.std"].flatten().tolist() == pytest.approx(
        LATENT_STATISTICS[config.latent_channels][1], rel=1e-7
    )


def test_an_autoencoder_in_bfloat16_scales_latents_in_float32() -> None:
    vae = loaded(VAE21, torch.bfloat16).bfloat16()
    latents = torch.full((1, 1, 16, 1, 1), 1.0, dtype=torch.bfloat16)

    assert torch.equal(vae.scale.restore(latents)[0, 0, 0], torch.full((1, 1), 2.8184 - 0.7571).bfloat16())  # type: ignore[operator,union-attr]
    # both constants rounded first give 2.8125 - 0.7578


def test_a_student_and_its_autoencoder_keep_their_own_types(tmp_path: Path) -> None:
    made = make("wan2.1-1.3b", tmp_path)
    tensors = {name: tensor.half() for name, tensor in vae_weights(VAE21).items()}
    name = next(iter(tensors))
    tensors[name] = tensors[name].float() + 1e-6
    torch.save(tensors, tmp_path / "Wan2.1_VAE.pth")

    student = load_student(made.student, vae=tmp_path / "Wan2.1_VAE.pth")

    assert student.vae is not None
    assert {p.dtype for p in student.transformer.parameters()} == {torch.bfloat16}
    assert all(torch.equal(tensor, tensors[key]) for key, tensor in student.vae.state_dict().items())
    assert {t.dtype for t in student.vae.state_dict().values()} == {torch.float16, torch.float32}


def test_a_load_in_another_dtype_that_overflows_is_refused(tmp_path: Path) -> None:
    made = make("wan2.1-1.3b", tmp_path, dtype=torch.float32)
    large = {**made.weights(), "head.head.bias": torch.full((64,), 7e4)}
    save_file(large, made.root / "diffusion_pytorch_model.safetensors")

    with pytest.raises(CheckpointError, match=r"head.head.bias holds values up to 7e\+04, float16 ends at 6.55e\+04"):
        load_student(made.student, dtype=torch.float16)


def test_an_engine_in_float16_refuses_what_it_cannot_hold() -> None:
    student = tiny_student()
    with torch.no_grad():
        student.transformer.head.head.bias[0] = 7e4

    with pytest.raises(CheckpointError, match=r"in float16: NaN or infinite values in head.head.bias"):
        TorchEngine(student, precision="fp16")


def test_an_export_in_float16_refuses_what_it_cannot_hold(tmp_path: Path) -> None:
    student = tiny_student()
    with torch.no_grad():
        student.transformer.head.head.bias[0] = 7e4

    with pytest.raises(CheckpointError, match=r"transformer.head.head.bias holds values up to 7e\+04"):
        write_weights(student, WeightTable.of(student, torch.float16), tmp_path / "weights.bin")
    assert list(tmp_path.iterdir()) == []


def decode(vae: Vae, latents: torch.Tensor) -> torch.Tensor:
    return vae.decode(latents, vae.decoder_state(1, *latents.shape[3:]), opening=True)[0]


@pytest.mark.parametrize(("channels", "patch"), [(16, 1), (48, 2)])
def test_a_light_tae_reads_and_writes_raw_latents(tmp_path: Path, channels: int, patch: int) -> None:
    version = "2_1" if patch == 1 else "2_2"
    files = [
        tiny_vae(tmp_path / f"{name}w{version}.safetensors", latent_channels=channels, patch=patch)
        for name in ("tae", "lighttae")
    ]
    plain, light = (Vaes(*vae_of([(read_checkpoint(file), None)])).vae for file in files)
    mean, std = (torch.tensor(values).reshape(1, 1, -1, 1, 1) for values in LATENT_STATISTICS[channels])
    torch.manual_seed(0)
    latents, picture = torch.randn(1, 1, channels, 2, 2), torch.rand(1, 1, 3, 32, 32)

    assert light.config.latents == "raw"
    torch.testing.assert_close(decode(light, latents), decode(plain, latents * std + mean))
    encoded = [vae.encode(picture, vae.encoder_state(1, 32, 32), opening=True)[0] for vae in (light, plain)]
    torch.testing.assert_close(encoded[0], (encoded[1] - mean) / std)


class Vaes:
    """An autoencoder from settings and tensors."""

    def __init__(self, config: VaeConfig, tensors: dict[str, torch.Tensor]) -> None:
        self.vae = build_vae(config)
        self.vae.load_state_dict(tensors, strict=True)


def test_a_full_encoder_goes_with_a_tiny_decoder(tmp_path: Path) -> None:
    made = make("wan2.1-1.3b", tmp_path)
    assert made.vae is not None
    tiny = tiny_vae(tmp_path / "taew2_1.pth")
    whole, own = (load_student(made.student, vae=file).vae for file in (made.vae, tiny))
    student = load_student(made.student, vae=[made.vae, tiny])
    pair = student.vae
    assert pair is not None
    assert whole is not None
    assert own is not None
    picture, latents = torch.rand(1, 1, 3, 16, 16), torch.randn(1, 2, 16, 2, 2)

    encoded = [vae.encode(picture, vae.encoder_state(1, 16, 16), opening=True)[0] for vae in (pair, whole)]
    assert torch.equal(*encoded)
    assert torch.equal(decode(pair, latents), decode(own, latents))
    assert sum(p.numel() for p in pair.parameters()) < sum(p.numel() for v in (whole, own) for p in v.parameters())
    again = type(student.config).from_dict(student.config.to_dict())
    assert again == student.config


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_decoder_alone_decodes_and_refuses_pictures(tmp_path: Path, suffix: str) -> None:
    made = make("wan2.1-1.3b", tmp_path)
    alone = tiny_vae(tmp_path / f"taew2_1_decoder{suffix}", decoder_only=True)
    whole = tiny_vae(tmp_path / f"taew2_1{suffix}")
    vae, own = (load_student(made.student, vae=file).vae for file in (alone, whole))
    assert vae is not None
    assert own is not None
    latents = torch.randn(1, 2, 16, 2, 2)

    assert torch.equal(decode(vae, latents), decode(own, latents))
    with pytest.raises(ValueError, match=r"no encoder.*vae=\[Wan2.1_VAE.pth, taew2_1.pth\]"):
        vae.encode(torch.rand(1, 1, 3, 16, 16), [], opening=True)


def test_a_stream_runs_with_a_decoder_alone_and_with_a_pair(tmp_path: Path) -> None:
    from ms_infer import ConfigError, Stream

    made = make("wan2.1-1.3b", tmp_path)
    assert made.vae is not None
    alone = tiny_vae(tmp_path / "taew2_1_decoder.pth", decoder_only=True)
    small = dataclasses.replace(load_student(made.student).config, height=32, width=32)
    picture = np.full((32, 32, 3), 99, np.uint8)
    with Stream(load_student(made.student, preset=small, vae=alone)) as stream:
        assert stream.step().frames.shape == (9, 32, 32, 3)
        with pytest.raises(ConfigError, match="no encoder"):
            stream.start(picture)
    with Stream(load_student(made.student, preset=small, vae=[made.vae, alone])) as stream:
        stream.start(picture)
        assert stream.step().frames.shape == (12, 32, 32, 3)


@pytest.mark.parametrize(("ending", "latents"), [(":raw", "raw"), (":normalised", "normalised"), ("", "normalised")])
def test_the_latents_of_a_tiny_autoencoder_can_be_stated(tmp_path: Path, ending: str, latents: str) -> None:
    made = make("wan2.1-1.3b", tmp_path)
    file = tiny_vae(tmp_path / "renamed.pth")

    assert load_student(made.student, vae=f"{file}{ending}").config.model.vae.latents == latents
