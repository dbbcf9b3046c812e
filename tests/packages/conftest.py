"""The wheel and the source release, built once, and environments that know nothing of the repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import pytest

from ms_infer.checkpoint import save_student
from ms_infer.config import TrackHeadConfig
from tests.tiny import tiny_student

ROOT = Path(__file__).resolve().parents[2]
VERSIONS = ("3.11", "3.12", "3.13")
"""Of Python, that the project says it runs on."""


def call(*command: str | Path, folder: Path | None = None, variables: dict[str, str] | None = None) -> str:
    """Standard output of a command that must succeed."""
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


@dataclass(frozen=True)
class Environment:
    """A virtual environment, and an empty folder to work in."""

    python: Path
    home: Path

    @property
    def variables(self) -> dict[str, str]:
        """What a program sees: nothing that leads back to the repository or to the user's cache."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MS_INFER"))}
        path = f"{self.python.parent}{os.pathsep}{os.environ['PATH']}"
        return {**kept, "PATH": path, "MS_INFER_CACHE": str(self.home / "cache"), "OMP_NUM_THREADS": "1"}

    def script(self, name: str) -> Path:
        return self.python.parent / name

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[bytes]:
        """Run a program of the environment in its folder."""
        program = self.script(str(command[0]))
        return subprocess.run(
            [program, *command[1:]], cwd=self.home, env=self.variables, capture_output=True, check=False
        )

    def pip(self, *arguments: str | Path) -> str:
        """What pip says; this interpreter's pip, at work on the environment."""
        return call(sys.executable, "-m", "pip", "--python", self.python, *arguments, folder=self.home)


def make_environment(folder: Path, interpreter: str) -> Environment:
    call(interpreter, "-m", "venv", "--without-pip", folder / "venv")
    (folder / "empty").mkdir()
    return Environment(folder / "venv" / "bin" / "python", folder / "empty")


def interpreter_of(version: str) -> str | None:
    """A Python of this version: on the path, or one of pyenv's."""
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [shutil.which(f"python{version}"), *map(str, sorted(versions.glob(f"{version}.*/bin/python")))]
    for candidate in filter(None, [sys.executable, *found]):
        code = "import sys; print('%d.%d' % sys.version_info[:2])"
        done = subprocess.run([candidate, "-c", code], capture_output=True, text=True, check=False)
        if done.stdout.strip() == version:
            return candidate
    return None


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source release, and the wheel that was made from it."""
    folder = tmp_path_factory.mktemp("dist")
    call(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT)
    return folder


@pytest.fixture(scope="session")
def sdist(dist: Path) -> Path:
    return next(dist.glob("*.tar.gz"))


@pytest.fixture(scope="session")
def wheel(dist: Path) -> Path:
    return next(dist.glob("*.whl"))


@pytest.fixture(scope="session")
def full(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The wheel with every extra: what it needs is lent by the environment of the tests, which is large."""
    environment = make_environment(tmp_path_factory.mktemp("full"), sys.executable)
    environment.pip("install", "-q", "--no-deps", "--no-index", wheel)
    lent = {sysconfig.get_path("purelib"), *(path for path in sys.path if Path(path).name == "site-packages")}
    packages = next((environment.python.parents[1] / "lib").glob("python*/site-packages"))
    (packages / "lent.pth").write_text("".join(f"{path}\n" for path in sorted(lent)))
    return environment


@pytest.fixture(scope="session", params=VERSIONS)
def slim(request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """`pip install ms-infer[cpu]` for one version of Python, as pip resolves it."""
    interpreter = interpreter_of(request.param)
    if interpreter is None:
        pytest.skip(f"no Python {request.param}")
    environment = make_environment(tmp_path_factory.mktemp("slim"), interpreter)
    environment.pip("install", "-q", "--no-compile", f"{wheel}[cpu]")
    return environment


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student that tracks drive without layers: these are two thirds of what an export and each program take."""
    path = tmp_path_factory.mktemp("student") / "tiny.safetensors"
    save_student(tiny_student(track_head=TrackHeadConfig(max_tracks=24, id_dim=8)), path)
    return path


@pytest.fixture(scope="session")
def bundle(full: Environment, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the wheel's ms-export makes."""
    folder = tmp_path_factory.mktemp("bundle") / "tiny"
    done = full.run("ms-export", checkpoint, "-o", folder)
    assert done.returncode == 0, done.stderr.decode()
    return folder
