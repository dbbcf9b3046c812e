"""Settings that come from the environment, and the folder of the user's cache."""

from __future__ import annotations

import os
from pathlib import Path

from ms_infer.errors import ConfigError


def env(name: str, default: str = "") -> str:
    """Value of MS_INFER_<name>; the only place that reads the environment."""
    return os.environ.get(f"MS_INFER_{name}", default)


def hub_folder() -> Path:
    """Where the Hugging Face hub keeps what was downloaded: HF_HUB_CACHE, HF_HOME/hub or ~/.cache/huggingface/hub."""
    named, home = os.environ.get("HF_HUB_CACHE"), os.environ.get("HF_HOME")
    if named:
        return Path(named)
    return (Path(home) if home else Path("~/.cache/huggingface").expanduser()) / "hub"


def cache_folder() -> Path:
    """Where this SDK keeps what can be made again: MS_INFER_CACHE or ~/.cache/ms_infer; ConfigError without a home."""
    try:
        return Path(env("CACHE") or Path.home() / ".cache" / "ms_infer")
    except RuntimeError:  # a numeric user of a container, without HOME
        raise ConfigError("this user has no home folder for a cache; set MS_INFER_CACHE to a folder") from None
