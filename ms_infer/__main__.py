"""`python -m ms_infer`: the version, and where the C++ sources and their CMake package are."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ms_infer._version import __version__

CPP = Path(__file__).resolve().parent / "cpp"


def main(args: Sequence[str] | None = None) -> int:
    """Print what was asked for; exit code 2 for no question."""
    parser = argparse.ArgumentParser(prog="python -m ms_infer", description=__doc__)
    question = parser.add_mutually_exclusive_group(required=True)
    question.add_argument("--version", action="version", version=__version__)
    question.add_argument("--cmake-dir", action="store_true", help="folder for -Dms_infer_DIR of a CMake project")
    question.add_argument("--include-dir", action="store_true", help="folder of ms_infer/ms_infer.h")
    asked = parser.parse_args(args)
    print(CPP / ("cmake" if asked.cmake_dir else "include"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
