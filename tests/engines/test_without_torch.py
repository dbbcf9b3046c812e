"""Without PyTorch a bundle streams; whatever needs it says so in one line. Here its import is blocked."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ms_infer.checkpoint import save_student
from tests.engines.conftest import Made
from tests.tiny import tiny_student

HIDDEN = """
import sys
from importlib.machinery import PathFinder
class WithoutTorch:
    def find_spec(self, name, path=None, target=None):
        return None if name == "torch" else PathFinder.find_spec(name, path, target)
sys.meta_path = [WithoutTorch() if finder is PathFinder else finder for finder in sys.meta_path]
"""
SAYS = "need PyTorch, which is not installed: pip install 'ms-infer[torch]'; a bundle that ms-export made"


def without_torch(code: str, *arguments: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a process that finds no torch."""
    command = [sys.executable, "-c", HIDDEN + code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("student") / "tiny.safetensors"
    save_student(tiny_student(), path)
    return path


@pytest.fixture
def bundle(made: Callable[..., Made]) -> Path:
    pytest.importorskip("openvino", reason="no OpenVINO")
    return made("tracks")[1].folder


@pytest.mark.parametrize(
    "code",
    [
        "from ms_infer import Stream; Stream(sys.argv[1])",
        "from ms_infer import load_student",
        "import ms_infer.engines.torch",
        "import ms_infer.model.transformer",
        "from ms_infer import Tracks; Tracks.load('points.pth', size=(32, 32))",
    ],
)
def test_python_raises_one_clear_error(code: str, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "points.pth").write_bytes(b"PK\3\4")
    caught = f"\ntry:\n    {code}\nexcept __import__('ms_infer').MissingExtraError as error:\n    print(error)"

    assert SAYS in without_torch(caught, checkpoint, folder=tmp_path).stdout


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("ms_infer.cli.stream", ["-o", "out.gif"]),
        ("ms_export.cli", ["-o", "bundle"]),
        ("ms_infer.bench.cli", ["--chunks", "3"]),
        ("ms_infer.bench.cli", ["--random-weights"]),
    ],
)
def test_a_command_ends_with_code_3_and_one_line(
    module: str, arguments: list[str], checkpoint: Path, tmp_path: Path
) -> None:
    code = f"from {module} import main; sys.exit(main(sys.argv[1:]))"

    done = without_torch(code, checkpoint, *arguments, folder=tmp_path)

    assert done.returncode == 3
    assert SAYS in done.stderr
    assert done.stderr.count("\n") == 1


def test_training_names_the_extra(tmp_path: Path) -> None:
    done = without_torch("import runpy; runpy.run_module('ms_train', run_name='__main__')", folder=tmp_path)

    assert done.returncode == 1
    assert SAYS in done.stderr


def test_a_bundle_streams_and_is_measured(bundle: Path, tmp_path: Path) -> None:
    code = (
        "from ms_infer.cli.stream import main as stream; from ms_infer.bench.cli import main as bench; "
        "assert stream([sys.argv[1], '-o', 'out.gif', '--seconds', '1', '--grid', '4']) == 0; "
        "assert bench([sys.argv[1], '--chunks', '3', '--warm-up', '1']) == 0"
    )
    done = without_torch(code, bundle, folder=tmp_path)

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.gif").stat().st_size > 1_000


def test_the_server_streams_a_bundle(bundle: Path, tmp_path: Path) -> None:
    code = (
        "from ms_infer.serve.app import create_app; from ms_infer.serve.open import stream_opener; "
        "from ms_infer.serve.settings import ServeConfig; "
        "print(len(stream_opener(ServeConfig(sys.argv[1]))().step().frames))"
    )

    assert without_torch(code, bundle, folder=tmp_path).stdout == "9\n"
