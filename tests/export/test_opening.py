"""Which bundle a stream opens: the demo's own, none of an older format, none for PyTorch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ms_infer import BundleError, ConfigError


def test_the_demo_takes_its_bundle_where_there_is_one(
    copied: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ms_infer.engines import open as source

    folder = source.demo_bundle()
    assert source.find_bundle("demo", "auto", None) is None
    folder.parent.mkdir(parents=True)
    copied.rename(folder)
    monkeypatch.setattr(source, "_has_cuda", lambda: False)
    assert source.find_bundle("demo", "auto", None) == folder
    assert source.find_bundle("demo", "torch", None) is None
    assert source.find_bundle("demo", "auto", "cuda") is None
    monkeypatch.setattr(source, "_has_cuda", lambda: True)
    assert source.find_bundle("demo", "auto", None) is None
    assert source.find_bundle("demo", "openvino", None) == folder


def test_a_demo_bundle_of_an_older_format_is_passed_over_unless_it_is_asked_for(
    copied: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from ms_infer.engines import open as source

    folder = source.demo_bundle()
    folder.parent.mkdir(parents=True)
    copied.rename(folder)
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 1}))
    monkeypatch.setattr(source, "_has_cuda", lambda: False)
    assert source.find_bundle("demo", "auto", None) is None
    assert "older format 1" in caplog.text
    with pytest.raises(BundleError, match="run the same ms-export"):
        source.open_engine("demo", engine="openvino")


def test_a_bundle_holds_no_pytorch_model(copied: Path) -> None:
    from ms_infer import Stream

    with pytest.raises(ConfigError, match="open the checkpoint instead"):
        Stream(copied, engine="torch")
