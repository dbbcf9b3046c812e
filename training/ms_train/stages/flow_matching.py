"""Flow matching: noise levels, losses, joint guidance, and attention patterns of training."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ms_infer.config import ScheduleConfig
from ms_infer.model.transformer import Attend, SelfAttention, merge_heads
from ms_infer.numerics.schedule import denoise_steps

TEXT_WEIGHT, MOTION_WEIGHT = 3.0, 1.5  # MotionStream section 4.1


def shifted(uniform: Tensor, shift: float) -> Tensor:
    """Sigma of a uniform draw: k u / (1 + (k - 1) u) (MotionStream section 3.1)."""
    return shift * uniform / (1 + (shift - 1) * uniform)


def noised(latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """(1 - sigma) x0 + sigma noise; sigma `[B, F]`."""
    level = sigma[:, :, None, None, None]
    return (1 - level) * latents + level * noise


def draw_step_sigmas(schedule: ScheduleConfig, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Sigmas of the student's denoising steps, each equally often."""
    sigmas = torch.tensor([step.sigma for step in denoise_steps(schedule)], device=generator.device)
    return sigmas[torch.randint(len(sigmas), shape, generator=generator, device=generator.device)]


def flow_loss(flow: Tensor, latents: Tensor, noise: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean square of flow - (noise - x0); weight `[B, F]` of latent frames."""
    error = (flow.float() - (noise - latents)).square().mean((2, 3, 4))
    return error.mean() if weight is None else (error * weight).sum() / weight.sum().clamp(min=1)


def joint_guidance(full: Tensor, motion_only: Tensor, text_only: Tensor, text: float, motion: float) -> Tensor:
    """MotionStream Eq. 2: `full` has both conditions; text 0 and motion 0 give the two others."""
    share = text / (text + motion) if text + motion else 0.5
    base = share * motion_only + (1 - share) * text_only
    return base + text * (full - motion_only) + motion * (full - text_only)


def block_causal(rotation: Callable[[Tensor], Tensor], sees: Sequence[Sequence[int]]) -> Attend:
    """Chunk c of equal length attends to the chunks `sees[c]`, all of it and unmasked."""

    def attend(layer: int, attention: SelfAttention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = attention.normed_heads(q, k, v)
        q, k = rotation(q), rotation(k)
        queries, keys, values = (x.chunk(len(sees), dim=2) for x in (q, k, v))
        mixed = [
            F.scaled_dot_product_attention(
                query, torch.cat([keys[c] for c in seen], dim=2), torch.cat([values[c] for c in seen], dim=2)
            )
            for query, seen in zip(queries, sees, strict=True)
        ]
        return merge_heads(torch.cat(mixed, dim=2))

    return attend
