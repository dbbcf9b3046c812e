"""One `ms-stream` command opens every published format with its parts, and says in one line what a folder lacks."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from ms_infer import CheckpointError, ConfigError, Stream
from ms_infer.checkpoint.companions import student_path
from ms_infer.checkpoint.complete import open_complete
from ms_infer.cli.stream import main
from ms_infer.given import Given
from tests.public_checkpoints import FORMATS, hub_cache, lfs_pointer, make, tiny_vae, truncate

HALVES = ("wan2.2-a14b", "diffusers-a14b")
ALONE = "comfyui"
"""Its folder holds the transformer alone: publishers put the rest elsewhere."""
SMALL = ["--set", "height=64", "--set", "width=64", "--seconds", "0.3", "--quiet"]


@pytest.fixture(autouse=True)
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache and a cache of prompts that nothing is in."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("MS_INFER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "hub"


def command(source: Path | str, tmp_path: Path, *more: str) -> tuple[int, Path]:
    picture = tmp_path / "picture.png"
    Image.new("RGB", (96, 80), (200, 120, 40)).save(picture)
    video = tmp_path / "out.gif"
    return main([str(source), "--prompt", "a cat", "--image", str(picture), "-o", str(video), *SMALL, *more]), video


@pytest.mark.parametrize("name", sorted(set(FORMATS) - {*HALVES, ALONE}))
def test_one_command_makes_a_video_of_every_published_repository(name: str, tmp_path: Path) -> None:
    made = make(name, tmp_path)

    code, video = command(made.root, tmp_path)

    assert code == 0
    assert video.stat().st_size > 100


def test_one_command_makes_a_video_at_the_published_widths(tmp_path: Path) -> None:
    """Of all of them: `python -m benchmarks.public_folders`."""
    made = make("self_forcing", tmp_path, true_widths=True)
    assert made.widths == FORMATS["self_forcing"][1]

    code, video = command(made.root, tmp_path)

    assert code == 0
    assert video.stat().st_size > 100


def test_a_transformer_alone_takes_named_parts(tmp_path: Path) -> None:
    made = make(ALONE, tmp_path)
    other = make("wan2.1-1.3b", tmp_path / "other")

    code, video = command(made.root, tmp_path, "--vae", str(other.vae), "--text-encoder", str(other.text_encoder))

    assert code == 0
    assert video.stat().st_size > 100


def test_the_line_of_the_readme_opens_a_file_and_what_lies_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    line = 'Stream("self_forcing_dmd.pt")'
    assert line in readme
    made = make("self_forcing", tmp_path)
    folder = tmp_path / "here"
    shutil.copytree(made.root / "wan_models/Wan2.1-T2V-1.3B", folder)
    shutil.copy(made.student, folder)
    monkeypatch.chdir(folder)

    with eval(line, {"Stream": Stream}) as stream:
        assert [note.split(":")[0] for note in stream.notes] == ["checkpoint", "autoencoder", "text encoder"]
        assert all("beside the checkpoint" in note for note in stream.notes[1:])


def test_a_hub_id_is_found_in_the_cache_and_lends_its_parts(tmp_path: Path, no_cache: Path) -> None:
    base = make("wan2.1-1.3b", tmp_path / "base")
    hub_cache(base.root, no_cache, "Wan-AI/Wan2.1-T2V-1.3B")
    student = make("self_forcing", tmp_path / "student")
    alone = tmp_path / "alone" / student.student.name
    alone.parent.mkdir()
    shutil.copy(student.student, alone)

    by_id, lent = open_complete("Wan-AI/Wan2.1-T2V-1.3B"), open_complete(alone)

    assert by_id.student.vae is not None
    assert lent.student.vae is not None
    assert "Wan-AI/Wan2.1-T2V-1.3B in the hub's cache" in lent.notes[1]
    root = no_cache / "models--Wan-AI--Wan2.1-T2V-1.3B"
    by_name = student_path("Wan-AI/Wan2.1-T2V-1.3B")
    assert student_path(root) == by_name != root
    assert open_complete(by_name).student.vae is not None, "snapshots/REVISION, whose files are links"


def test_nothing_is_downloaded_that_was_not_asked_for(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"hub's cache does not hold it; download it with --download"):
        open_complete("owner/name")


def test_all_that_is_missing_is_named_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = make("track_v0", tmp_path)
    for part in ("vae", "text_encoder", "image_encoder"):
        shutil.rmtree(made.root / part)

    code, _ = command(made.root, tmp_path)

    lines = [line for line in capsys.readouterr().err.splitlines() if "failed" in line]
    assert code == 1
    assert len(lines) == 1
    for words in ("lacks 3 of its parts", "Wan2.1_VAE.pth", "models_clip", "models_t5", "published in Wan-AI/"):
        assert words in lines[0]


@pytest.mark.parametrize("wrong", ["truncated", "pointer", "vae"])
def test_one_wrong_thing_gives_one_line_that_names_it(
    wrong: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make("wan2.1-14b", tmp_path)
    shard = sorted(made.root.glob("diffusion_pytorch_model*.safetensors"))[0]
    source: Path = made.root
    if wrong == "truncated":
        truncate(shard)
    elif wrong == "pointer":
        lfs_pointer(shard)
    else:
        assert made.vae is not None
        source = made.vae

    code, _ = command(source, tmp_path)

    lines = [line for line in capsys.readouterr().err.splitlines() if "failed" in line]
    assert code == 1
    assert len(lines) == 1
    assert (source.name if wrong == "vae" else shard.name) in lines[0]


@pytest.mark.parametrize("name", HALVES)
def test_half_a_model_is_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _ = command(make(name, tmp_path).root, tmp_path)

    assert code == 1
    assert "Wan2.2-A14B" in capsys.readouterr().err


def test_several_checkpoints_of_a_repository_have_to_be_named(tmp_path: Path) -> None:
    made = make("self_forcing", tmp_path)
    shutil.copy(made.student, made.student.with_name("another.pt"))
    with pytest.raises(CheckpointError, match=r"several checkpoints .*another.pt.*; name one file"):
        student_path(made.root)


def test_a_tiny_autoencoder_beside_the_checkpoint_will_do(tmp_path: Path) -> None:
    made = make("self_forcing", tmp_path)
    assert made.vae is not None
    made.vae.unlink()
    tiny_vae(made.student.with_name("taew2_1.pth"))

    assert open_complete(made.root).student.config.model.vae.kind == "tiny"


def test_single_settings_are_set_and_wrong_ones_refused(tmp_path: Path) -> None:
    made = make("self_forcing", tmp_path)

    given = Given(settings=["context.window_frames=6", "schedule.shift=8", "height=64"])
    config = open_complete(made.root, given).student.config
    assert (config.context.window_frames, config.schedule.shift, config.height) == (6, 8, 64)
    with pytest.raises(ConfigError, match=r"'context.windows=6' names no setting; .*window_frames"):
        open_complete(made.root, Given(settings=["context.windows=6"]))
    with pytest.raises(ConfigError, match="weights of the transformer do not fit"):
        open_complete(made.root, Given(settings=["model.layers=7"]))
