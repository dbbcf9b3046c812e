"""From settings to the autoencoder that they describe."""

from __future__ import annotations

from dataclasses import replace

from ms_infer.config import VaeConfig
from ms_infer.errors import ConfigError
from ms_infer.model.paired_vae import PairedVae
from ms_infer.model.taehv import TinyVae
from ms_infer.model.vae import Vae
from ms_infer.model.wan22_vae import Wan22Vae
from ms_infer.model.wan_vae import WanVae

KINDS: dict[str, type[Vae]] = {"tiny": TinyVae, "wan2.1": WanVae, "wan2.2": Wan22Vae}


def build_vae(config: VaeConfig) -> Vae:
    """The autoencoder that `config` describes, with freshly initialised weights."""
    if config.kind not in KINDS:
        raise ConfigError(f"unknown autoencoder kind {config.kind!r}; known: {', '.join(KINDS)}")
    if config.encoder is not None:
        return PairedVae(config, build_vae(config.encoder), build_vae(replace(config, encoder=None)))
    return KINDS[config.kind](config)
