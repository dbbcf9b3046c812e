"""Words and tables about an export: what would be made, what a bundle holds."""

from __future__ import annotations

from typing import Any

from ms_export.options import ExportOptions, configured
from ms_export.plan import cache_bytes, estimate_bytes, planned
from ms_export.weights import WeightTable
from ms_infer.bundle.manifest import Manifest, derived_sizes
from ms_infer.bundle.stages import GRAPH_DTYPES, ITEM_BYTES, StageSpec
from ms_infer.checkpoint import Student

SHOWN = 6


def describe_plan(student: Student, options: ExportOptions) -> dict[str, Any]:
    """What an export would make, as plain values."""
    import torch

    config = configured(student.config, options)
    table = WeightTable.of(student, torch.float32)
    graphs = planned(config, options)
    stages = next(iter(graphs.values()))
    return {
        "model": config.model.name,
        "checkpoint": student.source,
        "missing": [p for p in ("vae", "track_head", "text_encoder") if p in student.missing],
        "size": [config.height, config.width],
        "context": vars(config.context),
        "writes": options.resolved_writes(config),
        "sizes": derived_sizes(config),
        "parameters": sum(region.nbytes for region in table.regions.values()) // 4,
        "targets": list(options.targets),
        "graphs": list(graphs),
        "stages": {name: _stage(spec) for name, spec in stages.items()},
        "bytes": {
            "disk": estimate_bytes(config, table, options),
            **{f"weights {d}": table.nbytes * ITEM_BYTES[GRAPH_DTYPES[d]] // 4 for d in graphs},
            **{f"caches {d}": cache_bytes(specs["denoise"]) for d, specs in graphs.items()},
        },
        "tensorrt": [f"{t}: strongly typed {options.dtype or 'bf16'}" for t in options.targets if t in ("rtx", "trt")],
    }


def _stage(spec: StageSpec) -> dict[str, Any]:
    sides = {"inputs": spec.inputs, "outputs": spec.outputs}
    described: dict[str, Any] = {
        side: {t.name: f"{t.dtype} {list(t.shape)}" for t in tensors} for side, tensors in sides.items()
    }
    described["bytes"] = sum(tensor.nbytes for tensor in spec.inputs)
    return described


def format_plan(plan: dict[str, Any]) -> str:
    """The plan of a dry run for people."""
    height, width = plan["size"]
    context = plan["context"]
    lines = [
        f"{plan['model']} from {plan['checkpoint']}, {plan['parameters'] / 1e6:.1f} M parameters",
        f"{width}x{height}; latent frames: chunk {context['chunk_frames']}, sink {context['sink_frames']}, "
        f"window {context['window_frames']}; {context['rope']} positions; one cache write per {plan['writes']}",
        f"targets: {', '.join(plan['targets'])}; graphs: {', '.join(plan['graphs'])}",
        *plan["tensorrt"],
    ]
    for name, stage in plan["stages"].items():
        lines.append(f"{name}")
        lines += [f"  {side[:-1]:<7}{row}" for side in ("inputs", "outputs") for row in _rows(stage[side])]
    lines += [f"{what:<16}{size / 2**20:>10.1f} MiB" for what, size in plan["bytes"].items()]
    lines += [f"missing: {part} (give one)" for part in plan["missing"]]
    return "\n".join(lines)


def _rows(tensors: dict[str, str]) -> list[str]:
    """The first tensors, and how many more there are."""
    rows = [f"{name:<14}{what}" for name, what in list(tensors.items())[:SHOWN]]
    more = len(tensors) - SHOWN
    return rows if more <= 0 else [*rows, f"... and {more} more"]


def format_manifest(manifest: Manifest) -> str:
    """What a bundle holds, one line a thing."""
    checkpoint = manifest.checkpoint
    lines = [
        f"model       {manifest.config.model.name} {manifest.config.width}x{manifest.config.height}",
        f"checkpoint  {checkpoint['format']} sha256 {checkpoint['sha256'][:16]}",
    ]
    lines += [f"graphs      {dtype}: {', '.join(graphs)}" for dtype, graphs in manifest.graphs.items()]
    lines += [f"engine      {name}: {', '.join(e.stages)}" for name, e in manifest.engines.items()]
    lines += [f"file        {f.bytes:>12}  {f.sha256[:16]}  {name}" for name, f in manifest.files.items()]
    return "\n".join(lines)


def bundle_summary(manifest: Manifest) -> str:
    """Graphs, engines and size in a few words."""
    graphs = sum(len(graphs) for graphs in manifest.graphs.values())
    engines = sum(len(engine.stages) for engine in manifest.engines.values())
    size = sum(file.bytes for file in manifest.files.values())
    return f"{graphs} graphs, {engines} engine stages, {size / 2**20:.0f} MiB"
