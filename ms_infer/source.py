"""From what a user names to an engine that runs it."""

from __future__ import annotations

import logging
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from ms_infer.config import env
from ms_infer.engines.base import Engine
from ms_infer.errors import ConfigError

if TYPE_CHECKING:
    from ms_infer.checkpoint import Student

logger = logging.getLogger(__name__)
ENGINES = ("torch", "openvino", "tensorrt")
MANIFEST = "manifest.json"


def open_engine(
    source: str | Path | Student, *, engine: str = "auto", device: str | None = None, precision: str | None = None
) -> Engine:
    """The engine for a source; a named one that cannot run raises, it never falls back."""
    wanted = engine if engine != "auto" else env("ENGINE", "auto")
    if wanted not in ("auto", *ENGINES):
        raise ConfigError(f"engine {wanted!r} is not one of auto, {', '.join(ENGINES)}")
    if isinstance(source, str | Path) and (Path(source) / MANIFEST).is_file():
        raise ConfigError(f"{source} is a bundle")
    if wanted in ("openvino", "tensorrt"):
        raise ConfigError(f"engine {wanted!r} runs bundles; make one with: ms-export {source}")
    from ms_infer.engines.torch_cuda import open_torch_engine

    chosen = open_torch_engine(load_source(source), device=device or env("DEVICE") or None, precision=precision)
    logger.info("engine %s %s on %s", chosen.name, chosen.precision, chosen.device)
    return chosen


def load_source(source: str | Path | Student) -> Student:
    """The student behind a source that is no bundle."""
    from ms_infer.checkpoint import Student, load_student, random_student

    if isinstance(source, Student):
        return source
    if str(source) == "demo":
        shipped = demo_checkpoint()
        if shipped is not None:
            return load_student(shipped)
        from ms_infer.config import preset

        logger.warning("the demo model has no trained weights yet: the picture will be noise")
        return random_student(preset("demo"))
    return load_student(Path(source))


def demo_checkpoint() -> Path | None:
    """The trained demo checkpoint inside the package, where there is one."""
    path = _demo_folder() / "demo.safetensors"
    return path if path.is_file() else None


def demo_examples() -> list[Path]:
    """First frames that come with the demo."""
    return sorted(_demo_folder().glob("*.png"))


def _demo_folder() -> Path:
    return Path(str(files("ms_infer"))) / "assets" / "demo"
