"""umT5 from local files: found beside its tokenizer, loaded once, freed before streaming unless it is to be kept."""

from __future__ import annotations

import logging
import threading
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ms_infer.bundle.digests import cached_digest
from ms_infer.errors import ConfigError, MissingExtraError
from ms_infer.prompts.cache import cached_rows, store_rows
from ms_infer.prompts.clean import clean_prompt

if TYPE_CHECKING:
    from ms_infer.model.umt5 import Umt5Encoder

logger = logging.getLogger(__name__)
FORMAT = "1"
"""Counts changes of the rows that a prompt gets: a new number leaves old entries of the cache unused."""
TOKENIZER = "tokenizer.json"
_TOKENIZERS = (".", "tokenizer", "../tokenizer", "google/umt5-xxl", "../google/umt5-xxl")
"""Where publishers put it, seen from the encoder's folder."""


class PromptEncoder:
    """Embeds prompts with the umT5 of a Wan repository.

    weights: `models_t5_umt5-xxl-enc-bf16.pth`, or a diffusers `text_encoder/` folder. tokenizer: a tokenizer.json or
    its folder; None looks where publishers put it. keep: hold the encoder in memory between prompts; otherwise
    `free` lets go of it, and the next unknown prompt loads it again. May be used from any thread.
    ConfigError: no tokenizer. CheckpointError: the weights are no umT5. MissingExtraError: [text] is not installed.
    """

    def __init__(self, weights: str | Path, tokenizer: str | Path | None = None, *, keep: bool = False) -> None:
        self.weights, self.keep = Path(weights), keep
        self.tokenizer = find_tokenizer(self.weights) if tokenizer is None else _tokenizer_file(Path(tokenizer))
        self._encoder: Umt5Encoder | None = None
        self._lock = threading.Lock()

    def embed(self, prompt: str, tokens: int = 512) -> NDArray[np.float32]:
        """Rows float32 `[n <= tokens, dim]` of the cleaned prompt and its end; the empty prompt is its end alone."""
        with self._lock:
            cleaned = clean_prompt(prompt)
            key = f"{FORMAT}|{self._digest}|{tokens}|{cleaned}"
            rows = cached_rows(key, self._dim, tokens)
            if rows is None:
                rows = self._encode(cleaned, tokens)
                store_rows(key, rows)
            return rows

    def free(self) -> None:
        """Let go of the encoder's memory, unless it is to be kept."""
        with self._lock:
            if not self.keep:
                self._encoder = None

    def _encode(self, cleaned: str, tokens: int) -> NDArray[np.float32]:
        rows = self._load()(self._tokens(cleaned, tokens)).numpy()
        if not np.isfinite(rows).all():
            raise ConfigError(f"{self.weights} made NaN or infinite values of the prompt; download the file again")
        return rows

    def _tokens(self, cleaned: str, tokens: int) -> list[int]:
        tokenizer = self._loaded_tokenizer
        tokenizer.enable_truncation(max_length=tokens)
        found: list[int] = tokenizer.encode(cleaned).ids
        if not found or max(found) >= self._load().vocabulary:
            raise ConfigError(
                f"{self.tokenizer} makes tokens that {self.weights} does not know; give the tokenizer of its repository"
            )
        return found

    def _load(self) -> Umt5Encoder:
        if self._encoder is None:
            from ms_infer.checkpoint.files import read_checkpoint
            from ms_infer.model.umt5 import Umt5Encoder

            file = read_checkpoint(self.weights)
            self._files = (*file.files, self.tokenizer)
            self._encoder = Umt5Encoder(file.tensors, str(self.weights))
            logger.info("opened the text encoder %s: %d layers", self.weights, self._encoder.layers)
        return self._encoder

    @cached_property
    def _dim(self) -> int:
        return self._load().dim

    @cached_property
    def _digest(self) -> str:
        """Of all files that the rows depend on."""
        self._load()
        return " ".join(cached_digest(file) for file in self._files)

    @cached_property
    def _loaded_tokenizer(self) -> Any:
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise MissingExtraError("prompts are split with tokenizers: pip install 'ms-infer[text]'") from None
        try:
            return Tokenizer.from_file(str(self.tokenizer))
        except Exception as error:  # the library raises plain Exception for whatever is wrong with the file
            reason = str(error).splitlines()[0][:160]
            raise ConfigError(f"{self.tokenizer} is no usable tokenizer ({reason}); download it again") from None


def prompt_encoder(source: PromptEncoder | str | Path | None) -> PromptEncoder | None:
    """What was given as text_encoder=: an encoder as it is, or one for the file or folder."""
    return PromptEncoder(source) if isinstance(source, str | Path) else source


def find_tokenizer(weights: Path) -> Path:
    """The tokenizer.json that belongs to a text encoder; ConfigError says where it was looked for."""
    folder = weights if weights.is_dir() else weights.parent
    places = [folder / place / TOKENIZER for place in _TOKENIZERS]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        shown = ", ".join(_TOKENIZERS)
        raise ConfigError(
            f"no {TOKENIZER} for {weights} (looked in {shown} from {folder}); it is published as google/umt5-xxl/ in "
            "Wan's repositories and as tokenizer/ in those of diffusers: put it there or name it"
        )
    return found


def _tokenizer_file(given: Path) -> Path:
    file = given / TOKENIZER if given.is_dir() else given
    if not file.is_file():
        raise ConfigError(f"{file} does not exist; give a {TOKENIZER} or the folder that holds it")
    return file
