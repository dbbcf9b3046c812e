"""The larger decoder of `taew2_2_super` against what TAEHV publishes, and with the students it fits."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ms_infer import CheckpointError, Stream
from ms_infer.checkpoint import load_student
from ms_infer.config import VaeConfig
from ms_infer.model.taehv import TinyVae, tiny_vae_config, tiny_vae_weights
from tests.hash_weights import hash_weights
from tests.public_checkpoints import make, super_vae, tiny_vae

PUBLISHED = VaeConfig(
    decoder="super", latent_channels=48, spatial_stride=16, decoder_widths=(512, 256, 128, 64), encoder_width=64
)
NARROW = dataclasses.replace(PUBLISHED, latent_channels=6, decoder_widths=(16, 12, 8, 4), encoder_width=4)


def as_published(weights: dict[str, Tensor], latents: Tensor) -> Tensor:
    """Frames `[T, 3, H, W]` of latents `[F, C, h, w]`: the whole clip at once, layer by layer as they are numbered."""

    def layer(x: Tensor, name: str, **options: int) -> Tensor:
        return F.conv2d(x, weights[f"decoder.{name}.weight"], weights.get(f"decoder.{name}.bias"), **options)

    x, number = layer(latents, "0"), 1
    for growth in (1, 2, 2):
        for _ in range(3):
            seen = torch.cat([x, torch.cat([torch.zeros_like(x[:1]), x[:-1]])], dim=1)
            wide = layer(layer(seen, f"{number}.conv.0", padding=3, groups=seen.shape[1]), f"{number}.conv.1")
            x, number = layer(wide.relu(), f"{number}.conv.3") + x, number + 1
        x = F.pixel_shuffle(layer(x, f"{number}", padding=1).relu(), 2)
        grown = layer(x, f"{number + 3}.conv")
        x, number = grown.reshape(len(x) * growth, -1, *x.shape[2:]), number + 4
    return F.pixel_shuffle(layer(x, f"{number}", padding=1), 2)[3:].clamp(0, 1)


def built(config: VaeConfig) -> tuple[TinyVae, dict[str, Tensor]]:
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in TinyVae(config).state_dict().items()}
    weights = hash_weights(shapes.items())
    vae = TinyVae(tiny_vae_config(weights)).eval().requires_grad_(False)
    vae.load_state_dict(weights, strict=True)
    return vae, weights


def decoded(vae: TinyVae, latents: Tensor, sizes: list[int]) -> Tensor:
    state, made = vae.decoder_state(1, *latents.shape[2:]), []
    for index, part in enumerate(latents.split(sizes)):
        frames, state = vae.decode(part[None], state, opening=index == 0)
        made.append(frames[0])
    return torch.cat(made)


def test_a_published_file_opens_and_decodes_at_its_true_widths() -> None:
    vae, weights = built(PUBLISHED)
    latents = torch.randn(2, 48, 3, 2, generator=torch.Generator().manual_seed(0))

    assert vae.config == PUBLISHED
    assert {"decoder.0.weight": (512, 48, 1, 1), "decoder.1.conv.0.weight": (1024, 1, 7, 7)}.items() <= {
        name: tuple(tensor.shape) for name, tensor in weights.items()
    }.items()
    frames = decoded(vae, latents, [2])
    assert frames.shape == (5, 3, 48, 32)
    torch.testing.assert_close(frames, as_published(weights, latents), atol=1e-5, rtol=0)


@pytest.mark.parametrize("sizes", [[5], [1, 3, 1], [3, 2]])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_any_split_decodes_as_published(sizes: list[int], layout: torch.memory_format) -> None:
    vae, weights = built(NARROW)
    latents = torch.randn(5, 6, 3, 4, generator=torch.Generator().manual_seed(1))

    frames = decoded(vae.to(memory_format=layout), latents, sizes)

    assert frames.std() > 0.05
    torch.testing.assert_close(frames, as_published(weights, latents), atol=2e-6, rtol=0)


def test_bigger_kernels_of_old_files_keep_their_last_channels() -> None:
    _, weights = built(NARROW)
    bigger = weights | {
        "decoder.7.conv.weight": torch.cat([torch.full((12, 12, 1, 1), 9.0), weights["decoder.7.conv.weight"]])
    }

    cut = tiny_vae_weights(bigger, tiny_vae_config(bigger))

    assert torch.equal(cut["decoder.7.conv.weight"], weights["decoder.7.conv.weight"])


@pytest.mark.parametrize("named", [True, False])
def test_a_5b_student_streams_with_it_by_name_and_beside_it(tmp_path: Path, named: bool) -> None:
    made = make("wan2.2-5b", tmp_path)
    assert made.vae is not None
    made.vae.unlink()
    file = super_vae((tmp_path if named else made.root) / "taew2_2_super.pth")

    with Stream(made.root, vae=file if named else None, settings=["height=64", "width=64"], engine="torch") as stream:
        assert stream.config.model.vae.decoder == "super"
        assert stream.step().frames.shape == (9, 64, 64, 3)


def test_a_full_encoder_goes_with_it(tmp_path: Path) -> None:
    made = make("wan2.2-5b", tmp_path)
    alone = super_vae(tmp_path / "taew2_2_super.safetensors", decoder_only=True)

    student = load_student(made.student, vae=[made.vae, alone])

    assert student.config.model.vae.encodes
    assert type(student.config).from_dict(student.config.to_dict()) == student.config


def test_a_student_of_other_latents_refuses_it(tmp_path: Path) -> None:
    made, file = make("wan2.1-1.3b", tmp_path), super_vae(tmp_path / "taew2_2_super.pth")

    with pytest.raises(CheckpointError, match=r"48 latent channels") as refusal:
        load_student(made.student, vae=file)
    assert "\n" not in str(refusal.value)
    with pytest.raises(CheckpointError, match=r"taew2_2_super.pth do not go together"):
        load_student(made.student, vae=[made.vae, file])


def test_a_mixture_of_both_decoders_is_refused(tmp_path: Path) -> None:
    whole = torch.load(tiny_vae(tmp_path / "taew2_1.pth"), weights_only=True)
    mixed = whole | {"decoder.0.weight": torch.zeros(12, 16, 1, 1)}

    with pytest.raises(CheckpointError, match=r"no TAEHV file: .* of a super decoder"):
        tiny_vae_config(mixed)
