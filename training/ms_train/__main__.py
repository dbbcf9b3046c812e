"""`python -m ms_train STAGE ...`: the recipe, one command a stage; each resumes when its --out holds a checkpoint."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

import tyro

from ms_infer.errors import MotionStreamError
from ms_train import commands
from ms_train.evaluate import run as evaluate


def main() -> int:
    """Parse, call one command, report errors in words. Returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    table: dict[str, Any] = {
        "render": commands.render_clips,
        "autoencoder": commands.autoencoder,
        "teacher": commands.teacher,
        "adapt": commands.adapt,
        "distill": commands.distill,
        "stream-frames": commands.stream_frames,
        "refine": commands.refine,
        "export": commands.export_student,
        "recipe": commands.recipe,
        "evaluate": evaluate.evaluate,
    }
    try:
        tyro.extras.subcommand_cli_from_dict(table, prog="python -m ms_train", description=__doc__)
    except MotionStreamError as error:
        if os.environ.get("MS_INFER_DEBUG"):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
