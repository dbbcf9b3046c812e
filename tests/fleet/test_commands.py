"""`ms-fleet` without a fleet: what is missing is said in one line."""

from __future__ import annotations

import builtins
import subprocess
import sys
from typing import Any

import pytest

from ms_infer.errors import BundleError, DeviceError
from ms_infer.fleet import cli
from ms_infer.fleet.cli import described, main


def test_missing_ray_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    real = builtins.__import__

    def without_ray(name: str, *what: Any, **named: Any) -> Any:
        if name.partition(".")[0] == "ray":
            raise ImportError("No module named 'ray'", name="ray")
        return real(name, *what, **named)

    monkeypatch.setattr(builtins, "__import__", without_ray)
    for command in (["demo"], ["status"], ["drain", "node"]):
        assert main(command) == 3
        assert "pip install 'ms-infer[fleet]'" in capsys.readouterr().err


def test_settings_need_no_ray() -> None:
    """Only what talks to Ray imports it."""
    code = "import sys, ms_infer.fleet.cli, ms_infer.fleet.remote, ms_infer.fleet.seats, ms_infer.fleet.keeper\n"
    code += "assert 'ray' not in sys.modules and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_fleet_of_one_machine_listens_to_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--host", "0.0.0.0", "--token", "a" * 20]) == 1
    assert "127.0.0.1" in capsys.readouterr().err


def node(name: str, streams: int, capacity: int = 2) -> dict[str, Any]:
    return {"node": name, "capacity": capacity, "streams": streams, "leaving": False}


def test_node_is_drained_when_others_have_room(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engines = {"a": node("n1", 2), "b": node("n2", 1), "c": node("m3", 0)}
    asked: list[Any] = []

    def ask(method: str, *what: Any) -> Any:
        if method == "status":
            return {"engines": dict(engines)}
        asked.append(what)
        return [engines.pop("a") and "a"]

    monkeypatch.setattr(cli, "_ask", ask)
    assert main(["drain", "n"]) == 1
    assert "2 nodes with engines begin with 'n'" in capsys.readouterr().err
    engines["c"] = node("m3", 2)
    assert main(["drain", "n1"]) == 1
    assert "2 streams, and there are 1 free seats elsewhere" in capsys.readouterr().err
    engines["c"] = node("m3", 0)
    assert main(["drain", "n1"]) == 0
    assert asked == [("n1",)]


def test_status_in_words() -> None:
    told = {
        "engines": {"abc": {"node": "n" * 40, "capacity": 4, "streams": 2, "leaving": True}},
        "gateways": ["xyz"],
        "streams": 2,
        "waiting": 1,
        "states": 1,
        "bytes": 13_000_000,
        "drained": [],
    }
    assert described(told) == (
        "engine abc on node nnnnnnnnnnnn: 2 of 4 streams, leaving\ngateway xyz\n"
        "1 states are kept, 13.0 MB; 1 streams wait"
    )


def test_what_keeps_an_engine_from_starting_is_told_as_the_error_that_it_is() -> None:
    from ms_infer.fleet.deploy import told

    trace = (
        "failed 3 times in a row. Error:\nTraceback:\n  raise\nms_infer.errors.BundleError: b/ is empty; export again\n"
    )
    for text, kind, line in (
        (trace, BundleError, "b/ is empty; export again"),
        ("Traceback:\nOSError: no space\n", DeviceError, "the fleet could not be started: OSError: no space"),
    ):
        error = told(text)
        assert type(error) is kind
        assert str(error) == line
