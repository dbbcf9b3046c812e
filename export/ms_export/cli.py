"""`ms-export`: from a checkpoint to a bundle that runs on any engine."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from ms_infer.cli.model import ModelOptions, say_notes
from ms_infer.cli.run import run_command, set_logging
from ms_infer.errors import ConfigError, MotionStreamError

if TYPE_CHECKING:
    from ms_export.options import ExportOptions
    from ms_infer.checkpoint import Student

Target = Literal["cpu", "onnx", "rtx", "trt"]


@dataclass(frozen=True)
class ExportCommand(ModelOptions):
    """Turn a checkpoint into a bundle: ONNX stages, engines and a manifest."""

    checkpoint: tyro.conf.Positional[str]
    """A checkpoint (file, folder, repository or OWNER/NAME of the hub), or "demo"; with --list, a bundle."""
    output: Annotated[str | None, tyro.conf.arg(aliases=["-o"])] = None
    """Folder of the bundle; default bundles/NAME, and for the demo the user's cache, where Stream("demo") finds it."""
    target: tuple[Target, ...] = ("cpu",)
    """Engines to make: cpu (OpenVINO), onnx (graphs only), rtx (TensorRT-RTX), trt (TensorRT)."""
    dtype: Literal["fp32", "bf16", "fp16", "fp8"] | None = None
    """Precision of graphs for rtx, trt (default bf16) and onnx (default fp32); cpu always has fp32 graphs."""
    size: str | None = None
    """HEIGHTxWIDTH of the video, such as 480x832."""
    context: str | None = None
    """Latent frames of chunk, sink and window, such as c3s3w3."""
    writes: Literal["auto", "chunk", "frame"] = "auto"
    """Cache indices per pass: one for the chunk (TensorRT needs it), or one per latent frame (any context)."""
    verify: bool = False
    """Run every stage, chunks and a rollout on every engine this machine has, against PyTorch."""
    verify_chunks: int = 50
    """Chunks of the rollouts of --verify."""
    dry_run: bool = False
    """Print what would be made; needs no engine library."""
    list: bool = False
    """Print what a bundle holds."""
    force: bool = False
    """Make everything again."""
    json: bool = False
    """Print one JSON document on stdout; messages go to stderr."""
    verbose: Annotated[bool, tyro.conf.arg(aliases=["-v"])] = False
    quiet: Annotated[bool, tyro.conf.arg(aliases=["-q"])] = False
    debug: bool = False
    """Show the trace of an error."""


def main(args: Sequence[str] | None = None) -> int:
    """Entry point of `ms-export`; returns the exit code."""
    command = tyro.cli(ExportCommand, prog="ms-export", args=args)
    return run_command("ms-export", lambda: run(command), debug=command.debug)


def run(command: ExportCommand) -> str:
    """Do what the command asks for; returns the closing message."""
    set_logging(verbose=command.verbose, quiet=command.quiet)
    if command.verify_chunks < 1:
        raise ConfigError(f"--verify-chunks must be at least 1, not {command.verify_chunks}")
    if not command.quiet:
        logging.getLogger("ms_export").setLevel(logging.INFO)  # a line per finished file
    if command.list:
        return _list(command)
    options = _options(command)
    student = _load(command)
    if command.dry_run:
        return _dry_run(command, student, options)
    return _export(command, student, options)


def _options(command: ExportCommand) -> ExportOptions:
    from ms_export.options import ExportOptions

    return ExportOptions(
        targets=tuple(dict.fromkeys(command.target)),
        dtype=command.dtype,
        size=command.size,
        context=command.context,
        writes=command.writes,
        force=command.force,
    )


def _load(command: ExportCommand) -> Student:
    from ms_infer.engines.open import load_source

    complete = load_source(command.checkpoint, command.given())
    if not command.quiet:
        say_notes("ms-export", complete.notes if command.checkpoint != "demo" else ())
    return complete.student


def _folder(command: ExportCommand, student: Student, options: ExportOptions) -> Path:
    from ms_export.places import default_folder, origin_of
    from ms_infer.demo import demo_bundle

    if command.output is not None:
        return Path(command.output)
    if command.checkpoint == "demo" and not (command.size or command.context):
        return demo_bundle()
    return default_folder(command.checkpoint, origin_of(student, options))


def _export(command: ExportCommand, student: Student, options: ExportOptions) -> str:
    from ms_export.exporter import checkpoint_digest, export_bundle
    from ms_export.summaries import bundle_summary

    folder = _folder(command, student, options)
    result = export_bundle(student, checkpoint_digest(student), folder, options)
    summary: dict[str, Any] = {"bundle": str(folder), "seconds": result.seconds, "made": list(result.made)}
    if command.verify:
        from ms_export.verify import format_checks, verify_bundle

        checks = verify_bundle(student, result.manifest, chunks=command.verify_chunks)
        summary["checks"] = [vars(check) for check in checks]
        print(format_checks(checks), file=sys.stderr)
        failed = [check.name for check in checks if not check.passed]
        if failed:
            _print_json(command, summary)
            raise MotionStreamError(f"verification failed: {', '.join(failed)}")
    _print_json(command, summary)
    summary_text = bundle_summary(result.manifest)
    done = f"done in {result.seconds:.1f} s" if result.made else "up to date"
    return f"{done} \N{RIGHTWARDS ARROW} {folder} ({summary_text})"


def _dry_run(command: ExportCommand, student: Student, options: ExportOptions) -> str:
    from ms_export.summaries import describe_plan, format_plan

    plan = describe_plan(student, options)
    if command.json:
        _print_json(command, {"bundle": str(_folder(command, student, options)), **plan})
    else:
        print(format_plan(plan))
    return f"nothing was made; {_folder(command, student, options)} would hold {len(plan['stages'])} stages"


def _list(command: ExportCommand) -> str:
    from ms_export.summaries import bundle_summary, format_manifest
    from ms_infer.bundle.manifest import load_manifest

    if not Path(command.checkpoint).is_dir():
        raise ConfigError(f"{command.checkpoint} is no folder; --list takes a bundle")
    manifest = load_manifest(command.checkpoint)
    if command.json:
        _print_json(command, manifest.to_dict())
    else:
        print(format_manifest(manifest))
    return bundle_summary(manifest)


def _print_json(command: ExportCommand, values: dict[str, Any]) -> None:
    if command.json:
        json.dump(values, sys.stdout, indent=1)
        sys.stdout.write("\n")


if __name__ == "__main__":
    sys.exit(main())
