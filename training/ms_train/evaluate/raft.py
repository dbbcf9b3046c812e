"""RAFT-small optical flow (Teed and Deng, ECCV 2020), for the evaluation; reads the published weights."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HIDDEN, CONTEXT = 96, 64
LEVELS, RADIUS = 4, 3
STRIDE = 8


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 with a ReLU after each, and a shortcut."""

    def __init__(self, inputs: int, planes: int, stride: int, norm: type[nn.Module]) -> None:
        super().__init__()
        thin = planes // 4
        self.conv1 = nn.Conv2d(inputs, thin, 1)
        self.conv2 = nn.Conv2d(thin, thin, 3, stride, 1)
        self.conv3 = nn.Conv2d(thin, planes, 1)
        self.norm1, self.norm2, self.norm3 = norm(thin), norm(thin), norm(planes)
        self.downsample = nn.Sequential(nn.Conv2d(inputs, planes, 1, stride), norm(planes)) if stride > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        y = F.relu(self.norm2(self.conv2(y)))
        y = F.relu(self.norm3(self.conv3(y)))
        return F.relu((x if self.downsample is None else self.downsample(x)) + y)


class Encoder(nn.Module):
    """Features at an eighth of the size."""

    def __init__(self, outputs: int, norm: type[nn.Module]) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 32, 7, 2, 3), norm(32)
        widths = (32, 32, 64, 96)
        for number, stride in ((1, 1), (2, 2), (3, 2)):
            blocks = [
                Bottleneck(widths[number - 1], widths[number], stride, norm),
                Bottleneck(widths[number], widths[number], 1, norm),
            ]
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
        self.conv2 = nn.Conv2d(96, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.conv1(x)))
        for number in (1, 2, 3):
            x = getattr(self, f"layer{number}")(x)
        features: Tensor = self.conv2(x)
        return features


class MotionEncoder(nn.Module):
    """Correlations and flow to 82 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.convc1 = nn.Conv2d(LEVELS * (2 * RADIUS + 1) ** 2, 96, 1)
        self.convf1, self.convf2 = nn.Conv2d(2, 64, 7, padding=3), nn.Conv2d(64, 32, 3, padding=1)
        self.conv = nn.Conv2d(128, 80, 3, padding=1)

    def forward(self, flow: Tensor, correlation: Tensor) -> Tensor:
        correlation = F.relu(self.convc1(correlation))
        y = F.relu(self.convf2(F.relu(self.convf1(flow))))
        return torch.cat([F.relu(self.conv(torch.cat([correlation, y], 1))), flow], 1)


class Gru(nn.Module):
    """Convolutional gated recurrent unit."""

    def __init__(self) -> None:
        super().__init__()
        self.convz, self.convr, self.convq = (nn.Conv2d(HIDDEN + 82 + CONTEXT, HIDDEN, 3, padding=1) for _ in range(3))

    def forward(self, hidden: Tensor, x: Tensor) -> Tensor:
        both = torch.cat([hidden, x], 1)
        z, r = torch.sigmoid(self.convz(both)), torch.sigmoid(self.convr(both))
        return (1 - z) * hidden + z * torch.tanh(self.convq(torch.cat([r * hidden, x], 1)))


class FlowHead(nn.Module):
    """Hidden state to a change of the flow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(HIDDEN, 128, 3, padding=1), nn.Conv2d(128, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.conv2(F.relu(self.conv1(x)))
        return change


class UpdateBlock(nn.Module):
    """One iteration."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.gru, self.flow_head = MotionEncoder(), Gru(), FlowHead()

    def forward(self, hidden: Tensor, context: Tensor, correlation: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.gru(hidden, torch.cat([context, self.encoder(flow, correlation)], 1))
        return hidden, self.flow_head(hidden)


class RaftSmall(nn.Module):
    """Flow between two pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.fnet, self.cnet = Encoder(128, nn.InstanceNorm2d), Encoder(HIDDEN + CONTEXT, _Identity)
        self.update_block = UpdateBlock()

    @torch.no_grad()
    def forward(self, first: Tensor, second: Tensor, iterations: int = 12) -> Tensor:
        """first, second: float [B, 3, H, W] in [0, 1], sides multiples of 8 of at least 128. Flow [B, 2, H, W]."""
        first, second = 2 * first - 1, 2 * second - 1
        pyramid = _pyramid(self.fnet(first), self.fnet(second))
        hidden, context = self.cnet(first).split([HIDDEN, CONTEXT], 1)
        hidden, context = hidden.tanh(), context.relu()
        start = _grid(hidden)
        flow = torch.zeros_like(start)
        for _ in range(iterations):
            correlation = _look_up(pyramid, start + flow)
            hidden, change = self.update_block(hidden, context, correlation, flow)
            flow = flow + change
        size = [STRIDE * side for side in flow.shape[-2:]]
        return STRIDE * F.interpolate(flow, size=size, mode="bilinear", align_corners=True)


class _Identity(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x


def load_raft(path: Path) -> RaftSmall:
    """RAFT-small from the published file (names with a `module.` prefix)."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    model = RaftSmall()
    names = {name.removeprefix("module."): value for name, value in state.items()}
    # The published files name a shortcut's norm twice; InstanceNorm and no norm have no weights at all.
    model.load_state_dict({name: value for name, value in names.items() if name in model.state_dict()})
    return model.eval()


def _grid(like: Tensor) -> Tensor:
    height, width = like.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([x, y]).to(like)[None].expand(len(like), -1, -1, -1)


def _pyramid(first: Tensor, second: Tensor) -> list[Tensor]:
    """Correlations [B h w, 1, h', w'] of every position with all positions of the second picture, four scales."""
    batch, channels, height, width = first.shape
    volume = first.flatten(2).transpose(1, 2) @ second.flatten(2) / channels**0.5
    levels = [volume.reshape(batch * height * width, 1, height, width)]
    for _ in range(LEVELS - 1):
        levels.append(F.avg_pool2d(levels[-1], 2))
    return levels


def _look_up(pyramid: list[Tensor], positions: Tensor) -> Tensor:
    """Correlations [B, 196, h, w] in a window round `positions` [B, 2, h, w]."""
    batch, _, height, width = positions.shape
    offset = torch.arange(-RADIUS, RADIUS + 1, device=positions.device, dtype=positions.dtype)
    first, second = torch.meshgrid(offset, offset, indexing="ij")
    window = torch.stack([first, second], dim=-1)  # x runs along the first axis, as in the published model
    centre = positions.permute(0, 2, 3, 1).reshape(-1, 1, 1, 2)
    parts = []
    for level, volume in enumerate(pyramid):
        size = torch.tensor([volume.shape[3] - 1, volume.shape[2] - 1], device=positions.device)
        grid = 2 * (centre / 2**level + window) / size - 1
        sampled = F.grid_sample(volume, grid, align_corners=True)
        parts.append(sampled.view(batch, height, width, -1))
    return torch.cat(parts, dim=-1).permute(0, 3, 1, 2)
