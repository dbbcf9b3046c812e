"""The command line: fast help, refusals, and an end when the model cannot be opened."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ms_infer.errors import CheckpointError, ConfigError
from ms_infer.serve.cli import address, main, serve
from ms_infer.serve.settings import ServeConfig


def test_help_loads_neither_torch_nor_the_server() -> None:
    code = (
        "import sys\nfrom ms_infer.serve.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'torch', 'starlette', 'uvicorn', 'pydantic', 'numpy', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--max-sessions" in done.stdout


@pytest.mark.parametrize("wrong", [["--port", "70000"], ["--fps", "0"], ["--codec", "mpeg"], ["--max-sessions", "0"]])
def test_wrong_option_is_a_usage_error(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["demo", *wrong])
    assert end.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_missing_model_ends_the_server_with_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nothing.safetensors"), "--port", "0"]) == 1
    assert "nothing.safetensors" in capsys.readouterr().err
    with pytest.raises((CheckpointError, ConfigError)):
        serve(ServeConfig(source=str(tmp_path / "nothing.safetensors"), port=0))


def test_address_carries_the_token() -> None:
    assert address(ServeConfig(), 8600) == "http://localhost:8600/"
    assert address(ServeConfig(host="10.0.0.7", token="s" * 16), 80) == "http://10.0.0.7:80/?token=ssssssssssssssss"
