"""`python -m ms_train STAGE ...`: the recipe, one command a stage; each resumes when its --out holds a checkpoint."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

import tyro

from ms_infer.errors import MotionStreamError
from ms_train import recipe
from ms_train.evaluate.evaluation import evaluate


def main() -> int:
    """Parse, call one command, report errors in words. Returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    table: dict[str, Any] = {
        "layers": recipe.layers,
        "paint": recipe.paint,
        "render": recipe.render_clips,
        "autoencoder": recipe.autoencoder,
        "teacher": recipe.teacher,
        "adapt": recipe.adapt,
        "distill": recipe.distill,
        "stream-frames": recipe.stream_frames,
        "refine": recipe.refine,
        "export": recipe.export_student,
        "recipe": recipe.recipe,
        "evaluate": evaluate,
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
