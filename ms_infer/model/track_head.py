"""The track head: points of a chunk to track latents, a pure function of the chunk (MotionStream Eq. 1)."""

from __future__ import annotations

import itertools

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ms_infer.config import RGB_FRAMES_PER_LATENT_FRAME as STRIDE
from ms_infer.config import StreamConfig, TrackHeadConfig
from ms_infer.errors import ConfigError, TrackShapeError
from ms_infer.model.constants import ExactBuffers

LOW_IDS = 256  # an id is high * 256 + low, see IdEmbedding
FAR_PIXELS = 1e6  # no point is so far outside; NaN is not nearer


class IdEmbedding(ExactBuffers):
    """Sinusoids of track ids, exact in float32: angle = id * period^(-i / (dim / 2)).

    The angle of an id is the sum of the angles of its low and high part; the cosines and sines of both come
    from tables made in float64.
    """

    def __init__(self, config: TrackHeadConfig) -> None:
        super().__init__()
        self.order = config.id_order
        self.id_range = config.id_range
        half = config.id_dim // 2
        rates = config.id_period ** (-np.arange(half, dtype=np.float64) / half)
        tables = {
            "low": np.arange(LOW_IDS, dtype=np.float64),
            "high": np.arange(-(-config.id_range // LOW_IDS), dtype=np.float64) * LOW_IDS,
        }
        for name, ids in tables.items():
            angles = np.multiply.outer(ids, rates)
            table = torch.from_numpy(np.stack([np.cos(angles), np.sin(angles)]).astype(np.float32))
            self.register_buffer(name, table, persistent=False)
        self.low: Tensor
        self.high: Tensor

    def forward(self, ids: Tensor) -> Tensor:
        """ids: int64 `[B, N]` in [0, id_range). Returns float32 `[B, N, id_dim]`."""
        low, high = ids % LOW_IDS, torch.div(ids, LOW_IDS, rounding_mode="floor")
        (cos_low, sin_low), (cos_high, sin_high) = self.low.float()[:, low], self.high.float()[:, high]
        cosine = cos_high * cos_low - sin_high * sin_low
        sine = sin_high * cos_low + cos_high * sin_low
        return torch.cat([cosine, sine] if self.order == "cos_sin" else [sine, cosine], dim=-1)


class TrackHead(nn.Module):
    """Scatter, pack four RGB frames into channels, then one or two 1x1x1 convolutions.

    With content the input also holds the moved and encoded first frame and its validity.
    """

    def __init__(self, config: StreamConfig) -> None:
        super().__init__()
        if config.model.track_head is None:
            raise ConfigError(f"the model {config.model.name!r} has no track head")
        self.stream, self.config = config, config.model.track_head
        self.ids = IdEmbedding(self.config)
        moves = self.config.content != "none"
        self.content_channels = config.model.latent_channels if moves else 0
        inputs = STRIDE * self.config.id_dim + self.content_channels + moves
        channels = self.config.channels
        widths = [inputs, *[channels] * self.config.convs]
        self.convs = nn.ModuleList(nn.Conv3d(a, b, 1, bias=self.config.bias) for a, b in itertools.pairwise(widths))
        if self.content_channels == channels:
            self._pass_content_through_()

    def forward(
        self,
        points: Tensor,
        visible: Tensor,
        ids: Tensor,
        *,
        opening: bool,
        content: Tensor | None = None,
        validity: Tensor | None = None,
    ) -> Tensor:
        """Track latents `[B, F, channels, h, w]` of one chunk, or of a whole clip.

        points: float32 `[B, N, T, 2]` pixels (x, y); visible: bool `[B, N, T]`; ids: int64 `[B, N]`.
        T is 4 F - 3 when `opening` (the first chunk), else 4 F. Heads with content also need
        content: `[B, F, C, h, w]`, the encoded moved first frame, and validity: `[B, T, 1, H, W]`, both made
        from the first frame and its tracks. TrackShapeError when T does not fit.
        """
        volume = self.pack_ids(points, visible, ids, opening=opening)
        if validity is not None:
            validity = self.pool_validity(validity, opening=opening)
        return self.combine(volume, content, validity)

    def pack_ids(self, points: Tensor, visible: Tensor, ids: Tensor, *, opening: bool) -> Tensor:
        """Scattered ids with four RGB frames in the channels: float32 `[B, F, 4 id_dim, h, w]`; see `forward`."""
        rgb_frames = points.shape[2]
        if rgb_frames % STRIDE != opening:
            expected = "1 + 4 k RGB frames in the opening chunk" if opening else "4 k RGB frames"
            raise TrackShapeError(f"tracks have {rgb_frames} RGB frames, expected {expected}; resample them")
        packed = self._pack(self.scatter(points, visible, ids), opening)
        return packed.permute(0, 1, 2, 5, 3, 4).flatten(2, 3)

    def combine(self, volume: Tensor, content: Tensor | None, validity: Tensor | None) -> Tensor:
        """The convolutions, over packed ids and, for heads with content, `[B, F, C, h, w]` and `[B, F, 1, h, w]`."""
        dtype = next(self.convs.parameters()).dtype
        x = volume.to(dtype)
        if self.content_channels:
            if content is None or validity is None:
                raise ConfigError("this track head needs the moved first frame: pass content and validity")
            x = torch.cat([x, content.to(dtype), validity.to(dtype)], dim=2)
        x = x.transpose(1, 2)
        for conv in self.convs:
            x = conv(x)
        return x.transpose(1, 2)

    def scatter(self, points: Tensor, visible: Tensor, ids: Tensor) -> Tensor:
        """Put every visible point's id embedding into its cell: float32 `[B, T, h, w, id_dim]`."""
        rows, columns = self.stream.latent_height, self.stream.latent_width
        batch, _, frames = visible.shape
        x, y = points.float().transpose(1, 2).unbind(-1)  # [B, T, N]
        seen = visible.transpose(1, 2)
        if self.config.hides_outside:
            seen = seen & (x >= 0) & (y >= 0) & (x < self.stream.width) & (y < self.stream.height)
        else:
            seen = seen & (x.abs() < FAR_PIXELS) & (y.abs() < FAR_PIXELS)
        column, row = self._cell(x, self.stream.width, columns), self._cell(y, self.stream.height, rows)
        cell = torch.where(seen, row * columns + column, torch.zeros_like(row))
        embedded = self.ids(ids)[:, None].expand(-1, frames, -1, -1)
        if self.config.collision == "last":
            seen = seen & self._is_last(cell, seen, rows * columns)
        values = embedded * seen[..., None].to(embedded.dtype)
        volume = values.new_zeros(batch, frames, rows * columns, values.shape[-1])
        volume = volume.scatter_add(2, cell[..., None].expand(-1, -1, -1, values.shape[-1]), values)
        return volume.unflatten(2, (rows, columns))

    def _cell(self, position: Tensor, pixels: int, cells: int) -> Tensor:
        if self.config.rounding == "floor":
            cell = torch.floor(position / (pixels // cells))
        else:
            cell = torch.round(position / pixels * (cells - 1))
        return cell.clamp(0, cells - 1).long()

    def _is_last(self, cell: Tensor, seen: Tensor, cells: int) -> Tensor:
        """Whether a point is the last one of its cell."""
        order = torch.arange(1, cell.shape[-1] + 1, device=cell.device).expand_as(cell)
        order = torch.where(seen, order, torch.zeros_like(order))
        latest = order.new_zeros(*cell.shape[:-1], cells).scatter_reduce(-1, cell, order, "amax")
        return latest.gather(-1, cell) == order

    def _pack(self, volume: Tensor, opening: bool) -> Tensor:
        """`[B, T, ...]` -> `[B, F, 4, ...]`; the first RGB frame fills or ends its latent frame."""
        if opening:
            first = volume[:, :1].expand(-1, STRIDE - 1, *volume.shape[2:])
            if self.config.first_frame == "zero_pad":
                first = torch.zeros_like(first)
            volume = torch.cat([first, volume], dim=1)
        return volume.unflatten(1, (-1, STRIDE))

    def pool_validity(self, validity: Tensor, *, opening: bool) -> Tensor:
        """`[B, T, 1, H, W]` -> `[B, F, 1, h, w]`: the mean over a cell and its four RGB frames."""
        if opening:
            validity = torch.cat([validity[:, :1].expand(-1, STRIDE - 1, -1, -1, -1), validity], dim=1)
        pooled = F.avg_pool2d(validity.flatten(0, 1), self.stream.height // self.stream.latent_height)
        return pooled.unflatten(0, (len(validity), -1, STRIDE)).mean(2)

    @torch.no_grad()
    def _pass_content_through_(self) -> None:
        """Start as the identity on the content; ids and validity start weak."""
        first, *others = (conv for conv in self.convs if isinstance(conv, nn.Conv3d))
        first.weight.mul_(0.1)
        start = STRIDE * self.config.id_dim
        first.weight[:, start : start + self.content_channels] = torch.eye(self.content_channels)[..., None, None, None]
        if first.bias is not None:
            first.bias.zero_()
        for conv in others:
            conv.weight.copy_(torch.eye(self.config.channels)[..., None, None, None])
