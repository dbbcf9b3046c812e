"""What a torch engine needs: a device, a precision, and a student with the parts that turn latents into frames."""

from __future__ import annotations

import torch

from ms_infer.checkpoint import Student
from ms_infer.errors import ConfigError, DeviceError
from ms_infer.model.vae import Vae

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64}


def check_device(device: str | None) -> torch.device:
    """The device asked for, or the best one; DeviceError when it is absent."""
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise DeviceError("device='cuda' was asked for but torch sees no CUDA device; use device='cpu'")
    return chosen


def check_parts(student: Student) -> Vae:
    """The student's autoencoder; ConfigError when it has none, or lacks the image encoder that its settings ask for."""
    if student.vae is None:
        raise ConfigError(
            f"the checkpoint ({student.source}) has no autoencoder; give one as vae= (--vae), for example "
            "Wan2.1_VAE.pth or taew2_1.pth"
        )
    if student.config.model.image_encoder is not None and student.image_encoder is None:
        raise ConfigError(
            f"the checkpoint ({student.source}) has no image encoder; give one with "
            "load_student(..., image_encoder=PATH): Wan's CLIP file, or the folder image_encoder/ of a repository"
        )
    return student.vae
