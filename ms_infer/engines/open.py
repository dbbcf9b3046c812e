"""From what a user names to an engine that runs it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ms_infer.bundle.manifest import MANIFEST, Manifest, load_manifest
from ms_infer.demo import demo_bundle, demo_checkpoint
from ms_infer.engines.base import Engine
from ms_infer.environment import env
from ms_infer.errors import BundleError, ConfigError, DeviceError
from ms_infer.progress import Progress, silent

if TYPE_CHECKING:
    from ms_infer.checkpoint import Student
    from ms_infer.checkpoint.complete import Complete
    from ms_infer.engines.torch import TorchEngine
    from ms_infer.given import Given

logger = logging.getLogger(__name__)
ENGINES = ("torch", "openvino", "tensorrt")
HEAD_DIMS = range(32, 129, 8)  # of the kernels


@dataclass(frozen=True)
class Opened:
    """An engine, and what was found for the checkpoint that it runs."""

    engine: Engine
    text_encoder: Path | None = None
    notes: tuple[str, ...] = ()


def open_engine(
    source: str | Path | Student | Engine,
    *,
    engine: str = "auto",
    device: str | None = None,
    precision: str | None = None,
    given: Given | None = None,
    threads: int | None = None,
) -> Engine:
    """The engine of `open_named`."""
    return open_named(source, engine=engine, device=device, precision=precision, given=given, threads=threads).engine


def open_named(
    source: str | Path | Student | Engine,
    *,
    engine: str = "auto",
    device: str | None = None,
    precision: str | None = None,
    given: Given | None = None,
    threads: int | None = None,
    progress: Progress = silent,
) -> Opened:
    """The engine for a source; a named one that cannot run raises, it never falls back. An engine is its own source.

    given: what belongs to a checkpoint; parts that it leaves out are looked for. threads: of the CPU engines.
    """
    if threads is not None and threads < 1:
        raise ConfigError(f"threads must be at least 1, not {threads}; None takes all cores")
    if given is not None and given.names and not (isinstance(source, str | Path) and not _is_bundle(source)):
        names = ", ".join(f"{name}=" for name in given.names)
        raise ConfigError(f"{names} go with a checkpoint; a bundle, an engine and a loaded student have theirs already")
    if isinstance(source, Engine):
        return Opened(source)
    wanted = engine if engine != "auto" else env("ENGINE", "auto")
    if wanted not in ("auto", *ENGINES):
        raise ConfigError(f"engine {wanted!r} is not one of auto, {', '.join(ENGINES)}")
    if isinstance(source, str | Path) and not (given and given.names):
        bundle = find_bundle(source, wanted, device or env("DEVICE") or None)
        if bundle is not None:
            manifest = load_manifest(bundle)
            return Opened(
                open_bundle(
                    manifest, engine=wanted, device=device, precision=precision, threads=threads, progress=progress
                )
            )
    if wanted in ("openvino", "tensorrt"):
        raise ConfigError(f"engine {wanted!r} runs bundles; make one with: ms-export {source}")
    progress(f"reading {source if isinstance(source, str | Path) else source.source}", 0.0)
    complete = load_source(source, given)
    progress("placing the weights", 0.7)
    chosen = open_torch_engine(
        complete.student, device=device or env("DEVICE") or None, precision=precision, threads=threads
    )
    progress("ready", 1.0)
    logger.info("engine %s %s on %s", chosen.name, chosen.precision, chosen.device)
    return Opened(chosen, complete.text_encoder, complete.notes)


def open_torch_engine(
    student: Student, *, device: str | None = None, precision: str | None = None, threads: int | None = None
) -> TorchEngine:
    """The fused engine on CUDA, the plain one on a CPU and for head sizes that no kernel takes.

    threads: of all that torch does in this process; None leaves them as they are.
    """
    from ms_infer.engines.torch.captured import FusedEngine
    from ms_infer.engines.torch.needs import check_device, set_threads
    from ms_infer.engines.torch.plain import TorchEngine

    chosen = check_device(device)
    if threads is not None:
        set_threads(threads)
    if precision == "fp8" and chosen.type != "cuda":
        raise DeviceError("precision='fp8' needs a CUDA device of sm_89 or later; use fp32 or bf16 on a CPU")
    if chosen.type != "cuda" or precision == "fp64":
        return TorchEngine(student, device=device, precision=precision)
    if student.config.model.head_dim not in HEAD_DIMS:
        logger.warning("no kernel for head_dim %d: running without fusion", student.config.model.head_dim)
        return TorchEngine(student, device=device, precision=precision)
    engine = FusedEngine(student, device=device, precision=precision)
    engine.warm_up()
    return engine


def find_bundle(source: str | Path, engine: str, device: str | None) -> Path | None:
    """The bundle behind a source: the folder itself, or for "demo" on a CPU the one that `ms-export demo` made."""
    if (Path(source) / MANIFEST).is_file():
        return Path(source)
    if str(source) != "demo" or engine == "torch" or (engine == "auto" and device not in (None, "cpu")):
        return None
    folder = demo_bundle()
    if (folder / MANIFEST).is_file() and (engine != "auto" or (find_spec("openvino") and not _has_cuda())):
        return folder if engine != "auto" or _is_usable(folder) else None
    if engine == "auto":
        logger.info("for a faster engine, make a bundle once with: ms-export demo")
    return None


def _is_usable(folder: Path) -> bool:
    """Whether a bundle that nobody named can be read: one that another version made is passed over, with a word."""
    try:
        load_manifest(folder)
    except BundleError as error:
        logger.warning("running without the demo's bundle: %s", error)
        return False
    return True


def open_bundle(
    manifest: Manifest,
    *,
    engine: str = "auto",
    device: str | None = None,
    precision: str | None = None,
    threads: int | None = None,
    progress: Progress = silent,
) -> Engine:
    """An engine of a bundle: the one named, else tensorrt where there is a CUDA device and a plan, else openvino."""
    kinds = {spec.kind for spec in manifest.engines.values()}
    device = device or env("DEVICE") or None
    if engine == "auto":
        engine = "tensorrt" if "tensorrt" in kinds and device in (None, "cuda") and _has_cuda() else "openvino"
    if engine == "torch":
        raise ConfigError(f"{manifest.folder} is a bundle, which holds no PyTorch model; open the checkpoint instead")
    chosen: Engine
    if engine == "tensorrt":
        from ms_infer.engines.tensorrt import open_tensorrt

        chosen = open_tensorrt(manifest, device=device, precision=precision, progress=progress)
    else:
        from ms_infer.engines.openvino import open_openvino

        chosen = open_openvino(manifest, device=device, precision=precision, threads=threads, progress=progress)
    logger.info("engine %s %s", chosen.name, chosen.precision)
    return chosen


def _is_bundle(source: str | Path) -> bool:
    return (Path(source) / MANIFEST).is_file()


def _has_cuda() -> bool:
    """Whether a CUDA device is there, asked of the driver so that no library has to be loaded."""
    return any(Path("/dev").glob("nvidia[0-9]*"))


def load_source(source: str | Path | Student, given: Given | None = None) -> Complete:
    """The student behind a source that is no bundle, with all its parts."""
    from ms_infer.checkpoint import Student
    from ms_infer.checkpoint.complete import Complete, open_complete

    if isinstance(source, Student):
        return Complete(source, None, ())
    return open_complete(demo_checkpoint() if str(source) == "demo" else source, given)
