"""From a prompt to its text embedding: the small word encoder, or a ready array."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ms_infer.config import TextConfig
from ms_infer.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

PADDING = -1
_WORD = re.compile(r"[a-z0-9]+")


def tokenize(prompt: str, config: TextConfig) -> list[int]:
    """Rows of the prompt's words, `config.tokens` long: 0 for an unknown word, -1 for padding."""
    table = {word: row + 1 for row, word in enumerate(config.vocabulary)}
    rows = [table.get(word, 0) for word in _WORD.findall(prompt.lower())][: config.tokens]
    return rows + [PADDING] * (config.tokens - len(rows))


def embed_prompt(prompt: str | NDArray[Any], config: TextConfig, encoder: nn.Module | None) -> NDArray[np.float32]:
    """Text embedding float32 `[config.tokens, config.dim]`, zero after the prompt's last token.

    A string goes through the checkpoint's word encoder; an array or torch tensor `[<= tokens, dim]` is a ready
    embedding. ConfigError: another shape, or a prompt for a model whose text encoder (umT5) was not given.
    """
    if not isinstance(prompt, str):
        return _padded(_as_array(prompt), config)
    if encoder is not None:
        return encoder.encode(prompt).detach().float().cpu().numpy()  # type: ignore[no-any-return,operator]
    if not prompt:
        return np.zeros((config.tokens, config.dim), np.float32)
    raise ConfigError(
        "this model reads prompts with umT5: give its encoder as text_encoder= (models_t5_umt5-xxl-enc-bf16.pth of a "
        f"Wan repository, or text_encoder/ of a diffusers one), or a ready embedding [<= {config.tokens}, {config.dim}]"
    )


def _as_array(prompt: Any) -> NDArray[np.float32]:
    tensor = prompt.detach().float().cpu() if hasattr(prompt, "detach") else prompt  # numpy has no bfloat16
    try:
        return np.asarray(tensor, np.float32)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"a prompt is text or an array of numbers, not {type(prompt).__name__} ({error})") from None


def _padded(embedding: NDArray[np.float32], config: TextConfig) -> NDArray[np.float32]:
    if embedding.ndim != 2 or embedding.shape[1] != config.dim or embedding.shape[0] > config.tokens:
        raise ConfigError(f"a prompt embedding must be [<= {config.tokens}, {config.dim}], got {list(embedding.shape)}")
    if not np.isfinite(embedding).all():
        raise ConfigError("the prompt embedding holds NaN or infinite values")
    padded = np.zeros((config.tokens, config.dim), np.float32)
    padded[: embedding.shape[0]] = embedding
    return padded
