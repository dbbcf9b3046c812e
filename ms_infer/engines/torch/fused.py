"""The transformer's operations in fused form: Triton kernels on CUDA, their PyTorch twins elsewhere, FP8 products."""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ms_infer.errors import ConfigError, MissingExtraError
from ms_infer.model.transformer import Block, Operand, Operations, Transformer

FP8_MULTIPLE = 16  # torch._scaled_mm: inputs and outputs of a layer


def load_kernels(device: torch.device) -> ModuleType:
    """`ms_kernels` on CUDA, `ms_kernels.reference` (the same functions in plain PyTorch) elsewhere."""
    if device.type != "cuda":
        from ms_kernels import reference

        return reference  # type: ignore[no-any-return]
    try:
        import triton  # noqa: F401
    except ImportError:
        raise MissingExtraError("the GPU kernels need Triton: pip install 'ms-infer[kernels]'") from None
    import ms_kernels

    return ms_kernels  # type: ignore[no-any-return]


class Quantised(NamedTuple):
    """e4m3 rows `[B, tokens, columns]` and their fp32 scales `[B, tokens, 1]`."""

    values: Tensor
    scales: Tensor


class FusedOperations(Operations):
    """One kernel per operation, q, k and v as one product; the residual stream is updated in place.

    The weights of q, k and v are moved into one tensor, of which the layers keep views: no memory is added.
    """

    def __init__(self, transformer: Transformer, kernels: ModuleType) -> None:
        self.kernels = kernels
        self._joined = {}
        for block in _blocks(transformer):
            attention = block.self_attn
            self._joined[attention.q] = join_layers(attention.q, attention.k, attention.v)

    def norm_modulate(self, x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Operand:
        return self.kernels.norm_modulate(x.flatten(1, 2), scale, shift, eps=eps)

    def gate_residual(self, x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
        self.kernels.gate_residual(x.flatten(1, 2), y, gate)  # x is the residual stream: nobody else reads the old one
        return x

    def gelu(self, y: Tensor) -> Operand:
        return self.kernels.gelu(y)

    def project(self, operand: Operand, *layers: nn.Linear) -> tuple[Tensor, ...]:
        joined = self._joined[layers[0]]
        return self.linear(joined, operand).split([layer.out_features for layer in layers], dim=-1)


class Fp8Operations(FusedOperations):
    """Row-wise e4m3 products: weights quantised once, activations inside the kernel that makes them.

    Text and time embeddings, cross-attention keys, patch embedding and head keep the stream's dtype.
    """

    def __init__(self, transformer: Transformer, kernels: ModuleType) -> None:
        super().__init__(transformer, kernels)
        self._weights: dict[nn.Linear, Quantised] = {}
        for block in _blocks(transformer):
            joined = self._joined[block.self_attn.q]
            cross, ffn = block.cross_attn, block.ffn
            for layer in (joined, block.self_attn.o, cross.q, cross.o, ffn[0], ffn[2]):
                assert isinstance(layer, nn.Linear), "a block's products are linear layers"
                self._weights[layer] = self._quantised(layer)

    def _quantised(self, layer: nn.Linear) -> Quantised:
        if layer.in_features % FP8_MULTIPLE or layer.out_features % FP8_MULTIPLE:
            raise ConfigError(
                f"precision='fp8' needs layers of multiples of {FP8_MULTIPLE}, this model has one of "
                f"{layer.in_features} -> {layer.out_features}; use precision='bf16'"
            )
        return Quantised(*self.kernels.quantise_rows(layer.weight.detach()))

    def norm_modulate(self, x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Operand:
        return Quantised(*self.kernels.norm_modulate_fp8(x.flatten(1, 2), scale, shift, eps=eps))

    def norm(self, layer: nn.LayerNorm, x: Tensor) -> Operand:
        return Quantised(*self.kernels.quantise_rows(layer(x).flatten(1, 2)))

    def gelu(self, y: Tensor) -> Operand:
        return Quantised(*self.kernels.gelu_fp8(y))

    def linear(self, layer: nn.Linear, operand: Operand) -> Tensor:
        quantise = self.kernels.quantise_rows
        x = Quantised(*(quantise(operand.contiguous()) if isinstance(operand, Tensor) else operand))
        weight = self._weights[layer]
        product: Tensor = self.kernels.fp8_linear(x.values, x.scales, weight.values, weight.scales, layer.bias)
        return product


@torch.no_grad()
def join_layers(*layers: nn.Linear) -> nn.Linear:
    """One layer whose outputs are those of all, in order; the given layers become views of its weight and bias."""
    first = layers[0]
    widths = [layer.out_features for layer in layers]
    joined = nn.Linear(first.in_features, sum(widths), device="meta")
    joined.weight = nn.Parameter(torch.cat([layer.weight for layer in layers]), requires_grad=False)
    joined.bias = nn.Parameter(torch.cat([layer.bias for layer in layers]), requires_grad=False)
    for layer, weight, bias in zip(layers, joined.weight.split(widths), joined.bias.split(widths), strict=True):
        layer.weight.data, layer.bias.data = weight, bias
    return joined


def _blocks(transformer: Transformer) -> list[Block]:
    return [block for block in transformer.blocks if isinstance(block, Block)]
