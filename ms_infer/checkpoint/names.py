"""Name rules of Wan checkpoints: wrapper prefixes, diffusers -> original names, fused projections, WanTrack.

"Original" names are those of Wan-Video/Wan2.1 without a prefix; `ms_infer.model.transformer` uses them too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from torch import Tensor

from ms_infer.errors import CheckpointError

_NAMES_SHOWN = 8

WRAPPER_SEGMENTS = frozenset({"module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_orig_mod"})
"""Segments that DDP, FSDP, activation checkpointing and torch.compile put into names."""

LEADING = ("model", "diffusion_model")
"""First segments that hold the transformer in Self-Forcing, Krea and ComfyUI files."""

WANTRACK_PREFIX = "track_encoder."
_WANTRACK = {"temporal_conv": "convs.0", "proj": "convs.1"}

_TOP = (
    ("text_embedding.0", "condition_embedder.text_embedder.linear_1"),
    ("text_embedding.2", "condition_embedder.text_embedder.linear_2"),
    ("time_embedding.0", "condition_embedder.time_embedder.linear_1"),
    ("time_embedding.2", "condition_embedder.time_embedder.linear_2"),
    ("time_projection.1", "condition_embedder.time_proj"),
    ("img_emb.proj.0", "condition_embedder.image_embedder.norm1"),
    ("img_emb.proj.1", "condition_embedder.image_embedder.ff.net.0.proj"),
    ("img_emb.proj.3", "condition_embedder.image_embedder.ff.net.2"),
    ("img_emb.proj.4", "condition_embedder.image_embedder.norm2"),
    ("img_emb.emb_pos", "condition_embedder.image_embedder.pos_embed"),
    ("head.head", "proj_out"),
    ("head.modulation", "scale_shift_table"),
    ("patch_embedding", "patch_embedding"),
)
_ATTENTION = (
    ("q", "to_q"),
    ("k", "to_k"),
    ("v", "to_v"),
    ("o", "to_out.0"),
    ("norm_q", "norm_q"),
    ("norm_k", "norm_k"),
    ("k_img", "add_k_proj"),
    ("v_img", "add_v_proj"),
    ("norm_k_img", "norm_added_k"),
    ("to_qkv", "to_qkv"),
    ("to_kv", "to_kv"),
    ("to_added_kv", "to_added_kv"),
)
_BLOCK = (
    *((f"self_attn.{ours}", f"attn1.{theirs}") for ours, theirs in _ATTENTION),
    *((f"cross_attn.{ours}", f"attn2.{theirs}") for ours, theirs in _ATTENTION),
    ("norm3", "norm2"),  # Wan's norm1 and norm2 have no parameters; diffusers numbers the one that has as 2
    ("ffn.0", "ffn.net.0.proj"),
    ("ffn.2", "ffn.net.2"),
    ("modulation", "scale_shift_table"),
)
_LEAVES = ("", ".weight", ".bias")

_TOP_TO_ORIGINAL = {theirs + leaf: ours + leaf for ours, theirs in _TOP for leaf in _LEAVES}
_BLOCK_TO_ORIGINAL = {theirs + leaf: ours + leaf for ours, theirs in _BLOCK for leaf in _LEAVES}
_BLOCK_NAME = re.compile(r"(blocks\.\d+\.)(.+)")

_UNDERSCORED = {
    name.replace(".", "_"): name
    for name in (pair[i] for pair in (*_TOP, *_BLOCK) for i in (0, 1))
    if name not in ("modulation", "scale_shift_table")
}
_UNDERSCORED_BLOCK = re.compile(r"blocks_(\d+)_(.+)")

_FUSED = {"to_qkv": ("q", "k", "v"), "to_kv": ("k", "v"), "to_added_kv": ("k_img", "v_img")}
_FUSED_NAME = re.compile(rf"(.+_attn\.)({'|'.join(_FUSED)})\.(weight|bias)")


def listed(names: Iterable[str]) -> str:
    """The first 8 names and how many there are: `a, b and 3 more (5 in all)`."""
    names = list(names)
    shown = ", ".join(names[:_NAMES_SHOWN])
    return shown if len(names) <= _NAMES_SHOWN else f"{shown}, ... ({len(names)} in all)"


def strip_wrappers(name: str) -> str:
    """Remove what training wrappers add: `model._fsdp_wrapped_module.blocks.0...` -> `blocks.0...`."""
    segments = [segment for segment in name.split(".") if segment not in WRAPPER_SEGMENTS]
    while len(segments) > 1 and segments[0] in LEADING:
        segments = segments[1:]
    return ".".join(segments)


def to_original(name: str) -> str:
    """Original Wan name of a diffusers name; names that are unknown or original already stay as they are."""
    match = _BLOCK_NAME.fullmatch(name)
    return match[1] + _BLOCK_TO_ORIGINAL.get(match[2], match[2]) if match else _TOP_TO_ORIGINAL.get(name, name)


def from_underscores(module: str) -> str:
    """The module of kohya's `blocks_0_self_attn_q`: dots where a name of Wan or diffusers has them."""
    match = _UNDERSCORED_BLOCK.fullmatch(module)
    if match:
        return f"blocks.{match[1]}.{_UNDERSCORED.get(match[2], match[2])}"
    return _UNDERSCORED.get(module, module)


def is_diffusers(names: Iterable[str]) -> bool:
    """Whether stripped names follow diffusers' WanTransformer3DModel."""
    return any(name.startswith("condition_embedder.") or ".attn1." in name for name in names)


def normalised(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under original names: wrappers stripped, diffusers renamed, fused projections split.

    CheckpointError when two names of the file mean the same weight.
    """
    stripped = unique(tensors, strip_wrappers)
    renamed = unique(stripped, to_original) if is_diffusers(stripped) else stripped
    return split_fused(renamed)


def split_fused(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Split `to_qkv`, `to_kv`, `to_added_kv` (stacked along dimension 0) into views of their parts.

    A fused tensor whose parts are present too is a left-over; it stays under its own name.
    """
    result: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        match = _FUSED_NAME.fullmatch(name)
        parts = [f"{match[1]}{part}.{match[3]}" for part in _FUSED[match[2]]] if match else []
        if not match or any(part in tensors for part in parts):
            result[name] = tensor
            continue
        if tensor.ndim == 0 or tensor.shape[0] % len(parts):
            raise CheckpointError(f"{name} has shape {list(tensor.shape)}; expected {len(parts)} stacked projections")
        result |= dict(zip(parts, tensor.chunk(len(parts)), strict=True))
    return result


def unique(tensors: Mapping[str, Tensor], rename: Callable[[str], str]) -> dict[str, Tensor]:
    """Rename every key; CheckpointError when two keys end up with one name."""
    result: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    for name, tensor in tensors.items():
        new = rename(name)
        if new in result:
            raise CheckpointError(f"{origin[new]} and {name} both mean {new}; keep one of them in the file")
        result[new], origin[new] = tensor, name
    return result


def split_prefix(tensors: Mapping[str, Tensor], prefix: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors under `prefix` (without it), and the rest."""
    inside = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    return inside, {name: value for name, value in tensors.items() if not name.startswith(prefix)}


def wantrack_head(head: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """FastVideo's `track_encoder` as our track head, and what of it has no place there.

    `temporal_conv` `[C, id_dim, 4, 1, 1]` strides over 4 frames; ours is the same sum over channels that hold the
    4 frames one after the other, `[C, 4 * id_dim, 1, 1, 1]`. `proj` is the second convolution.
    """
    mapped: dict[str, Tensor] = {}
    rest: dict[str, Tensor] = {}
    for name, tensor in head.items():
        module, _, leaf = name.rpartition(".")
        if module not in _WANTRACK:
            rest[name] = tensor
        elif name == "temporal_conv.weight" and tensor.ndim == 5:
            mapped[f"{_WANTRACK[module]}.weight"] = tensor.transpose(1, 2).flatten(1, 2)[:, :, None]
        else:
            mapped[f"{_WANTRACK[module]}.{leaf}"] = tensor
    return mapped, rest
