"""Cleans a prompt as Wan does before it is split into tokens."""

from __future__ import annotations

import html
import re

from ms_infer.errors import MissingExtraError

_SPACE = re.compile(r"\s+")


def clean_prompt(prompt: str) -> str:
    """Mended encoding (ftfy), HTML entities resolved twice, single blanks; MissingExtraError without ftfy."""
    try:
        import ftfy
    except ImportError:
        raise MissingExtraError("prompts are cleaned with ftfy: pip install 'ms-infer[text]'") from None
    mended = html.unescape(html.unescape(ftfy.fix_text(prompt))).strip()
    return _SPACE.sub(" ", mended).strip()
