"""What an adapter says about itself, in adapter_config.json or in the header of its file; the rest is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ms_infer.checkpoint.files import parse_json
from ms_infer.checkpoint.names import listed
from ms_infer.errors import CheckpointError

_HARMLESS = (
    *("alora_invocation_tokens", "auto_mapping", "base_model_name_or_path", "ensure_weight_tying", "eva_config"),
    *("exclude_modules", "inference_mode", "layers_pattern", "layers_to_transform", "lora_dropout", "megatron_core"),
    *("peft_version", "qalora_group_size", "revision", "runtime_config", "target_modules", "target_parameters"),
    "task_type",
)
"""Settings of peft that say how an adapter was trained, not how it is merged."""

_ONLY: dict[str, tuple[object, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal"),  # all others change the base
}
"""Settings that may have these values only."""

_READ = ("r", "lora_alpha", "use_rslora")


@dataclass(frozen=True)
class LoraSettings:
    """Numbers that hold for all modules of an adapter; None where nobody states them."""

    alpha: float | None = None
    rank: int | None = None
    rslora: bool = False
    """Scale by alpha / sqrt(rank) instead of alpha / rank."""


def settings_of(described: Mapping[str, Any], header: Mapping[str, str], origin: str) -> LoraSettings:
    """Settings of an adapter: its adapter_config.json, else peft's settings or kohya's numbers in the header.

    CheckpointError names everything that is neither understood nor empty: another method than plain LoRA, or an
    initialisation that changed the base weights (pissa, olora, corda, loftq, lora_ga, ...), merges wrongly.
    """
    described = described or _peft_header(header, origin)
    _check_plain_lora(described, origin)
    alpha, rank = _number(described.get("lora_alpha")), _number(described.get("r"))
    if not described:
        alpha, rank = (_number(_value(header.get(f"ss_network_{key}", ""))) for key in ("alpha", "dim"))
    rslora = bool(described.get("use_rslora")) or "true" in _kohya_argument(header, "rs_lora").lower()
    return LoraSettings(alpha, None if rank is None else int(rank), rslora)


def _check_plain_lora(described: Mapping[str, Any], origin: str) -> None:
    wrong = [
        f"{key}={described[key]!r}" for key, allowed in _ONLY.items() if described.get(key, allowed[0]) not in allowed
    ]
    known = {*_HARMLESS, *_ONLY, *_READ}
    wrong += [f"{key}={value!r}"[:80] for key, value in described.items() if key not in known and value]
    if wrong:
        raise CheckpointError(
            f"{origin} asks for {listed(sorted(wrong))}; only plain LoRA and rsLoRA with one alpha over unchanged base "
            "weights can be merged: convert it to plain LoRA, or merge it with peft and open the merged model"
        )


def _peft_header(header: Mapping[str, str], origin: str) -> dict[str, Any]:
    """peft's settings in a safetensors header: packed as diffusers packs them, or plain entries."""
    if "lora_adapter_metadata" in header:
        packed = parse_json(header["lora_adapter_metadata"], f"metadata 'lora_adapter_metadata' of {origin}")
        prefixes = ("transformer.", "diffusion_model.", "unet.")
        plain = {key: value for key, value in packed.items() if "." not in key}
        return plain | {
            key.removeprefix(prefix): value
            for prefix in prefixes
            for key, value in packed.items()
            if key.startswith(prefix)
        }
    return {key: _value(header[key]) for key in (*_READ, *_ONLY, "use_dora") if key in header}


def _kohya_argument(header: Mapping[str, str], name: str) -> str:
    try:
        arguments = json.loads(header.get("ss_network_args", "{}"))
    except ValueError:
        return ""
    return str(arguments.get(name, "")) if isinstance(arguments, dict) else ""


def _value(text: str) -> Any:
    """A header entry, which is always text, as the value it spells."""
    try:
        return json.loads(text.lower() if text in ("True", "False") else text)
    except ValueError:
        return text


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
