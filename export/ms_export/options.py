"""What a user asks `ms-export` for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from ms_infer.bundle.stages import resolve_writes
from ms_infer.cli.run import parse_size
from ms_infer.config import ContextConfig, StreamConfig
from ms_infer.errors import ConfigError

Target = Literal["cpu", "onnx", "rtx", "trt"]


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Resolved wishes of one export."""

    targets: tuple[Target, ...] = ("cpu",)
    dtype: str | None = None
    """Precision of the graphs for GPU engines and of `onnx`; the CPU engine always takes fp32 graphs."""
    size: str | None = None
    context: str | None = None
    writes: str = "auto"
    force: bool = False

    def resolved_writes(self, config: StreamConfig) -> str:
        """ "chunk" or "frame": TensorRT-RTX writes a cache in place once a pass, whatever the context is."""
        return "chunk" if self.writes == "auto" and "rtx" in self.targets else resolve_writes(config, self.writes)

    def graph_dtypes(self) -> tuple[str, ...]:
        """Precisions of the graphs that the targets need, each once."""
        wanted = []
        for target in self.targets:
            default = "fp32" if target in ("cpu", "onnx") else "bf16"
            wanted.append("fp32" if target == "cpu" else self.dtype or default)
        return tuple(dict.fromkeys("bf16" if dtype == "fp8" else dtype for dtype in wanted))


def configured(config: StreamConfig, options: ExportOptions) -> StreamConfig:
    """The settings with the size and context asked for."""
    if options.size is not None:
        height, width = parse_size(options.size)
        config = replace(config, height=height, width=width)
    if options.context is not None:
        config = replace(config, context=parse_context(options.context, config.context))
    return config


def parse_context(text: str, base: ContextConfig) -> ContextConfig:
    """Settings of "c3s3w3": latent frames of chunk, sink and window; letters that are absent keep their value."""
    names = {"c": "chunk_frames", "s": "sink_frames", "w": "window_frames"}
    values: dict[str, int] = {}
    rest = text.lower()
    while rest:
        letter, digits = rest[0], ""
        while len(digits) + 1 < len(rest) and rest[len(digits) + 1].isdecimal():
            digits += rest[len(digits) + 1]
        if letter not in names or not digits or names[letter] in values:
            raise ConfigError(f"--context {text!r} is not like c3s3w3: latent frames of chunk, sink and window")
        values[names[letter]] = int(digits)
        rest = rest[1 + len(digits) :]
    return replace(base, **values)  # type: ignore[arg-type]  # only the three integer fields
