"""Makes folders as the publishers of Wan models lay them out, with their file names, keys and layouts.

    made = make("self_forcing", tmp_path)          # narrow: 2 heads of 128, text width 64, one layer; milliseconds
    made = make("self_forcing", tmp_path, true_widths=True, layers=2)      # published widths of the transformer
    made.student          # what a user names: a file for trainers' .pt, the folder elsewhere
    made.root             # the repository's folder
    made.vae, made.text_encoder, made.tokenizer, made.image_encoder     # what lies in it, or None

`FORMATS` names every format. Weights are random and depend on name and seed alone; of a trainer's dict only the entry
that counts (generator_ema, or the only one) has the values of `made.weights()`. The VAE, text encoder and CLIP are
small stand-ins under true names (VAE of width 8, umT5 and CLIP of two layers with the width that the transformer
asks for), and the tokenizer has a hundred pieces; `tiny_vae`, `super_vae` and `lora` write further files.

    hub_cache(made.root, cache, "Wan-AI/Wan2.1-T2V-1.3B")    # the same as a hub cache holds it: blobs and links
    truncate(file), lfs_pointer(file), fp8_scaled(made)      # what goes wrong in practice

From a shell: python -m tests.public_checkpoints krea FOLDER --true-widths --layers 2
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ms_infer.config import VaeConfig
from ms_infer.model.autoencoders import build_vae
from tests import public_weights as pw
from tests.public_encoders import write_clip, write_json, write_shards, write_t5, write_tokenizer
from tests.public_weights import Widths

BF16 = torch.bfloat16
W13 = Widths(1536, 8960)
W14 = Widths(5120, 13824)
W5 = Widths(3072, 14336, in_channels=48, out_channels=48)
VAE21 = VaeConfig(kind="wan2.1", base_dim=8)
VAE22 = VaeConfig(kind="wan2.2", latent_channels=48, spatial_stride=16, base_dim=8, decoder_dim=12)
T5_FILE = "models_t5_umt5-xxl-enc-bf16.pth"
CLIP_FILE = "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"


@dataclass(frozen=True)
class Published:
    """A folder as its publisher lays it out."""

    root: Path
    student: Path
    widths: Widths
    layers: int
    vae: Path | None = None
    text_encoder: Path | None = None
    tokenizer: Path | None = None
    image_encoder: Path | None = None
    dtype: torch.dtype = BF16

    def weights(self) -> dict[str, Tensor]:
        """The transformer's weights under original names."""
        return pw.random_weights(pw.transformer_shapes(self.widths, self.layers), self.dtype)


def make(
    name: str, folder: Path, *, true_widths: bool = False, layers: int = 1, dtype: torch.dtype = BF16
) -> Published:
    """The folder of a format of `FORMATS`, below `folder`."""
    maker, widths, repository = FORMATS[name]
    root = folder / repository
    root.mkdir(parents=True)
    return maker(Published(root, root, widths if true_widths else widths.tiny(), layers, dtype=dtype))


def _self_forcing(made: Published) -> Published:
    ema = {f"model.{name}": tensor for name, tensor in made.weights().items()}
    other = {name: torch.zeros_like(tensor) for name, tensor in ema.items()}
    return _beside_base(made, "checkpoints/self_forcing_dmd.pt", {"generator": other, "generator_ema": ema})


def _longlive(made: Published) -> Published:
    content = {"generator": {f"model.{name}": tensor for name, tensor in made.weights().items()}}
    done = _beside_base(made, "longlive_models/models/longlive_base.pt", content)
    lora(made, done.student.with_name("lora.pt"), "longlive", rank=4)
    return done


def _causvid(made: Published) -> Published:
    content = {"generator": {f"model.{name}": tensor for name, tensor in made.weights().items()}}
    return _beside_base(made, "autoregressive_checkpoint/model.pt", content)


def _longlive_2(made: Published) -> Published:
    content = {
        "generator": {f"model.{name}": tensor for name, tensor in made.weights().items()},
        "checkpoint_format": "longlive_generator_merged_lora",
        "model_name": "Wan2.2-TI2V-5B",
        "dtype": "bfloat16",
        "merged_lora": True,
    }
    return _beside_base(made, "model_bf16.pt", content, "Wan2.2-TI2V-5B", VAE22)


def _krea(made: Published) -> Published:
    file = made.root / "krea-realtime-video-14b.safetensors"
    save_file({f"model.{name}": tensor for name, tensor in made.weights().items()}, file)
    base = _wan_folder(made, made.root / "wan_models/Wan2.1-T2V-1.3B", VAE21)
    return dataclasses.replace(base, root=made.root, student=file)


def _comfyui(made: Published) -> Published:
    file = made.root / "split_files/diffusion_models/wan2.1_t2v_1.3B_bf16.safetensors"
    file.parent.mkdir(parents=True)
    save_file({f"model.diffusion_model.{name}": tensor for name, tensor in made.weights().items()}, file)
    return dataclasses.replace(made, student=file)


def _wan(made: Published) -> Published:
    """Wan's own layout: one file, or shards where the published model has them."""
    vae = VAE22 if made.widths.out_channels == 48 else VAE21
    done = _wan_folder(made, made.root, vae)
    _write_wan(made, made.root, shards=1 if "1.3B" in made.root.name else 2)
    return done


def _wan_a14b(made: Published) -> Published:
    done = _wan_folder(made, made.root, VAE21)
    for half in ("high_noise_model", "low_noise_model"):
        _write_wan(made, made.root / half, shards=2)
    return done


def _diffusers(made: Published) -> Published:
    write_json(made.root / "model_index.json", {"_class_name": "WanPipeline", "_diffusers_version": "0.33.0.dev0"})
    write_json(made.root / "scheduler/scheduler_config.json", {"_class_name": "UniPCMultistepScheduler"})
    _write_diffusers_transformer(made, made.root / "transformer")
    vae = _write_diffusers_vae(made.root / "vae", VAE22 if made.widths.out_channels == 48 else VAE21)
    text = write_t5(made.root / "text_encoder", made.widths.text)
    tokenizer = write_tokenizer(made.root / "tokenizer")
    image = write_clip(made.root / "image_encoder", made.widths.image) if made.widths.image else None
    return dataclasses.replace(made, vae=vae, text_encoder=text, tokenizer=tokenizer, image_encoder=image)


def _diffusers_a14b(made: Published) -> Published:
    done = _diffusers(made)
    _write_diffusers_transformer(made, made.root / "transformer_2")
    return done


def _track_v0(made: Published) -> Published:
    done = _diffusers(made)
    extra = pw.random_weights(pw.track_encoder_shapes(), made.dtype)
    config = {"_class_name": "CausalTrackWanTransformer3DModel", "track_config": _TRACK_CONFIG}
    _write_diffusers_transformer(made, made.root / "transformer", extra, config)
    return done


_TRACK_CONFIG = {
    "id_dim": 64,
    "track_channels": 16,
    "vae_spatial_compression": 8,
    "vae_temporal_compression": 4,
    "max_track_id": 100000,
    "zero_init_head": False,
    "use_bias": False,
}

FORMATS: Mapping[str, tuple[Callable[[Published], Published], Widths, str]] = {
    "self_forcing": (_self_forcing, W13, "Self-Forcing"),
    "longlive": (_longlive, W13, "LongLive"),
    "causvid": (_causvid, W13, "CausVid"),
    "longlive_2": (_longlive_2, W5, "LongLive-2"),
    "krea": (_krea, W14, "krea-realtime-video"),
    "comfyui": (_comfyui, W13, "Wan_2.1_ComfyUI_repackaged"),
    "wan2.1-1.3b": (_wan, W13, "Wan2.1-T2V-1.3B"),
    "wan2.1-14b": (_wan, W14, "Wan2.1-T2V-14B"),
    "wan2.1-i2v-14b": (_wan, dataclasses.replace(W14, in_channels=36, image=1280), "Wan2.1-I2V-14B-480P"),
    "wan2.2-5b": (_wan, W5, "Wan2.2-TI2V-5B"),
    "wan2.2-a14b": (_wan_a14b, W14, "Wan2.2-T2V-A14B"),
    "diffusers": (_diffusers, W13, "Wan2.1-T2V-1.3B-Diffusers"),
    "diffusers-i2v": (_diffusers, dataclasses.replace(W14, in_channels=36, image=1280), "Wan2.1-I2V-14B-Diffusers"),
    "diffusers-5b": (_diffusers, W5, "Wan2.2-TI2V-5B-Diffusers"),
    "diffusers-a14b": (_diffusers_a14b, W14, "Wan2.2-T2V-A14B-Diffusers"),
    "track_v0": (_track_v0, dataclasses.replace(W13, in_channels=52, image=1280), "WanTrack-v0"),
}
"""Format -> how it is made, its published widths, the name of the repository's folder."""


def _beside_base(
    made: Published, file: str, content: dict[str, Any], base: str = "Wan2.1-T2V-1.3B", vae: VaeConfig = VAE21
) -> Published:
    """A trainer's .pt in its repository, and the base model under wan_models/ as its README asks for."""
    student = made.root / file
    student.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, student)
    done = _wan_folder(made, made.root / "wan_models" / base, vae)
    return dataclasses.replace(done, root=made.root, student=student)


def _wan_folder(made: Published, folder: Path, vae: VaeConfig) -> Published:
    """All but the transformer of a folder as Wan publishes it."""
    folder.mkdir(parents=True, exist_ok=True)
    vae_file = folder / ("Wan2.1_VAE.pth" if vae.kind == "wan2.1" else "Wan2.2_VAE.pth")
    torch.save(vae_weights(vae), vae_file)
    torch.save(pw.random_weights(pw.t5_shapes(made.widths.text), BF16), folder / T5_FILE)
    tokenizer = write_tokenizer(folder / "google/umt5-xxl")
    image = None
    if made.widths.image:
        image = folder / CLIP_FILE
        torch.save(pw.random_weights(pw.clip_shapes(made.widths.image), torch.float16), image)
    return dataclasses.replace(
        made, vae=vae_file, text_encoder=folder / T5_FILE, tokenizer=tokenizer, image_encoder=image
    )


def _write_wan(made: Published, folder: Path, shards: int) -> None:
    kind = "i2v" if made.widths.image else "ti2v" if made.widths.out_channels == 48 else "t2v"
    write_json(
        folder / "config.json",
        {
            "_class_name": "WanModel",
            "_diffusers_version": "0.30.0",
            "dim": made.widths.dim,
            "eps": 1e-06,
            "ffn_dim": made.widths.ffn,
            "freq_dim": 256,
            "in_dim": made.widths.in_channels,
            "model_type": kind,
            "num_heads": made.widths.dim // 128,
            "num_layers": made.layers,
            "out_dim": made.widths.out_channels,
            "text_len": 512,
        },
    )
    write_shards(folder, made.weights(), shards)


def _write_diffusers_transformer(
    made: Published, folder: Path, extra: dict[str, Tensor] | None = None, changes: dict[str, Any] | None = None
) -> None:
    image = made.widths.image or None
    config = {
        "_class_name": "WanTransformer3DModel",
        "_diffusers_version": "0.33.0.dev0",
        "added_kv_proj_dim": made.widths.dim if image else None,
        "attention_head_dim": 128,
        "cross_attn_norm": True,
        "eps": 1e-06,
        "ffn_dim": made.widths.ffn,
        "freq_dim": 256,
        "image_dim": image,
        "in_channels": made.widths.in_channels,
        "num_attention_heads": made.widths.dim // 128,
        "num_layers": made.layers,
        "out_channels": made.widths.out_channels,
        "patch_size": [1, 2, 2],
        "qk_norm": "rms_norm_across_heads",
        "rope_max_seq_len": 1024,
        "text_dim": made.widths.text,
    }
    write_json(folder / "config.json", {**config, **(changes or {})})
    write_shards(folder, {**pw.diffusers_named(made.weights()), **(extra or {})}, 2)


def vae_weights(config: VaeConfig, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Random weights of an autoencoder under published names."""
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in build_vae(config).state_dict().items()}
    return pw.random_weights(shapes, dtype)


def _write_diffusers_vae(folder: Path, config: VaeConfig) -> Path:
    nested = config.kind == "wan2.2"
    write_json(folder / "config.json", {"_class_name": "AutoencoderKLWan", "z_dim": config.latent_channels})
    renamed = {pw.vae_to_diffusers(name, nested=nested): t for name, t in vae_weights(config).items()}
    write_shards(folder, renamed, 1)
    return folder


def tiny_vae(file: Path, *, latent_channels: int = 16, decoder_only: bool = False, patch: int = 1) -> Path:
    """A narrow taew2_1 (or taew2_2 with 48 channels and patch 2); decoder_only: as some are passed round."""
    widths = (12, 8, 8, 8)
    config = VaeConfig(
        latent_channels=latent_channels, spatial_stride=8 * patch, decoder_widths=widths, encoder_width=8
    )
    return _write_tiny(file, config, decoder_only)


def super_vae(file: Path, *, decoder_only: bool = False) -> Path:
    """A narrow taew2_2_super."""
    config = VaeConfig(
        decoder="super", latent_channels=48, spatial_stride=16, decoder_widths=(12, 8, 8, 8), encoder_width=8
    )
    return _write_tiny(file, config, decoder_only)


def _write_tiny(file: Path, config: VaeConfig, decoder_only: bool) -> Path:
    tensors = vae_weights(config)
    kept = {name: t for name, t in tensors.items() if not (decoder_only and name.startswith("encoder."))}
    (save_file if file.suffix == ".safetensors" else torch.save)(kept, file)
    return file


def lora(made: Published, file: Path, kind: str, *, rank: int = 4, alpha: float = 8.0, seed: int = 1) -> Path:
    """An adapter over every linear layer of the blocks, of the kinds of `public_loras.KINDS`."""
    from tests.public_loras import write_lora

    linear = {
        name.removesuffix(".weight"): shape
        for name, shape in pw.transformer_shapes(made.widths, made.layers).items()
        if name.startswith("blocks.") and name.endswith(".weight") and len(shape) == 2
    }
    return write_lora(linear, file, kind, rank=rank, alpha=alpha, seed=seed)


def hub_cache(folder: Path, cache: Path, repository: str) -> Path:
    """The folder as a hub cache holds it; returns the snapshot: `models--ORG--NAME/snapshots/REVISION`."""
    root = cache / f"models--{repository.replace('/', '--')}"
    revision = hashlib.sha1(repository.encode()).hexdigest()
    snapshot = root / "snapshots" / revision
    (root / "refs").mkdir(parents=True)
    (root / "blobs").mkdir()
    (root / "refs/main").write_text(revision)
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = file.read_bytes()
        blob = root / "blobs" / hashlib.sha256(content).hexdigest()
        blob.write_bytes(content)
        link = snapshot / file.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        up = "/".join([".."] * len(link.parent.relative_to(root).parts))
        link.symlink_to(f"{up}/blobs/{blob.name}")
    return snapshot


def truncate(file: Path, kept: float = 0.6) -> None:
    """Cut a file off, as a broken download does."""
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * kept)])


def lfs_pointer(file: Path) -> None:
    """Leave what `git clone` without LFS leaves."""
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    size = file.stat().st_size
    file.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {size}\n")


def fp8_scaled(made: Published, file: Path) -> Path:
    """The student as ComfyUI's fp8_scaled files: float8 weights, a scale beside each, and a marker."""
    tensors = {"scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}
    for name, tensor in made.weights().items():
        scaled = name.startswith("blocks.") and tensor.ndim == 2
        tensors[f"model.diffusion_model.{name}"] = tensor.to(torch.float8_e4m3fn) if scaled else tensor
        if scaled:
            tensors[f"model.diffusion_model.{name.removesuffix('.weight')}.scale_weight"] = torch.ones(())
    save_file(tensors, file)
    return file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("format", choices=FORMATS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--true-widths", action="store_true", help="the published widths of the transformer")
    parser.add_argument("--layers", type=int, default=1)
    options = parser.parse_args()
    made = make(options.format, options.folder, true_widths=options.true_widths, layers=options.layers)
    print(made.student)


if __name__ == "__main__":
    main()
