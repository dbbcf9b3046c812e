"""Published students are known by their names and run with their own settings."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from ms_infer import ConfigError, Stream
from ms_infer.checkpoint import load_student
from ms_infer.config import RECIPES, StreamConfig, preset
from ms_infer.numerics.schedule import denoise_steps
from tests.public_checkpoints import hub_cache, make
from tests.tiny import without_tracks

LAYOUTS = {"self_forcing": "self-forcing", "longlive": "longlive", "longlive_2": "longlive-2", "causvid": "causvid",
           "krea": "krea-14b"}  # fmt: skip


def described(config: StreamConfig) -> str:
    context, schedule = config.context, config.schedule
    again = " again" if context.recompute else ""
    sizes = f"c{context.chunk_frames} s{context.sink_frames} w{context.window_frames}{again}"
    return f"{sizes} {context.rope} {schedule.shift:g}"


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_folder_of_a_publisher_opens_with_the_settings_of_its_model(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "ms_infer"):
        config = load_student(make(name, tmp_path).student).config

    recipe = RECIPES[LAYOUTS[name]]
    assert (config.context, config.schedule) == (recipe.context, recipe.schedule)
    assert "no causal student" not in caplog.text


@pytest.mark.parametrize(
    ("name", "words", "timesteps"),
    [
        ("self-forcing", "c3 s0 w18 absolute 5", [1000, 937.5, 833.333, 625]),
        ("longlive", "c3 s3 w6 absolute 5", [1000, 937.5, 833.333, 625]),
        ("longlive-2", "c8 s8 w16 relative 5", [999, 937, 833, 624]),
        ("causvid", "c3 s0 w18 absolute 8", [1000, 757, 522]),
        ("causvid-4step", "c3 s0 w18 absolute 8", [1000, 960, 888.889, 727.273]),
        ("krea-14b", "c3 s0 w3 again relative 5", [1000, 937, 833, 625]),
    ],
)
def test_a_named_student_has_the_published_context_and_steps(name: str, words: str, timesteps: list[float]) -> None:
    config = preset(name)

    assert described(config) == words
    assert [step.timestep for step in denoise_steps(config.schedule)] == pytest.approx(timesteps, abs=1e-3)


def test_the_4_step_student_of_causvid_is_told_from_the_other(tmp_path: Path) -> None:
    made = make("causvid", tmp_path)
    folder = made.student.parent.rename(made.root / "autoregressive_checkpoint_warp_4step_cfg2")

    assert load_student(folder / "model.pt").config.schedule == RECIPES["causvid-4step"].schedule


def test_a_student_is_known_in_a_hub_cache(tmp_path: Path) -> None:
    made = make("longlive", tmp_path)
    file = made.student.rename(made.student.with_name("renamed.pt"))
    snapshot = hub_cache(file.parent, tmp_path / "hub", "Efficient-Large-Model/LongLive")

    assert load_student(snapshot / "renamed.pt").config.context == RECIPES["longlive"].context


def test_a_name_does_not_outweigh_other_latents(tmp_path: Path) -> None:
    made = make("wan2.2-5b", tmp_path / "krea-realtime-video")

    assert load_student(made.student).config.context == preset("wan2.2-5b").context


@pytest.mark.parametrize("name", ["wan2.1-1.3b", "wan2.1-14b", "wan2.2-5b", "diffusers", "comfyui"])
def test_a_base_model_opens_with_a_warning(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    made = make(name, tmp_path)

    with caplog.at_level(logging.WARNING, "ms_infer"):
        student = load_student(made.student)

    assert student.transformer is not None
    assert "is a base model of Wan, trained on whole clips: it is no causal student" in caplog.text


def test_the_5b_model_has_its_size_rate_and_shift(tmp_path: Path) -> None:
    config = load_student(make("wan2.2-5b", tmp_path).student).config

    assert (config.height, config.width, config.fps, config.schedule.shift) == (704, 1280, 24.0, 5.0)
    assert (config.model.vae.kind, config.model.image_input) == ("wan2.2", "pin")


@pytest.mark.parametrize("asked", [["--drag", "0.5,0.5:0.6,0.5"], ["--camera", "zoom=1.2"], ["--tracks", "x.npz"]])
def test_motion_for_a_model_without_a_track_head_is_refused(
    tmp_path: Path, asked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    from ms_infer.checkpoint import save_student
    from ms_infer.cli.stream import main

    save_student(without_tracks(), tmp_path / "plain.safetensors")
    code = main([str(tmp_path / "plain.safetensors"), *asked, "-o", str(tmp_path / "out.gif"), "--engine", "torch"])

    assert code == 1
    assert f"'tiny' has no track head; it cannot follow {asked[0]}" in capsys.readouterr().err
    assert not (tmp_path / "out.gif").exists()


def test_tracks_for_a_stream_without_a_track_head_are_refused() -> None:
    from ms_infer.tracks import Tracks

    with Stream(without_tracks()) as stream, pytest.raises(ConfigError, match="has no track head"):
        stream.start(tracks=Tracks.grid(2, 2))
