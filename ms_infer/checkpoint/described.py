"""When a configuration beside the weights may be trusted with what their shapes do not tell."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from ms_infer.checkpoint.files import CheckpointFile
from ms_infer.checkpoint.sizes import Sizes

logger = logging.getLogger(__name__)


def trusted(file: CheckpointFile, sizes: Sizes) -> Mapping[str, Any]:
    """The file's configuration, or nothing, with a warning, where it describes other weights.

    sizes: those of the tensors. A config.json beside the file has to state width, feed-forward width and layers, and
    all must agree; settings inside the file have to agree in what they state.
    """
    stated = _stated(file.config)
    own = {"width": sizes.dim, "feed-forward width": sizes.ffn_dim, "layers": sizes.layers}
    wrong = [f"{name} {stated[name]}, not {value}" for name, value in own.items() if stated.get(name, value) != value]
    if "config" not in file.metadata and file.config:
        wrong += [f"no {name}" for name in own if name not in stated]
    if not wrong:
        return file.config
    logger.warning("%s is of other weights (%s): it is not used", file.path.parent / "config.json", ", ".join(wrong))
    return {}


def _stated(config: Mapping[str, Any]) -> dict[str, object]:
    """Sizes that a configuration of Wan or diffusers states."""
    heads, head_dim = config.get("num_attention_heads"), config.get("attention_head_dim")
    found = {
        "width": heads * head_dim if isinstance(heads, int) and isinstance(head_dim, int) else config.get("dim"),
        "feed-forward width": config.get("ffn_dim"),
        "layers": config.get("num_layers"),
    }
    return {name: value for name, value in found.items() if value is not None}
