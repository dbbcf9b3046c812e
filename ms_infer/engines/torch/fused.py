"""The transformer's operations in fused form: Triton kernels on CUDA, their PyTorch twins elsewhere, FP8 products."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ms_infer.errors import ConfigError, MissingExtraError
from ms_infer.model.transformer import Block, Operand, Operations, Residual, Transformer

CrossAttend = Callable[[Tensor, Tensor, Tensor], Tensor]
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
    """One pass over memory for all between two products, q, k and v as one product, epilogues where the products have
    them; the residual stream is updated in place.

    The weights of q, k and v are moved into one tensor, of which the layers keep views: no memory is added.
    """

    def __init__(self, transformer: Transformer, kernels: ModuleType) -> None:
        self.kernels = kernels
        self.cross: CrossAttend | None = None
        """How to attend to the text; PyTorch's own choice by default."""
        self._joined, self._norms = {}, {}
        for block in _blocks(transformer):
            attention = block.self_attn
            self._joined[attention.q] = join_layers(attention.q, attention.k, attention.v)
            self._norms[block.norm3] = affine_rows(block.norm3)
        like = next(transformer.parameters())
        dim = transformer.config.dim
        self._ones, self._none = like.new_ones(1, 1, dim), like.new_zeros(dim)

    def modulate(self, rest: Residual, scale: Tensor, shift: Tensor, eps: float) -> tuple[Tensor, Operand]:
        if rest.y is None:
            return rest.x, self.kernels.norm_modulate(rest.x.flatten(1, 2), scale, shift, eps=eps)
        return rest.x, self._summed(rest, scale, shift, self._none, eps)

    def modulate_last(self, rest: Residual, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
        x, normed = FusedOperations.modulate(self, rest, scale, shift, eps)
        assert isinstance(normed, Tensor), "it is the stream's dtype here"
        return normed.view_as(x)

    def norm(self, rest: Residual, layer: nn.LayerNorm, bias: Tensor) -> tuple[Tensor, Operand]:
        scale, shift = (row.expand(*rest.x.shape[:2], -1) for row in self._norms[layer])
        return rest.x, self._summed(rest, scale, shift, bias, layer.eps)

    def _summed(self, rest: Residual, scale: Tensor, shift: Tensor, after: Tensor, eps: float) -> Operand:
        """Adds what is left to x, in place: nobody else reads the old one."""
        return self.kernels.residual_modulate(*self._inputs(rest), scale, shift, after, eps=eps)

    def _inputs(self, rest: Residual) -> tuple[Tensor, Tensor, Tensor]:
        assert rest.y is not None, "modulate() looked"
        gate = self._ones.expand(*rest.x.shape[:2], -1) if rest.gate is None else rest.gate
        return rest.x.flatten(1, 2), rest.y, gate

    def add_linear(self, x: Tensor, layer: nn.Linear, y: Tensor, bias: Tensor) -> Residual:
        self.kernels.add_linear(x.flatten(1, 2), y, layer.weight)  # `norm` has added the bias
        return Residual(x)

    def cross_attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return super().cross_attend(q, k, v) if self.cross is None else self.cross(q, k, v)

    def feed_forward(self, ffn: nn.Sequential, operand: Operand) -> Tensor:
        inner, outer = ffn[0], ffn[2]
        return self.linear(outer, self.kernels.linear_gelu(operand, inner.weight, inner.bias))  # type: ignore[arg-type]

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

    def modulate(self, rest: Residual, scale: Tensor, shift: Tensor, eps: float) -> tuple[Tensor, Operand]:
        if rest.y is None:
            return rest.x, Quantised(*self.kernels.norm_modulate_fp8(rest.x.flatten(1, 2), scale, shift, eps=eps))
        return rest.x, self._rows(rest, scale, shift, eps)

    def norm(self, rest: Residual, layer: nn.LayerNorm, bias: Tensor) -> tuple[Tensor, Operand]:
        scale, shift = (row.expand(*rest.x.shape[:2], -1) for row in self._norms[layer])
        return rest.x, self._rows(rest, scale, shift, layer.eps)

    def _rows(self, rest: Residual, scale: Tensor, shift: Tensor, eps: float) -> Operand:
        rows = self.kernels.residual_modulate_fp8(*self._inputs(rest), scale, shift, self._none, eps=eps)
        return Quantised(*rows)

    def add_linear(self, x: Tensor, layer: nn.Linear, y: Tensor, bias: Tensor) -> Residual:
        return Residual(x, self._product(layer, y, bias))

    def feed_forward(self, ffn: nn.Sequential, operand: Operand) -> Tensor:
        inner, outer = ffn[0], ffn[2]
        assert isinstance(inner, nn.Linear), "a block's products are linear layers"
        hidden = Quantised(*self.kernels.gelu_fp8(self.linear(inner, operand)))
        return self.linear(outer, hidden)  # type: ignore[arg-type]

    def linear(self, layer: nn.Linear, operand: Operand) -> Tensor:
        return self._product(layer, operand, layer.bias)

    def _product(self, layer: nn.Linear, operand: Operand, bias: Tensor) -> Tensor:
        quantise = self.kernels.quantise_rows
        x = Quantised(*(quantise(operand.contiguous()) if isinstance(operand, Tensor) else operand))
        weight = self._weights[layer]
        product: Tensor = self.kernels.fp8_linear(x.values, x.scales, weight.values, weight.scales, bias)
        return product


def affine_rows(layer: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    """Scale and shift `[1, 1, dim]` in float32: LN(x) * weight + bias is LN(x) * (1 + scale) + shift."""
    weight, bias = layer.weight.detach(), layer.bias.detach()
    return (weight.float() - 1)[None, None], bias.float()[None, None]


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
