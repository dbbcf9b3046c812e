"""Runs code blocks as a reader would, in a folder of the test's own; nothing outside of it may change."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.docs.pages import ROOT, Block

RUN = ("python", "bash")
CHANGES = re.compile(r"\bpip3? install\b|--prefix /|\bsudo\b|\bapt(-get)? |\brm -r")
"""What a block that is run may not say, so that it fails before anything runs."""
EXPORT = re.compile(r"^ms-export demo -o (\S+)$", re.M)
CHANGES_THE_MACHINE = ("pip", "pip3", "apt", "apt-get", "sudo")


def environment(folder: Path) -> dict[str, str]:
    """Variables of every block: programs of this interpreter, a cache in `folder`, no program that installs."""
    refused = folder / "refused"
    refused.mkdir(exist_ok=True)
    for name in CHANGES_THE_MACHINE:
        program = refused / name
        program.write_text(f"#!/bin/sh\necho 'a page runs {name}: mark the block as not run' >&2\nexit 97\n")
        program.chmod(0o755)
    path = os.pathsep.join([str(refused), str(Path(sys.executable).parent), os.environ["PATH"]])
    no_pip = {"PIP_REQUIRE_VIRTUALENV": "1", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull}
    return {**os.environ, **no_pip, "PATH": path, "MS_INFER_CACHE": str(folder / "cache"), "BROWSER": "true"}


def run(block: Block, folder: Path, variables: dict[str, str], exported: Path) -> None:
    """Run a block in a process of its own. AssertionError with all that it printed when it fails.

    exported: keeps the demo's bundle for blocks that make it again, whose ms-export finds it finished.
    """
    where = f"{block.page}:{block.line}"
    assert not CHANGES.search(block.text), f"{where} changes the machine: mark it as not run"
    if not (folder / "examples").exists():
        (folder / "examples").symlink_to(ROOT / "examples")
    bundles = [folder / name for name in EXPORT.findall(block.text)]
    for bundle in bundles:
        _copy(exported, bundle)
    command = [sys.executable, "-c"] if block.language == "python" else ["bash", "-euo", "pipefail", "-c"]
    done = subprocess.run(
        [*command, block.text], cwd=folder, env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{where} failed:\n{block.text}\n{done.stdout}{done.stderr}"
    for bundle in bundles:
        _copy(bundle, exported)


def _copy(source: Path, target: Path) -> None:
    """Copy a folder that is there to a place where nothing is."""
    if source.exists() and not target.exists():
        shutil.copytree(source, target)
