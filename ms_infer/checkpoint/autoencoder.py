"""The autoencoder of one file, or of two: settings from shapes and names, tensors under our names."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from torch import Tensor

from ms_infer.checkpoint.files import CheckpointFile
from ms_infer.checkpoint.kinds import TINY_VAE, WAN_VAE, kind_of
from ms_infer.checkpoint.names import listed
from ms_infer.config import VaeConfig
from ms_infer.errors import CheckpointError, ConfigError

_RAW = "lighttae"
"""In the names of files that read un-normalised latents and have the shapes of those that do not."""


Latents = Literal["normalised", "raw"]


def with_latents(source: str | Path) -> tuple[Path, Latents | None]:
    """The file of "FILE:raw" or "FILE:normalised", and which latents a tiny autoencoder reads; None: by its name."""
    for latents in get_args(Latents):
        if isinstance(source, str) and source.endswith(f":{latents}"):
            return Path(source.removesuffix(f":{latents}")), latents
    return Path(source), None


def vae_of(files: Sequence[tuple[CheckpointFile, Latents | None]]) -> tuple[VaeConfig, dict[str, Tensor]]:
    """Settings and tensors of an autoencoder; of two files, the first one's encoder and the second one's decoder.

    CheckpointError: no autoencoder, more than two files, a first file without an encoder, two that do not fit.
    """
    if len(files) > 2:
        raise CheckpointError(f"{len(files)} autoencoders are given; expected one, or an encoder's and a decoder's")
    found = [_single(file, latents) for file, latents in files]
    if len(found) == 1:
        return found[0]
    (encoder, encoding), (decoder, decoding) = found
    if not encoder.encodes:
        raise CheckpointError(f"{files[0][0].path} has no encoder; give the full autoencoder first, then the decoder")
    try:
        config = dataclasses.replace(
            decoder, part="decoder", encoder=dataclasses.replace(encoder, part="encoder", encoder=None)
        )
    except ConfigError as error:
        raise CheckpointError(f"{files[0][0].path} and {files[1][0].path} do not go together: {error}") from None
    used = {f"encoding.{name}": tensor for name, tensor in encoding.items() if name.startswith(("encoder.", "conv1."))}
    used |= {f"decoding.{name}": tensor for name, tensor in decoding.items() if name.startswith(("decoder.", "conv2."))}
    return config, used


def _single(file: CheckpointFile, latents: Latents | None) -> tuple[VaeConfig, dict[str, Tensor]]:
    kind = kind_of(file.tensors)
    if kind not in (TINY_VAE, WAN_VAE):
        what = kind.words if kind else f"no autoencoder (it holds {listed(sorted(file.tensors))})"
        raise CheckpointError(f"{file.path} is {what}; give a TAEHV or Wan VAE file as vae=")
    try:
        return _tiny(file, latents) if kind == TINY_VAE else _wan(file)
    except (CheckpointError, ConfigError) as error:
        raise CheckpointError(f"{file.path}: {error}") from None


def _tiny(file: CheckpointFile, latents: Latents | None) -> tuple[VaeConfig, dict[str, Tensor]]:
    from ms_infer.model.taehv import tiny_vae_config, tiny_vae_weights

    config = tiny_vae_config(file.tensors)
    by_name: Latents = "raw" if _RAW in file.path.name.lower() else "normalised"
    config = dataclasses.replace(config, latents=latents or by_name)
    return config, tiny_vae_weights(file.tensors, config)


def _wan(file: CheckpointFile) -> tuple[VaeConfig, dict[str, Tensor]]:
    from ms_infer.model.wan_vae import wan_vae_config, wan_vae_key_map

    names = wan_vae_key_map(file.tensors)
    return wan_vae_config(file.tensors), {names[name]: tensor for name, tensor in file.tensors.items()}
