"""From a prompt to its text embedding: the small word encoder, umT5 with a cache, or a ready array."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ms_infer.config import TextConfig
from ms_infer.environment import cache_folder
from ms_infer.errors import ConfigError, MissingExtraError
from ms_infer.files import whole_file

if TYPE_CHECKING:
    from torch import nn

UMT5 = "google/umt5-xxl"
PADDING = -1
_WORD = re.compile(r"[a-z0-9]+")


def tokenize(prompt: str, config: TextConfig) -> list[int]:
    """Rows of the prompt's words, `config.tokens` long: 0 for an unknown word, -1 for padding."""
    table = {word: row + 1 for row, word in enumerate(config.vocabulary)}
    rows = [table.get(word, 0) for word in _WORD.findall(prompt.lower())][: config.tokens]
    return rows + [PADDING] * (config.tokens - len(rows))


def embed_prompt(prompt: str | NDArray[Any], config: TextConfig, encoder: nn.Module | None) -> NDArray[np.float32]:
    """Text embedding float32 `[config.tokens, config.dim]`, zero after the prompt's last token.

    A string goes through the checkpoint's word encoder or umT5; an array `[<= tokens, dim]` is a
    ready embedding. ConfigError for other shapes; MissingExtraError when umT5 is needed but absent.
    """
    if not isinstance(prompt, str):
        return _padded(np.asarray(prompt, np.float32), config)
    if encoder is not None:
        return encoder.encode(prompt).detach().float().cpu().numpy()  # type: ignore[no-any-return,operator]
    if not prompt:
        return np.zeros((config.tokens, config.dim), np.float32)
    return _padded(_umt5_cached(prompt, config.tokens), config)


def _padded(embedding: NDArray[np.float32], config: TextConfig) -> NDArray[np.float32]:
    if embedding.ndim != 2 or embedding.shape[1] != config.dim or embedding.shape[0] > config.tokens:
        raise ConfigError(f"a prompt embedding must be [<= {config.tokens}, {config.dim}], got {list(embedding.shape)}")
    if not np.isfinite(embedding).all():
        raise ConfigError("the prompt embedding holds NaN or infinite values")
    padded = np.zeros((config.tokens, config.dim), np.float32)
    padded[: embedding.shape[0]] = embedding
    return padded


def _umt5_cached(prompt: str, tokens: int) -> NDArray[np.float32]:
    """umT5 embedding of the prompt, read from or written to the user's cache."""
    folder = cache_folder() / "prompts"
    path = folder / f"{hashlib.sha256(f'{UMT5}|{tokens}|{prompt}'.encode()).hexdigest()[:32]}.npy"
    if path.exists():
        return np.load(path, allow_pickle=False).astype(np.float32)  # type: ignore[no-any-return]
    embedding = _umt5(prompt, tokens)
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as unfinished, unfinished.open("wb") as file:
        np.save(file, embedding)
    return embedding


def _umt5(prompt: str, tokens: int) -> NDArray[np.float32]:
    try:
        import torch
        from transformers import AutoTokenizer, UMT5EncoderModel
    except ImportError:
        raise MissingExtraError(
            "this model reads prompts with umT5: pip install 'ms-infer[text]', or pass a ready "
            f"embedding [<= {tokens}, dim] as the prompt"
        ) from None
    tokenized = AutoTokenizer.from_pretrained(UMT5)(prompt, max_length=tokens, truncation=True, return_tensors="pt")
    model = UMT5EncoderModel.from_pretrained(UMT5, torch_dtype=torch.bfloat16).eval()
    with torch.no_grad():
        return model(**tokenized).last_hidden_state[0].float().numpy()  # type: ignore[no-any-return]
