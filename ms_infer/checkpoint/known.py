"""Which published model a file is, by its name and its folders': models of equal sizes run with other settings."""

from __future__ import annotations

import dataclasses
import logging
import re

from ms_infer.checkpoint.files import CheckpointFile
from ms_infer.config import RECIPES, StreamConfig

logger = logging.getLogger(__name__)

_FOLDERS = 6
"""Parts of a path that are looked at, from the file outwards."""
_NAMES = (
    ("causvid-4step", r"causvid.*warp_4step|autoregressive_checkpoint_warp_4step"),
    ("causvid", r"causvid|autoregressive_checkpoint"),
    ("longlive-2", r"longlive[-_ ]?(v?2|.*5b)"),
    ("longlive", r"longlive"),
    ("self-forcing", r"self[-_]?forcing"),
    ("krea-14b", r"krea[-_]?realtime"),
)
"""Recipe -> what stands in the path, the more special first."""
_BASES = ("WanModel", "WanTransformer3DModel")


def recipe_of(file: CheckpointFile, latent_channels: int) -> str | None:
    """Name of the recipe of a published student; None for any other file."""
    path = "/".join(file.path.absolute().parts[-_FOLDERS:]).lower()
    if "longlive" in str(file.outer.get("checkpoint_format", "")):
        path = "longlive"
    found = next((name for name, pattern in _NAMES if re.search(pattern, path)), None)
    if found == "longlive" and latent_channels == RECIPES["longlive-2"].latent_channels:
        found = "longlive-2"
    return found if found and RECIPES[found].latent_channels == latent_channels else None


def with_recipe(config: StreamConfig, file: CheckpointFile) -> StreamConfig:
    """The settings with context and schedule of the published model that the file is.

    A base model of Wan opens with a warning: it was trained on whole clips and is no causal student.
    """
    found = recipe_of(file, config.model.latent_channels)
    if found is not None:
        recipe = RECIPES[found]
        logger.info("%s: taking the settings of %s", file.path, found)
        return dataclasses.replace(config, context=recipe.context, schedule=recipe.schedule)
    repackaged = any(name.startswith("model.diffusion_model.") for name in file.tensors)
    if file.config.get("_class_name") in _BASES or repackaged:
        logger.warning(
            "%s is a base model of Wan, trained on whole clips: it is no causal student, and its video falls apart "
            "when it is streamed; use a student such as Self-Forcing or LongLive, or name its settings with preset=",
            file.path,
        )
    return config
