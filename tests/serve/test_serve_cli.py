"""The command line: fast help, refusals, and an end when the model cannot be opened."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from ms_infer.errors import CheckpointError, ConfigError
from ms_infer.serve.cli import address, elsewhere, main, serve
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


@pytest.mark.parametrize(
    "wrong",
    [["--port", "70000"], ["--fps", "0"], ["--codec", "mpeg"], ["--max-sessions", "0"], ["--origin", "public.name"]],
)
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


SECRET = "a b&c/d=e?f#g%h+i"
QUOTED = "?token=a%20b%26c%2Fd%3De%3Ff%23g%25h%2Bi"


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://localhost:8600/"),
        ("localhost", "http://localhost:8600/"),
        ("127.8.8.8", "http://127.8.8.8:8600/"),  # localhost is another address
        ("::1", "http://[::1]:8600/"),
        ("0.0.0.0", "http://localhost:8600/"),
        ("::", "http://localhost:8600/"),
        ("10.0.0.7", "http://10.0.0.7:8600/"),
        ("fd00::7", "http://[fd00::7]:8600/"),
    ],
)
def test_printed_address_can_be_opened(host: str, url: str) -> None:
    assert address(ServeConfig(host=host, token=SECRET), 8600) == url + QUOTED
    assert parse_qs(urlsplit(url + QUOTED).query) == {"token": [SECRET]}
    if ServeConfig(host=host, token=SECRET).loopback:
        assert address(ServeConfig(host=host), 8600) == url


def test_others_are_told_an_address_that_reaches_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "studio")
    assert elsewhere(ServeConfig(), 8600) == []
    (everywhere,) = elsewhere(ServeConfig(host="0.0.0.0", token=SECRET), 8600)
    assert everywhere.endswith(f"http://studio:8600/{QUOTED}")
    (public,) = elsewhere(ServeConfig(origin=("https://public.name/live",), token=SECRET), 8600)
    assert public.endswith(f"https://public.name/live/{QUOTED}")


def test_port_in_use_is_told_before_the_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("the model was opened")

    monkeypatch.setattr("ms_infer.serve.open.stream_opener", never)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert main(["demo", "--port", port]) == 1
    said = capsys.readouterr().err
    assert port in said
    assert "--port 0" in said
    assert "Traceback" not in said


def test_host_that_is_not_ours_is_told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secrets.token_urlsafe", lambda size: "-begins-with-a-dash")
    assert main(["demo", "--host", "192.0.2.1", "--port", "0"]) == 1
    assert "192.0.2.1" in capsys.readouterr().err
