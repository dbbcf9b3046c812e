"""What the command lines share: exit codes, messages and logging."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable

from ms_infer.environment import env
from ms_infer.errors import ConfigError, DeviceError, EngineMismatchError, MissingExtraError, MotionStreamError

OK, FAILED, USAGE, MISSING, INTERRUPTED = 0, 1, 2, 3, 130


def run_command(program: str, work: Callable[[], str], *, debug: bool = False) -> int:
    """Run `work` and print its closing message on stderr; errors become one line and an exit code."""
    try:
        print(f"{program}: {work()}", file=sys.stderr)
        return OK
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return FAILED
    except MotionStreamError as error:
        if debug:
            traceback.print_exc()
        print(f"{program}: failed: {error}", file=sys.stderr)
        return MISSING if isinstance(error, MissingExtraError | DeviceError | EngineMismatchError) else FAILED


def set_logging(*, verbose: bool = False, quiet: bool = False) -> None:
    """Log to stderr: warnings by default, less with `quiet`, more with `verbose` or MS_INFER_LOG."""
    wanted = env("LOG").upper()
    if wanted and wanted not in logging.getLevelNamesMapping():
        raise ConfigError(f"MS_INFER_LOG={wanted.lower()!r} is no level; use debug, info, warning or error")
    level = logging.getLevelNamesMapping()[wanted] if wanted else logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=logging.ERROR if quiet else level, format="%(message)s", stream=sys.stderr)


def parse_size(text: str) -> tuple[int, int]:
    """(height, width) of "480x832"."""
    height, cross, width = text.lower().partition("x")
    if not (cross and height.isdecimal() and width.isdecimal()):
        raise ConfigError(f"--size {text!r} is not HEIGHTxWIDTH, such as 480x832")
    return int(height), int(width)
