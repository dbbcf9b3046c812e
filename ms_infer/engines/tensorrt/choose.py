"""Which of a bundle's TensorRT engines run here; why the others do not."""

from __future__ import annotations

from collections.abc import Callable

from ms_infer.bundle.manifest import EngineSpec, Manifest
from ms_infer.engines.tensorrt.library import MODULES, TensorRt, load, release
from ms_infer.errors import ConfigError, EngineMismatchError, MissingExtraError

PRECISIONS = ("bf16", "fp16", "fp8", "fp32")
"""In the order in which they are taken when the user names none."""


def _engines(manifest: Manifest) -> list[EngineSpec]:
    found = [engine for engine in manifest.engines.values() if engine.kind == "tensorrt"]
    if not found:
        kinds = sorted({engine.kind for engine in manifest.engines.values()}) or "only ONNX graphs"
        raise EngineMismatchError(
            f"{manifest.folder} holds no TensorRT engines ({kinds}); add them with: ms-export ... --target rtx"
        )
    return found


def installed_library(manifest: Manifest) -> TensorRt:
    """The installed TensorRT that the bundle has engines for."""
    names = {str(engine.options.get("library")) for engine in _engines(manifest)}
    missing: MissingExtraError | None = None
    for kind, name in MODULES.items():
        if name in names:
            try:
                return load(kind)
            except MissingExtraError as error:
                missing = error
    raise missing or EngineMismatchError(
        f"the bundle's engines are for {sorted(names)}, which this ms-infer does not know; update it"
    )


def choose(manifest: Manifest, library: TensorRt, arch: str, precision: str | None) -> EngineSpec:
    """The bundle's engines for this library, GPU and precision. EngineMismatchError says which of them differs."""
    if precision is not None and precision not in PRECISIONS:
        raise ConfigError(f"precision {precision!r} is not one of {sorted(PRECISIONS)} for the tensorrt engine")
    left = _engines(manifest)
    conditions: tuple[tuple[str, str, Callable[[EngineSpec], bool]], ...] = (
        ("library", library.name, lambda e: e.options.get("library") == library.name),
        ("version", library.version, lambda e: release(e.version) == library.release),
        ("GPU", arch, lambda e: e.arch == "any" or arch in e.arch.split("+")),
        ("precision", precision or "any", lambda e: precision in (None, e.dtype)),
    )
    for what, here, fits in conditions:
        kept = [engine for engine in left if fits(engine)]
        if not kept:
            have = ", ".join(f"{e.options.get('library')} {e.version} {e.arch} {e.dtype}" for e in left)
            wanted = f" --dtype {precision}" if precision else ""
            raise EngineMismatchError(
                f"{manifest.folder} holds engines for {have}, but the {what} here is {here}; build others with: "
                f"ms-export ... --target {library.kind}{wanted}"
            )
        left = kept
    return min(left, key=lambda e: (PRECISIONS.index(e.dtype), e.arch == "any"))
