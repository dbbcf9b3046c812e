"""Folders of every publisher open, and hold what was put into them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ms_infer.checkpoint import load_student
from ms_infer.checkpoint.files import read_checkpoint
from ms_infer.model.wan_vae import wan_vae_key_map
from tests.public_checkpoints import FORMATS, VAE21, VAE22, make, vae_weights
from tests.public_weights import vae_to_diffusers

HALVES = ("wan2.2-a14b", "diffusers-a14b")


@pytest.mark.parametrize("name", sorted(set(FORMATS) - set(HALVES)))
def test_every_published_folder_opens_to_its_weights(tmp_path: Path, name: str) -> None:
    made = make(name, tmp_path)

    student = load_student(made.student)

    state = student.transformer.state_dict()
    weights = made.weights()
    assert state.keys() == weights.keys()
    assert all(torch.equal(state[key], weights[key]) for key in state)
    assert student.config.model.layers == 1


@pytest.mark.parametrize("config", [VAE21, VAE22], ids=["wan2.1", "wan2.2"])
def test_names_of_the_diffusers_autoencoder_lead_back_to_the_published_ones(config: object) -> None:
    names = list(vae_weights(config))  # type: ignore[arg-type]
    nested = config is VAE22
    renamed = {vae_to_diffusers(name, nested=nested): name for name in names}

    assert len(renamed) == len(names)
    assert wan_vae_key_map(renamed) == renamed


@pytest.mark.parametrize("name", ["wan2.1-1.3b", "diffusers", "wan2.2-5b"])
def test_the_autoencoder_of_a_folder_opens(tmp_path: Path, name: str) -> None:
    made = make(name, tmp_path)
    assert made.vae is not None

    student = load_student(made.student, vae=made.vae)

    assert student.vae is not None
    expected = vae_weights(student.config.model.vae)
    assert all(torch.equal(tensor, expected[key]) for key, tensor in student.vae.state_dict().items())
    assert read_checkpoint(made.vae).tensors.keys()
