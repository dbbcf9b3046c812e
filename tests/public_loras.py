"""Writes adapters in the forms that people pass round: LongLive, peft, diffusers, ComfyUI, kohya."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.diffusers_names import to_diffusers
from tests.public_weights import random_weights

KINDS = ("longlive", "peft", "diffusers", "diffusers-old", "comfyui", "kohya")


def factors(
    linear: Mapping[str, tuple[int, ...]], rank: int, seed: int = 1
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Down `[rank, in]` and up `[out, rank]` of every module `{name: (out, in)}`."""
    down = random_weights({name: (rank, shape[1]) for name, shape in linear.items()}, torch.float32, seed)
    up = random_weights({name: (shape[0], rank) for name, shape in linear.items()}, torch.float32, seed + 1)
    return down, up


def write_lora(
    linear: Mapping[str, tuple[int, ...]], file: Path, kind: str, *, rank: int, alpha: float, seed: int = 1
) -> Path:
    """One adapter; `file` is a folder for peft. LongLive's file and peft's tensors do not hold alpha."""
    down, up = factors(linear, rank, seed)
    tensors: dict[str, Tensor] = {}
    for name in linear:
        for key, tensor in _named(name, kind, down[name], up[name], alpha).items():
            tensors[key] = tensor
    if kind == "longlive":
        torch.save({"generator_lora": tensors}, file)
    elif kind == "peft":
        file.mkdir(parents=True)
        save_file(tensors, file / "adapter_model.safetensors")
        settings = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "init_lora_weights": True, "bias": "none"}
        (file / "adapter_config.json").write_text(json.dumps(settings))
    else:
        header = {"lora_adapter_metadata": json.dumps({"transformer.r": rank, "transformer.lora_alpha": alpha})}
        save_file(tensors, file, header if kind == "diffusers" else None)
    return file


def _named(name: str, kind: str, down: Tensor, up: Tensor, alpha: float) -> dict[str, Tensor]:
    if kind in ("longlive", "peft"):
        return {f"base_model.model.{name}.lora_A.weight": down, f"base_model.model.{name}.lora_B.weight": up}
    if kind == "diffusers":
        return {f"transformer.{to_diffusers(name)}.lora_A.weight": down,
                f"transformer.{to_diffusers(name)}.lora_B.weight": up}  # fmt: skip
    if kind == "diffusers-old":
        return {f"{to_diffusers(name)}.lora.down.weight": down, f"{to_diffusers(name)}.lora.up.weight": up,
                f"{to_diffusers(name)}.alpha": torch.tensor(alpha)}  # fmt: skip
    module = f"lora_unet_{name.replace('.', '_')}" if kind == "kohya" else f"diffusion_model.{name}"
    return {f"{module}.lora_down.weight": down, f"{module}.lora_up.weight": up, f"{module}.alpha": torch.tensor(alpha)}
