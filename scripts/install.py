"""Make a virtual environment with the project and everything its tests need: install.py [FOLDER]."""

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
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".venv")
    if not (folder / "bin" / "python").exists():
        venv.create(folder, with_pip=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, TORCH, "numpy<2.4"], check=True)  # torch first: other packages then take this build
    subprocess.run([*pip, "-e", f"{ROOT}[dev]"], check=True)


if __name__ == "__main__":
    main()
