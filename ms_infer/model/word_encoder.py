"""The small word-level text encoder that a demo checkpoint carries."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ms_infer.config import TextConfig
from ms_infer.text import tokenize


class WordEncoder(nn.Module):
    """A table of words plus learned places; words outside the vocabulary share one row.

    Rows after the prompt's last word are zero, as with Wan's own text encoder; the empty prompt is all zeros.
    """

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.table = nn.Embedding(len(config.vocabulary) + 1, config.dim)
        self.places = nn.Parameter(torch.zeros(config.tokens, config.dim))
        nn.init.normal_(self.table.weight, std=0.5)

    def tokenize(self, prompt: str) -> list[int]:
        """Rows of the prompt's words, `config.tokens` long: 0 for an unknown word, -1 for padding."""
        return tokenize(prompt, self.config)

    def forward(self, rows: Tensor) -> Tensor:
        """rows: int64 `[B, tokens]` from `tokenize`. Returns `[B, tokens, dim]`."""
        present = (rows >= 0)[..., None].to(self.table.weight.dtype)
        embedded: Tensor = (self.table(rows.clamp(min=0)) + self.places) * present
        return embedded

    def encode(self, prompt: str) -> Tensor:
        """Text embedding `[tokens, dim]` of one prompt."""
        rows = torch.tensor([self.tokenize(prompt)], device=self.places.device)
        embedded: Tensor = self(rows)[0]
        return embedded
