"""Make a virtual environment with the project and some of its extras: install.py [FOLDER [EXTRAS]]."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TORCH = "torch>=2.11,<2.14"


def main() -> None:
    if sys.version_info < (3, 11):  # noqa: UP036 (this script runs before pip can refuse)
        sys.exit(f"ms-infer needs Python 3.11 or newer, this is {sys.version.split()[0]}")
    folder, extras = (sys.argv[1:] + [".venv", "dev"][len(sys.argv) - 1 :])[:2]
    python = Path(folder) / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, TORCH, "numpy<2.4"], check=True)  # torch first: other packages then take this build
    subprocess.run([*pip, "-e", f"{ROOT}[{extras}]"], check=True)


if __name__ == "__main__":
    main()
