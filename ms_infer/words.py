"""Words of a prompt to rows of the word-level text encoder's table."""

from __future__ import annotations

import re

from ms_infer.config import TextConfig

PADDING = -1
_WORD = re.compile(r"[a-z0-9]+")


def tokenize(prompt: str, config: TextConfig) -> list[int]:
    """Rows of the prompt's words, `config.tokens` long: 0 for an unknown word, -1 for padding."""
    table = {word: row + 1 for row, word in enumerate(config.vocabulary)}
    rows = [table.get(word, 0) for word in _WORD.findall(prompt.lower())][: config.tokens]
    return rows + [PADDING] * (config.tokens - len(rows))
