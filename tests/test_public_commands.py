"""Exports, the server, adapters and downloads on folders as their publishers lay them out, end to end."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from ms_infer.cli.stream import main
from tests.fake_hub import fake_hub
from tests.public_checkpoints import FORMATS, fp8_scaled, lora, make
from tests.public_loras import KINDS

SMALL = ["--set", "height=64", "--set", "width=64"]


@pytest.fixture(autouse=True)
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache and a cache of prompts that nothing is in."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("MS_INFER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "hub"


def stream(source: Path, tmp_path: Path, *more: str) -> tuple[int, Path]:
    picture, video = tmp_path / "picture.png", tmp_path / "out.gif"
    Image.new("RGB", (96, 80), (200, 120, 40)).save(picture)
    rest = ["--prompt", "a cat", "--image", str(picture), "-o", str(video), "--seconds", "0.3", "--quiet"]
    return main([str(source), *rest, *more]), video


def failure(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that says what failed."""
    said = capsys.readouterr().err
    lines = [line for line in said.splitlines() if "failed" in line]
    assert len(lines) == 1, said
    assert "Traceback" not in said
    return lines[0]


def test_an_fp8_scaled_file_gives_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = make("comfyui", tmp_path)
    file = fp8_scaled(made, tmp_path / "wan2.1_t2v_1.3B_fp8_scaled.safetensors")

    code, _ = stream(file, tmp_path, *SMALL)

    line = failure(capsys)
    assert code == 1
    assert file.name in line
    assert "fp8" in line.lower()


def test_an_adapter_of_another_model_gives_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One of Krea's 14B, at its true widths."""
    made = make("self_forcing", tmp_path)
    wrong = lora(dataclasses.replace(made, widths=FORMATS["krea"][1]), tmp_path / "krea_style.safetensors", "peft")

    code, _ = stream(made.root, tmp_path, *SMALL, "--lora", str(wrong))

    assert code == 1
    assert wrong.name in failure(capsys)


def test_adapters_of_every_kind_are_merged_by_one_command(tmp_path: Path) -> None:
    made = make("self_forcing", tmp_path)
    endings = {"longlive": "pt"}
    files = {kind: tmp_path / f"{kind}.{endings.get(kind, 'safetensors')}" for kind in KINDS}
    adapters = [lora(made, file, kind, seed=n) for n, (kind, file) in enumerate(files.items())]

    code, video = stream(made.root, tmp_path, *SMALL, *(w for one in adapters for w in ("--lora", f"{one}:0.5")))

    assert code == 0
    assert video.stat().st_size > 100


@pytest.mark.parametrize("name", ["self_forcing", "track_v0"])
def test_a_published_folder_is_exported_and_its_bundle_streams(name: str, tmp_path: Path) -> None:
    from ms_export.cli import main as export

    made, bundle = make(name, tmp_path), tmp_path / "bundle"
    assert export([str(made.root), "-o", str(bundle), *SMALL, "--target", "cpu", "--quiet"]) == 0
    assert made.text_encoder is not None

    code, video = stream(bundle, tmp_path, "--text-encoder", str(made.text_encoder))

    assert code == 0
    assert video.stat().st_size > 100


def test_a_published_folder_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from ms_infer.bench.cli import main as bench

    made = make("self_forcing", tmp_path)
    few = ["--brief", "--warm-up", "0", "--chunks", "1", "--set", "context.window_frames=3"]

    assert bench([str(made.root), *SMALL, *few]) == 0

    said = capsys.readouterr()
    assert "latent frames: chunk 3, sink 0, window 3" in said.out
    assert "autoencoder" in said.err


def test_a_published_folder_is_served(tmp_path: Path) -> None:
    pytest.importorskip("starlette", reason="needs the extra [serve]")
    from ms_infer.serve.open import stream_opener
    from ms_infer.serve.settings import ServeConfig
    from tests.serve.live import Page, running

    made = make("self_forcing", tmp_path)
    config = ServeConfig(source=str(made.root), set=("height=64", "width=64"))
    opener = stream_opener(config)
    with running(opener, source=config.source, set=config.set, min_fps=0.01) as server, Page(server) as page:
        page.send("start", prompt="a cat in the snow " * 200)  # 3,600 characters
        page.until(lambda: len(page.frames) >= 3)
        assert page.errors == []
        assert {frame.size for frame in page.frames} == {(64, 64)}


def with_hub(address: str, cache: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """`ms-stream` in a process of its own: the hub's client reads its address when it is imported."""
    pytest.importorskip("huggingface_hub", reason="downloads need huggingface_hub")
    environment = {**os.environ, "HF_ENDPOINT": address, "HF_HUB_CACHE": str(cache), "HF_HUB_DISABLE_XET": "1"}
    environment |= {"HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    program = "import sys; from ms_infer.cli.stream import main; sys.exit(main(sys.argv[1:]))"
    words = [sys.executable, "-c", program, *command]
    return subprocess.run(words, capture_output=True, text=True, check=False, env=environment)


def test_what_is_missing_is_downloaded_when_it_is_asked_for_and_nothing_else(tmp_path: Path, no_cache: Path) -> None:
    base, made = make("wan2.1-1.3b", tmp_path / "base"), make("self_forcing", tmp_path / "student")
    alone = tmp_path / "alone" / made.student.name
    alone.parent.mkdir()
    made.student.rename(alone)
    command = [str(alone), *SMALL, "--seconds", "0.3", "--prompt", "a cat", "-o", str(tmp_path / "out.gif")]
    with fake_hub({"Wan-AI/Wan2.1-T2V-1.3B": base.root}) as (address, fetched):
        refused = with_hub(address, no_cache, *command)
        assert refused.returncode == 1
        assert "--download" in refused.stderr
        assert fetched == []

        done = with_hub(address, no_cache, *command, "--download")
        assert done.returncode == 0, done.stderr[-2000:]
        assert "downloaded from Wan-AI/Wan2.1-T2V-1.3B" in done.stderr
        assert "Wan2.1_VAE.pth" in fetched
        assert not [file for file in fetched if file.startswith("diffusion_pytorch_model")], "its own transformer"

        before = list(fetched)
        again = with_hub(address, no_cache, *command)
        assert again.returncode == 0, "the second run finds them in the cache"
        assert fetched == before
    assert (tmp_path / "out.gif").stat().st_size > 100


def test_a_hub_id_is_downloaded_when_it_is_asked_for(tmp_path: Path, no_cache: Path) -> None:
    base = make("wan2.1-1.3b", tmp_path / "base")
    command = ["Wan-AI/Wan2.1-T2V-1.3B", *SMALL, "--seconds", "0.3", "-o", str(tmp_path / "out.gif"), "--download"]
    with fake_hub({"Wan-AI/Wan2.1-T2V-1.3B": base.root}) as (address, fetched):
        done = with_hub(address, no_cache, *command)
    assert done.returncode == 0, done.stderr[-2000:]
    assert any(file.startswith("diffusion_pytorch_model") for file in fetched)
    assert len(fetched) == len(set(fetched))


def test_a_hub_that_does_not_answer_gives_one_line(tmp_path: Path, no_cache: Path) -> None:
    with fake_hub({}) as (address, _):
        done = with_hub(address, no_cache, "owner/name", "--download", "-o", str(tmp_path / "out.gif"))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "owner/name could not be downloaded" in done.stderr.splitlines()[-1]
