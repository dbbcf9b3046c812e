"""`ms-bench`: how fast a stream is on this machine, and how constant."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import tyro

from ms_infer.bench.options import BenchOptions
from ms_infer.cli.run import run_command


def main(args: Sequence[str] | None = None) -> int:
    """Entry point of `ms-bench`; returns the exit code."""
    options = tyro.cli(BenchOptions, prog="ms-bench", args=args)
    command = ["ms-bench", *(sys.argv[1:] if args is None else args)]

    def work() -> str:
        from ms_infer.bench.work import bench

        return bench(options, command)

    return run_command("ms-bench", work, debug=options.debug)


if __name__ == "__main__":
    sys.exit(main())
