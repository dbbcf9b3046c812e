"""The strength of an adapter changes at a chunk boundary, on the torch engine, and 0 is the exact base."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ms_infer import ConfigError, Stream
from ms_infer.checkpoint import Student, load_student
from ms_infer.config import ContextConfig, ScheduleConfig
from ms_infer.engines.base import Engine
from ms_infer.engines.torch.captured import FusedEngine
from ms_infer.engines.torch.plain import TorchEngine
from tests.public_checkpoints import Published, lora, make, tiny_vae
from tests.tiny import without_tracks


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("strengths")


@pytest.fixture(scope="module")
def made(folder: Path) -> Published:
    published = make("wan2.1-1.3b", folder)
    for seed in (1, 5):
        lora(published, folder / f"{seed}.safetensors", "comfyui", seed=seed)
    tiny_vae(folder / "taew2_1.pth")
    return published


def opened(made: Published, folder: Path, *strengths: float) -> Student:
    """The small model with one adapter per strength."""
    settings = replace(
        load_student(made.student).config,
        height=32,
        width=32,
        context=ContextConfig(chunk_frames=1, sink_frames=1, window_frames=1),
        schedule=ScheduleConfig(timesteps=(1000.0, 500.0)),
    )
    adapters = [f"{folder / name}.safetensors:{s}" for name, s in zip("15", strengths, strict=False)]
    return load_student(made.student, preset=settings, vae=folder / "taew2_1.pth", lora=adapters)


def frames(stream: Stream, chunks: int) -> list[Any]:
    return [stream.step().frames for _ in range(chunks)]


def weights(engine: TorchEngine) -> dict[str, torch.Tensor]:
    return engine.transformer.state_dict()


@pytest.mark.parametrize("engine", [TorchEngine, FusedEngine])
@pytest.mark.parametrize("wanted", [(0.5, -2.0), (0.0, 0.0), (0.0, 1.0)])
def test_a_changed_strength_is_the_one_that_a_model_opens_with(
    made: Published, folder: Path, engine: type[TorchEngine], wanted: tuple[float, float]
) -> None:
    running = engine(opened(made, folder, 1.0, 1.0), device="cpu")
    running.set_strengths(wanted)

    expected = weights(engine(opened(made, folder, *wanted), device="cpu"))
    assert running.strengths == wanted
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(running).items())


def test_strength_0_from_the_start_gives_the_frames_of_the_base(made: Published, folder: Path) -> None:
    with Stream(opened(made, folder, 1.0)) as changed, Stream(opened(made, folder)) as base:
        changed.set_strengths(0.0)
        assert all(np.array_equal(a, b) for a, b in zip(frames(changed, 3), frames(base, 3), strict=True))


def test_a_strength_changes_from_the_next_chunk_on(made: Published, folder: Path) -> None:
    with Stream(opened(made, folder, 1.0)) as one, Stream(opened(made, folder, 1.0)) as other:
        before = frames(one, 2), frames(other, 2)
        control = one.set_strengths(0.25)
        after = one.step(), other.step()

    assert all(np.array_equal(a, b) for a, b in zip(*before, strict=True))
    assert after[0].control_id == control
    assert not np.array_equal(after[0].frames, after[1].frames)


def test_another_stream_of_the_same_student_keeps_its_weights(made: Published, folder: Path) -> None:
    student = opened(made, folder, 1.0)
    with Stream(student) as one, Stream(student) as other, Stream(opened(made, folder, 1.0)) as apart:
        one.set_strengths(0.0)
        one.step()
        assert np.array_equal(other.step().frames, apart.step().frames)


def test_the_text_keys_follow_the_weights(made: Published, folder: Path) -> None:
    text = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    engine, fresh = (TorchEngine(opened(made, folder, s)) for s in (1.0, 0.5))
    for one in (engine, fresh):
        one.set_text(one.embed(text))
    engine.set_strengths([0.5])

    assert all(torch.equal(a, b) for a, b in zip(engine._keys[0], fresh._keys[0], strict=True))


def test_a_snapshot_keeps_the_strength(made: Published, folder: Path, tmp_path: Path) -> None:
    with Stream(opened(made, folder, 1.0)) as one, Stream(opened(made, folder, 1.0)) as other:
        one.set_strengths(0.25)
        frames(one, 2)
        one.snapshot(tmp_path / "s.safetensors")
        other.restore(tmp_path / "s.safetensors")
        assert np.array_equal(one.step().frames, other.step().frames)


def test_a_new_start_keeps_the_strength(made: Published, folder: Path) -> None:
    with Stream(opened(made, folder, 1.0)) as one, Stream(opened(made, folder, 0.25)) as other:
        one.set_strengths(0.25)
        one.start()
        assert np.array_equal(one.step().frames, other.step().frames)


@pytest.mark.parametrize("wrong", [(), (1.0, 1.0), (float("nan"),)])
def test_strengths_that_do_not_fit_are_refused_at_once(made: Published, folder: Path, wrong: tuple[float, ...]) -> None:
    with Stream(opened(made, folder, 1.0)) as stream, pytest.raises(ConfigError, match="do not fit the 1 adapters"):
        stream.set_strengths(*wrong)


def test_engines_of_exported_weights_say_so() -> None:
    with pytest.raises(ConfigError, match=r"the openvino engine runs exported weights.*--lora FILE:strength"):
        Engine.check_strengths(SimpleNamespace(name="openvino"), [1.0])  # type: ignore[arg-type]


def test_the_command_line_takes_an_autoencoder_an_adapter_and_rows(
    made: Published, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from ms_infer.checkpoint import save_student
    from ms_infer.cli.stream import StreamOptions, main, open_stream

    np.save(tmp_path / "rows.npy", np.ones((2, 8), np.float32))
    adapter, vae = f"{folder / '1.safetensors'}:0.5", str(folder / "taew2_1.pth")
    with open_stream(StreamOptions(source=str(made.student), vae=(vae,), lora=(adapter,))) as stream:
        assert stream._engine.strengths == (0.5,)
    save_student(without_tracks(), tmp_path / "plain.safetensors")
    plain = [str(tmp_path / "plain.safetensors"), "--engine", "torch", "--seconds", "0.1"]

    assert main([*plain, "--prompt-embeds", str(tmp_path / "rows.npy"), "-o", str(tmp_path / "png") + "/"]) == 0
    assert main([*plain, "--prompt", "a", "--prompt-embeds", "x.npy"]) == 1
    assert "--prompt and --prompt-embeds say the same thing" in capsys.readouterr().err


@pytest.mark.parametrize("part", ["vae", "lora"])
def test_parts_for_a_source_that_has_its_own_are_refused(made: Published, folder: Path, part: str) -> None:
    with pytest.raises(ConfigError, match=f"{part}= go with a checkpoint"):
        Stream(opened(made, folder), **{part: "x.pth"})
