"""Prompts to rows with umT5: local files, cleaned text, a checked cache. May import: checkpoint, bundle, model."""

from ms_infer.prompts.embeds import read_embedding
from ms_infer.prompts.encoder import PromptEncoder, prompt_encoder

__all__ = ["PromptEncoder", "prompt_encoder", "read_embedding"]
