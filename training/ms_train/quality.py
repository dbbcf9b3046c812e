"""How alike pictures are, and how sharp: PSNR, SSIM, the Laplacian."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def psnr(made: Tensor, truth: Tensor) -> float:
    """Mean over frames of 10 log10(1 / MSE); float [..., 3, H, W] in [0, 1]."""
    error = (made - truth).square().flatten(-3).mean(-1).clamp(min=1e-10)
    return float((-10 * error.log10()).mean())


def ssim(made: Tensor, truth: Tensor) -> float:
    """Mean structural similarity; float [..., 3, H, W] in [0, 1]."""
    return float(ssim_map(made, truth).mean())


def ssim_map(made: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity (Wang et al., 2004) at every pixel: 11x11 Gaussian of 1.5 pixels, per colour channel."""
    offset = torch.arange(11, dtype=torch.float32) - 5
    line = (-(offset**2) / (2 * 1.5**2)).exp()
    line = (line / line.sum()).to(made)
    a, b = made.flatten(0, -4), truth.flatten(0, -4)

    def blur(x: Tensor) -> Tensor:
        across = F.conv2d(x, line.view(1, 1, 1, -1).expand(3, 1, 1, -1), groups=3)
        return F.conv2d(across, line.view(1, 1, -1, 1).expand(3, 1, -1, 1), groups=3)

    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
    cov = blur(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    ratio: Tensor = (2 * mean_a * mean_b + c1) * (2 * cov + c2)
    return ratio / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))


def sharpness(frames: Tensor) -> float:
    """Mean absolute Laplacian of luma, float [T, 3, H, W]."""
    luma = frames.mean(-3, keepdim=True).flatten(0, -4)
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]).view(1, 1, 3, 3).to(luma)
    return float(F.conv2d(luma, kernel).abs().mean())
