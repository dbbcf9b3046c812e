"""What a torch engine needs: a device, a precision, and a student with the parts that turn latents into frames."""

from __future__ import annotations

import functools
from types import ModuleType

import torch
from ms_kernels import reference

from ms_infer.checkpoint import Student
from ms_infer.errors import ConfigError, DeviceError
from ms_infer.model.vae import Vae

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64}

FP8_CAPABILITY = (8, 9)
FP8_ERROR = 0.5
"""Largest difference of a sum of 64 products of numbers up to 1 to the same sum in float32, both as bfloat16."""


def check_device(device: str | None) -> torch.device:
    """The device asked for, or the best one; DeviceError when it is absent."""
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise DeviceError("device='cuda' was asked for but torch sees no CUDA device; use device='cpu'")
    return chosen


def check_fp8(device: torch.device, kernels: ModuleType) -> None:
    """DeviceError with the reason where FP8 products do not run; PyTorch's CPU twin always does."""
    reason = fp8_fault(device, kernels) if device.type == "cuda" else None
    if reason is not None:
        name = torch.cuda.get_device_name(device)
        raise DeviceError(f"precision='fp8' does not run on {name}: {reason}; use precision='bf16'")


@functools.lru_cache
def fp8_fault(device: torch.device, kernels: ModuleType) -> str | None:
    """Why a row-wise scaled product does not run on the device, tried once; None where it gives the right numbers.

    The capability alone does not tell: libraries lack these products on some newer devices.
    """
    if torch.cuda.get_device_capability(device) < FP8_CAPABILITY:
        return "it is older than sm_89"
    rows = torch.linspace(-1, 1, 64 * 64, device=device, dtype=torch.float32).view(64, 64).bfloat16()
    try:
        quantised = kernels.quantise_rows(rows)
        product = kernels.fp8_linear(*quantised, *quantised).float()
        worst = float((product - reference.fp8_linear(*quantised, *quantised).float()).abs().max())
    except (RuntimeError, ValueError) as error:
        return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    return None if worst < FP8_ERROR else f"a product of numbers up to 1 is off by {worst:.3g}"


def set_threads(threads: int) -> None:
    """Threads of every product on the CPU, in the whole process: torch knows no others."""
    torch.set_num_threads(threads)


def check_parts(student: Student) -> Vae:
    """The student's autoencoder; ConfigError when it has none, or lacks another part that its settings ask for."""
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
    if student.config.model.layer_network is not None and student.layer_network is None:
        raise ConfigError(
            f"the checkpoint ({student.source}) has no layer network, which its track head needs; export it again "
            "with --layers"
        )
    return student.vae
