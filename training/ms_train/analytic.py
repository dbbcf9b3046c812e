"""An encoder that needs no training: block averages through the TAEHV layers, then principal components.

Pictures are not negative, so averages and sub-samplings pass every ReLU. Before the last convolution each latent
pixel knows, of its 8x8x4 block: luma of 4x4 sub-blocks, luma of 2x2 sub-blocks in the later two frames, and red
and blue of 2x2 sub-blocks. The last convolution keeps the principal components of these. Latents are then linear
in the picture, hence smooth, and the decoder and every later stage can start at once. With the spatial stride 16 the
picture is halved first.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ms_infer.errors import ConfigError
from ms_infer.model.taehv import Grow, MemoryBlock, Pool, TinyVae

LUMA = (0.25, 0.5, 0.25)
FEATURES = 28
TAPS = ((1, 1), (1, 2), (2, 1), (2, 2))  # of a 3x3 kernel with stride 2: the four pixels of a 2x2 block
LARGEST_DEVIATION, FLATTENING = 1.2, 0.5  # deviation of latent k: 1.2 (s_k / s_0)^0.5


@torch.no_grad()
def fit_encoder_(vae: TinyVae, frames: Tensor) -> Tensor:
    """Write the analytic encoder into `vae`; `frames` [B, 1 + 4 k, 3, H, W] give the components.

    Returns the share of the weighted variance that the kept components explain, [components].
    Raises ConfigError for an encoder that is too thin or has another spatial stride.
    """
    if vae.config.encoder_width < FEATURES:
        raise ConfigError(f"the analytic encoder needs encoder_width >= {FEATURES}")
    for parameter in vae.encoder.parameters():
        parameter.zero_()
    _write_features_(vae.encoder)
    last = vae.encoder[-1]
    assert isinstance(last, nn.Conv2d)
    probe = nn.Sequential(*list(vae.encoder)[:-1])
    features = _features(vae, probe, frames)
    mixing = _mixing().to(features)
    mixed = features @ mixing.T
    mean = mixed.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov((mixed - mean).T).double())
    order = values.argsort(descending=True)[: last.out_channels]
    deviation = values[order].clamp(min=1e-8).sqrt()
    scale = LARGEST_DEVIATION * (deviation / deviation[0]) ** FLATTENING / deviation
    projection = (vectors[:, order] * scale).T.to(features)
    assert last.bias is not None
    last.weight[:, :FEATURES, 1, 1] = projection @ mixing
    last.bias.copy_(-projection @ mean)
    return (values[order].cumsum(0) / values.sum()).float()


@torch.no_grad()
def write_colour_path_(vae: TinyVae, frames: Tensor, colours: Tensor, offset: float) -> None:
    """Let the first channels of every decoder layer carry block colours straight to the picture.

    colours: [K, 3], what of red, green and blue is carried; `offset` keeps it positive, so that it passes every
    ReLU. The path starts as the least-squares estimate from the latents of `frames`; the rest of the decoder then
    has only detail, and the zero-padded border, to learn. Overwrites the first K channels of each layer.
    """
    count = len(colours)
    latents = encode_directly(vae, frames)[:, 1:].permute(0, 1, 3, 4, 2).flatten(0, 3)
    blocks = F.avg_pool2d(frames[:, 1:].unflatten(1, (-1, 4)).mean(2).flatten(0, 1), vae.config.spatial_stride)
    wanted = blocks.permute(0, 2, 3, 1).flatten(0, 2) @ colours.T
    inputs = torch.cat([3 * torch.tanh(latents / 3), torch.ones_like(latents[:, :1])], dim=1)  # SoftClamp
    solution = torch.linalg.lstsq(inputs, wanted).solution
    layers = list(vae.decoder)
    first, final = layers[1], layers[-1]
    assert isinstance(first, nn.Conv2d)
    assert isinstance(final, nn.Conv2d)
    assert first.bias is not None
    assert final.bias is not None
    first.weight[:count] = 0
    first.weight[:count, :, 1, 1] = solution[:-1].T
    first.bias[:count] = solution[-1] + offset
    spread = torch.tensor([0.25, 0.5, 0.25])
    for layer in layers[2:-1]:
        if isinstance(layer, MemoryBlock):
            last = layer.conv[-1]
            assert isinstance(last, nn.Conv2d)
            assert last.bias is not None
            last.weight[:count], last.bias[:count] = 0, 0
        elif isinstance(layer, Grow):
            width = layer.conv.in_channels
            for copy_of in range(layer.stride):
                layer.conv.weight[copy_of * width : copy_of * width + count] = 0
                for channel in range(count):
                    layer.conv.weight[copy_of * width + channel, channel] = 1
        elif isinstance(layer, nn.Conv2d):
            layer.weight[:count] = 0
            for channel in range(count):
                layer.weight[channel, channel] = torch.outer(spread, spread)
    back = torch.linalg.pinv(colours).repeat_interleave(vae.patch**2, dim=0)
    final.weight[:, :count] = 0
    final.weight[:, :count, 1, 1] = back
    final.bias.sub_(back.sum(1) * offset)


@torch.no_grad()
def is_analytic(vae: TinyVae) -> bool:
    """Whether the encoder is one of `fit_encoder_`, so that `encode_directly` gives its latents."""
    if vae.config.encoder_width < FEATURES:
        return False
    twin = copy.deepcopy(vae.encoder)
    for parameter in twin.parameters():
        nn.init.zeros_(parameter)
    _write_features_(twin)
    last, twin_last = vae.encoder[-1], twin[-1]
    assert isinstance(last, nn.Conv2d)
    assert isinstance(twin_last, nn.Conv2d)
    twin_last.weight[:, :FEATURES, 1, 1] = last.weight[:, :FEATURES, 1, 1]
    if last.bias is not None and twin_last.bias is not None:
        twin_last.bias.copy_(last.bias)
    pairs = zip(vae.encoder.parameters(), twin.parameters(), strict=True)
    return all(torch.equal(own, other) for own, other in pairs)


@torch.no_grad()
def encode_directly(vae: TinyVae, frames: Tensor, *, opening: bool = True) -> Tensor:
    """Latents [B, F, C, h, w] of whole clips [B, 1 + 4 k, 3, H, W] of an analytic encoder, many times faster.

    It has no memory: not `opening`, the frames [B, 4 k, 3, H, W] are any later part of a clip.
    """
    last = vae.encoder[-1]
    assert isinstance(last, nn.Conv2d)
    padded = torch.cat([frames[:, :1].expand(-1, 3, -1, -1, -1), frames], dim=1) if opening else frames
    if vae.patch > 1:
        padded = F.avg_pool2d(padded.flatten(0, 1), vae.patch).unflatten(0, padded.shape[:2])
    red, green, blue = padded.unbind(2)
    luma = LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue
    means = [part.unflatten(1, (-1, 4)).mean(2) for part in (luma, red, blue)]
    later = luma.unflatten(1, (-1, 4))[:, :, 2:].mean(2)
    fine = F.pixel_unshuffle(F.avg_pool2d(means[0], 2)[:, :, None], 2)  # 4 taps at a quarter of the size
    coarse = torch.stack([F.avg_pool2d(part, 4) for part in (later, means[1], means[2])], dim=2)
    features = F.pixel_unshuffle(torch.cat([fine, coarse], dim=2), 2)  # channel-major, as in `_write_features_`
    weight = last.weight[:, :FEATURES, 1, 1]
    latents = torch.einsum("of,btfhw->btohw", weight, features)
    return latents if last.bias is None else latents + last.bias[:, None, None]


def _write_features_(encoder: nn.Sequential) -> None:
    convolutions = [layer for layer in encoder if isinstance(layer, nn.Conv2d)]
    pools = [layer for layer in encoder if isinstance(layer, Pool)]
    width = convolutions[0].out_channels
    first = convolutions[0].weight  # channels: luma, red, blue
    fold = first.shape[1] // 3  # the pixels of a patch, which are averaged
    for colour, share in enumerate(LUMA):
        first[0, colour * fold : (colour + 1) * fold, 1, 1] = share / fold
    first[1, :fold, 1, 1] = first[2, 2 * fold :, 1, 1] = 1 / fold
    for channel in range(3):
        for frame in range(2):
            pools[0].conv.weight[channel, frame * width + channel] = 0.5
        _average_(convolutions[1], channel, channel)
    for channel in range(3):  # luma, red, blue over four frames; luma of the later two
        for frame in range(2):
            pools[1].conv.weight[channel, frame * width + channel] = 0.5
    pools[1].conv.weight[3, width] = 1
    for tap, (row, column) in enumerate(TAPS):  # channels: four lumas, later luma, red, blue
        convolutions[2].weight[tap, 0, row, column] = 1
    for output, channel in ((4, 3), (5, 1), (6, 2)):
        _average_(convolutions[2], output, channel)
    for channel in range(7):
        pools[2].conv.weight[channel, channel] = 1
        for tap, (row, column) in enumerate(TAPS):
            convolutions[3].weight[4 * channel + tap, channel, row, column] = 1


def _average_(convolution: nn.Conv2d, output: int, channel: int) -> None:
    for row, column in TAPS:
        convolution.weight[output, channel, row, column] = 0.25


def _mixing() -> Tensor:
    """[28, 28]: luma, later minus mean luma, red and blue minus luma, each weighted by its share of the error."""
    mixing = torch.eye(FEATURES)
    for tap in range(4):
        block = [4 * sub + tap for sub in range(4)]  # the lumas of this 2x2 sub-block's four parts
        for kind in (4, 5, 6):
            mixing[4 * kind + tap, block] = -0.25
    weights = torch.tensor([12.0] * 16 + [48.0] * 4 + [24.0] * 8)
    return mixing * weights.sqrt()[:, None]


def _features(vae: TinyVae, layers: nn.Sequential, frames: Tensor) -> Tensor:
    """[pixels, 28] of all latent pixels."""
    batch, _, _, height, width = frames.shape
    padded = torch.cat([frames[:, :1].expand(-1, 3, -1, -1, -1), frames], dim=1)
    x = padded.transpose(0, 1).flatten(0, 1)
    state = iter(vae.encoder_state(batch, height, width))
    if vae.patch > 1:
        x = F.pixel_unshuffle(x, vae.patch)
    for layer in layers:
        if isinstance(layer, MemoryBlock):
            x, _ = layer(x, next(state))
        else:
            x = layer(x, batch) if isinstance(layer, Pool) else layer(x)
    return x.permute(0, 2, 3, 1).flatten(0, 2)[:, :FEATURES]
