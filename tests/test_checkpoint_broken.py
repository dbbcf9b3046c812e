"""A hostile, broken or unfitting checkpoint is a CheckpointError in one line, and nothing is loaded."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from ms_infer import config
from ms_infer.checkpoint import load_student, random_student, save_student
from ms_infer.checkpoint import student as checkpoint
from ms_infer.checkpoint.files import read_checkpoint
from ms_infer.checkpoint.sizes import Sizes, stream_config
from ms_infer.errors import CheckpointError
from tests.checkpoints import TINY96, TRACKED, tiny96, tiny96_config, write_shards

NAME = "blocks.1.ffn.0.weight"


def refused(path: Path, **options: Any) -> str:
    """The message with which loading fails; it is one line and names the file's folder or file."""
    with pytest.raises(CheckpointError) as caught:
        load_student(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def write(path: Path, tensors: dict[str, Tensor]) -> Path:
    """A safetensors file with the settings of tiny96."""
    save_file(tensors, path, {"config": json.dumps({"num_heads": 3})})
    return path


class Hostile:
    """Pickles to a call that leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_hostile_pickle_does_not_run(tmp_path: Path, zipped: bool) -> None:
    content = {"generator_ema": {**tiny96(), "x": Hostile(tmp_path / "mark")}}
    torch.save(content, tmp_path / "evil.pt", _use_new_zipfile_serialization=zipped)

    message = refused(tmp_path / "evil.pt")

    assert not (tmp_path / "mark").exists()
    assert "evil.pt holds more than tensors" in message
    assert "mkdir" in message


def test_a_plain_pickle_does_not_run(tmp_path: Path) -> None:
    (tmp_path / "evil.bin").write_bytes(pickle.dumps(Hostile(tmp_path / "mark")))

    message = refused(tmp_path / "evil.bin")

    assert not (tmp_path / "mark").exists()
    assert "evil.bin" in message


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(min_size=1, max_size=300), suffix=st.sampled_from([".pt", ".safetensors"]))
def test_arbitrary_bytes_are_refused(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"noise{suffix}"
    path.write_bytes(content)

    assert f"noise{suffix}" in refused(path)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 2000), value=st.integers(0, 255))
def test_a_damaged_pickle_is_refused_or_opens(tmp_path: Path, position: int, value: int) -> None:
    path = tmp_path / "damaged.pt"
    torch.save({"a": torch.ones(3), "b": [1, "x", None]}, path, _use_new_zipfile_serialization=False)
    content = bytearray(path.read_bytes())
    content[position % len(content)] = value
    path.write_bytes(bytes(content))

    with contextlib.suppress(CheckpointError):  # no other error may come out
        read_checkpoint(path)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_or_empty_file_is_refused(tmp_path: Path, suffix: str, kept: float) -> None:
    path = tmp_path / f"model{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(tiny96(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])

    message = refused(path)

    assert "download or copy it again" in message or "holds more than tensors" in message
    assert ("is empty" in message) == (kept == 0)


def test_a_path_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "nowhere.pt does not exist" in refused(tmp_path / "nowhere.pt")


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("nothing here")

    assert "holds no checkpoint" in refused(tmp_path)


def test_a_folder_with_several_checkpoints_asks_for_one(tmp_path: Path) -> None:
    for name in ("a.safetensors", "b.safetensors"):
        save_file(tiny96(), tmp_path / name)

    assert "several checkpoints (a.safetensors, b.safetensors); name one file" in refused(tmp_path)


def test_an_unknown_file_type_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"x")

    assert "no known checkpoint type" in refused(tmp_path / "model.onnx")


@pytest.mark.parametrize("content", [[1, 2], {"generator": [1]}, {"step": 3}, {}, torch.ones(3)], ids=repr)
def test_a_pickle_without_a_state_dict_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "model.pt")

    message = refused(tmp_path / "model.pt")

    assert "instead of a state dict" in message or "holds no tensor" in message


def changed(name: str, change: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    tensors = tiny96()
    return {**tensors, name: change(tensors[name])}


def poisoned(tensor: Tensor, value: float) -> Tensor:
    copy = tensor.clone()
    copy.view(-1)[-1] = value
    return copy


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    path = write(tmp_path / "model.safetensors", changed(NAME, lambda tensor: poisoned(tensor, value)))

    assert f"NaN or infinite values in {NAME}" in refused(path)


def test_weights_that_overflow_in_the_wanted_dtype_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "model.safetensors", changed(NAME, lambda tensor: poisoned(tensor.float(), 1e6)))

    load_student(path)
    assert NAME in refused(path, dtype=torch.float16)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_weights_of_another_kind_are_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    torch.save(changed(NAME, lambda tensor: tensor.to(dtype)), tmp_path / "model.pt")

    message = refused(tmp_path / "model.pt")

    assert f"{NAME} has dtype {str(dtype).removeprefix('torch.')}" in message


STRANGE: dict[str, Callable[[Tensor], Tensor]] = {
    "is not a plain dense tensor": lambda tensor: tensor.to_sparse(),
    "not a plain dense": lambda tensor: tensor.to("meta"),
    "but holds fewer values": lambda tensor: torch.zeros(1).expand(10**6, 10**6),
}


@pytest.mark.parametrize("message", STRANGE)
def test_tensors_that_only_look_like_weights_are_refused(tmp_path: Path, message: str) -> None:
    torch.save(changed(NAME, STRANGE[message]), tmp_path / "model.pt")

    assert message in refused(tmp_path / "model.pt")


def test_a_shape_that_does_not_fit_its_layer_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "model.safetensors", changed(NAME, lambda tensor: tensor[:-1].contiguous()))

    assert f"{NAME} [255, 96] (expected [256, 96])" in refused(path)


def test_missing_weights_are_listed_by_name_and_counted(tmp_path: Path) -> None:
    tensors = {name: tensor for name, tensor in tiny96().items() if ".cross_attn." not in name}
    path = write(tmp_path / "model.safetensors", tensors)

    message = refused(path)

    assert "missing blocks.0.cross_attn.q.weight, blocks.0.cross_attn.q.bias" in message
    assert "(30 in all)" in message


def test_a_missing_block_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "m.safetensors", {n: t for n, t in tiny96().items() if not n.startswith("blocks.1.")})

    assert "lacks the blocks 1" in refused(path)


def test_another_model_is_refused(tmp_path: Path) -> None:
    save_file({"conv.weight": torch.ones(3)}, tmp_path / "other.safetensors")

    assert "no checkpoint of a Wan student; it holds conv.weight" in refused(tmp_path / "other.safetensors")


def test_two_names_for_one_weight_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "model.safetensors", {**tiny96(), f"model.{NAME}": tiny96()[NAME]})

    assert f"both mean {NAME}" in refused(path)


def test_a_preset_of_other_sizes_says_which(tmp_path: Path) -> None:
    message = refused(TINY96, preset="wan2.1-1.3b")

    assert "no wan2.1-1.3b: dim 96 (wanted 1536), ffn_dim 256 (wanted 8960), layers 3 (wanted 30)" in message


def test_an_unknown_number_of_heads_is_assumed_aloud_or_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_file(tiny96(), tmp_path / "model.safetensors")
    assert load_student(tmp_path / "model.safetensors").config.model.heads == 3
    assert "nothing tells the number of heads: taking 3 of 32" in caplog.text

    sizes = dataclasses.replace(Sizes.of_model(tiny96_config().model), dim=88, heads=None)
    with pytest.raises(CheckpointError, match="number of heads is unknown"):
        stream_config(sizes, {}, None)


@pytest.mark.parametrize("heads", [5, 0, -3, "3", [3], 96])
def test_numbers_of_heads_that_cannot_be_are_refused(tmp_path: Path, heads: object) -> None:
    save_file(tiny96(), tmp_path / "model.safetensors", {"config": json.dumps({"num_heads": heads})})

    refused(tmp_path / "model.safetensors")


def test_an_unknown_channel_layout_asks_for_settings() -> None:
    sizes = dataclasses.replace(Sizes.of_model(tiny96_config().model), in_channels=33)

    with pytest.raises(CheckpointError, match="33 input channels with 16 latent channels are no known layout"):
        stream_config(sizes, {}, None)


@pytest.mark.parametrize("text", ["{", "[1]", '{"weight_map": {}}', '{"weight_map": 3}', "\udc80", "[" * 100_000])
def test_a_broken_index_is_refused(tmp_path: Path, text: str) -> None:
    index = write_shards(tmp_path, tiny96())
    index.write_bytes(text.encode(errors="surrogateescape"))

    assert "index.json" in refused(index)


@pytest.mark.parametrize("name", ["../evil.safetensors", "/etc/evil.safetensors", "a/b.safetensors", "c:\\x", 7, None])
def test_an_index_must_not_leave_its_folder(tmp_path: Path, name: object) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({NAME: tiny96()[NAME]}, tmp_path / "evil.safetensors")
    index = write_shards(folder, tiny96())
    listing = json.loads(index.read_text())
    index.write_text(json.dumps({"weight_map": {**listing["weight_map"], NAME: name}}))

    assert "expected a .safetensors file name inside" in refused(folder)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    index = write_shards(tmp_path, tiny96())
    (tmp_path / "diffusion_pytorch_model-00002-of-00003.safetensors").unlink()

    assert "not there: diffusion_pytorch_model-00002-of-00003.safetensors" in refused(index)


def test_a_tensor_that_no_shard_holds_is_named(tmp_path: Path) -> None:
    index = write_shards(tmp_path, tiny96())
    shard = tmp_path / "diffusion_pytorch_model-00001-of-00003.safetensors"
    tensors = load_file(shard)
    lost = sorted(tensors)[0]
    save_file({name: tensor for name, tensor in tensors.items() if name != lost}, shard)

    assert f"no shard holds: {lost}" in refused(index)


def own(folder: Path, **metadata: str) -> Path:
    path = folder / "student.safetensors"
    tensors = {f"transformer.{n}": t for n, t in random_student(TRACKED).transformer.state_dict().items()}
    save_file(tensors, path, {"format": checkpoint.FORMAT, "config": json.dumps(TRACKED.to_dict()), **metadata})
    return path


def test_a_newer_version_of_our_format_is_refused(tmp_path: Path) -> None:
    assert "this version reads ms_infer.student/1" in refused(own(tmp_path, format="ms_infer.student/2"))


def settings_with(**changes: object) -> str:
    values = TRACKED.to_dict()
    return json.dumps({**values, "model": {**values["model"], **changes}})


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "nonsense",
        '{"model": 3}',
        settings_with(layers=10**9),
        settings_with(heads=0),
        settings_with(layout=5),
        settings_with(track_head={"channels": 4, "id_dim": 8, "id_range": 10**13}),
        settings_with(vae={**TRACKED.to_dict()["model"]["vae"], "blocks": 10**9}),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path: Path, text: str) -> None:
    refused(own(tmp_path, config=text))


def test_our_format_without_a_transformer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "student.safetensors"
    save_file({"vae.x": torch.ones(1)}, path, {"format": checkpoint.FORMAT, "config": json.dumps(TRACKED.to_dict())})

    refused(path)


def test_a_preset_that_contradicts_a_file_of_ours_is_refused(tmp_path: Path) -> None:
    wanted = config.preset("demo").model.dim
    assert f"no demo: dim 32 (wanted {wanted})" in refused(own(tmp_path), preset="demo")


def test_a_write_that_fails_leaves_the_older_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "student.safetensors"
    save_student(random_student(TRACKED), path)
    before = path.read_bytes()

    def full_disk(tensors: object, file: Path, metadata: object) -> None:
        file.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full_disk)
    with pytest.raises(CheckpointError, match="No space left"):
        save_student(random_student(TRACKED, seed=1), path)

    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    student = random_student(TRACKED)
    student.transformer.head.head.bias.fill_(float("nan"))

    with pytest.raises(CheckpointError, match=r"transformer\.head\.head\.bias"):
        save_student(student, tmp_path / "student.safetensors")

    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["student.pt", "nowhere/student.safetensors"])
def test_a_path_that_cannot_hold_a_student_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match="student"):
        save_student(random_student(TRACKED), tmp_path / name)
