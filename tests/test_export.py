"""`ms-export`: plans, resuming, errors; the numbers of its bundles are tested in tests/engines."""

from __future__ import annotations

import errno
import json
import logging
import os
import resource
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from ms_export import cli, plan, verify, weights
from ms_export import exporter as bundle
from ms_export.exporter import checkpoint_digest, export_bundle
from ms_export.motion_error import track_errors
from ms_export.options import ExportOptions, parse_context, parse_size
from ms_export.stimulus import example_player
from ms_export.store import PROGRESS, Store
from ms_export.weights import ALIGNMENT, WeightTable, write_weights

from ms_infer import BundleError, CheckpointError, ConfigError, ContextConfig, MissingExtraError
from ms_infer.bundle.digests import file_digest
from ms_infer.bundle.manifest import load_manifest
from ms_infer.bundle.stages import TensorSpec, contiguous_writes, stage_specs
from ms_infer.checkpoint import Student, load_student, save_student
from ms_infer.config import PRESETS, RefinerConfig, StreamConfig, preset
from ms_infer.demo import default_example
from ms_infer.tracks import Tracks
from ms_infer.tracks.player import TrackPlayer
from tests.tiny import tiny_config, tiny_student, without_tracks


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MS_INFER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def student() -> Student:
    """The smallest student: two latent-frame sizes, no tracks."""
    context = ContextConfig(chunk_frames=1, sink_frames=1, window_frames=1)
    return without_tracks(layers=1, image_input="slot", context=context)


@pytest.fixture(scope="module")
def exported(student: Student, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its ONNX graphs."""
    folder = tmp_path_factory.mktemp("exported")
    export_bundle(student, "d" * 64, folder, ExportOptions(targets=("onnx",)))
    return folder


@pytest.fixture
def copied(exported: Path, tmp_path: Path) -> Path:
    shutil.copytree(exported, tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_student(tiny_student(), tmp_path / "tiny.safetensors")
    return tmp_path / "tiny.safetensors"


def again(student: Student, folder: Path, **options: Any) -> bundle.Result:
    return export_bundle(student, "d" * 64, folder, ExportOptions(targets=("onnx",), **options))


# Graphs


def test_weights_are_written_once_and_shared_by_all_graphs(exported: Path, student: Student) -> None:
    graphs = sorted((exported / "onnx" / "fp32").glob("*.onnx"))
    named: set[str] = set()
    for path in graphs:
        for tensor in onnx.load(path, load_external_data=False).graph.initializer:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            if entries:
                assert entries["location"] == weights.WEIGHTS
                assert int(entries["offset"]) % ALIGNMENT == 0
                named.add(tensor.name)
            else:
                assert len(tensor.raw_data) <= 16 << 10, f"{path.name} carries {tensor.name} itself"
    table = WeightTable.of(student, torch.float32)
    matrices = {name for name, region in table.regions.items() if len(region.shape) > 1}  # equal vectors are merged
    assert {name for name in matrices if name.startswith(("transformer.", "text_encoder."))} <= named
    assert (exported / "onnx" / "fp32" / weights.WEIGHTS).stat().st_size == table.nbytes


def test_graphs_are_valid_and_tell_nothing_of_the_machine(exported: Path) -> None:
    for path in (exported / "onnx" / "fp32").glob("*.onnx"):
        onnx.checker.check_model(str(path), full_check=True)
        assert str(Path.cwd()).encode() not in path.read_bytes()
        assert b"site-packages" not in path.read_bytes()


def test_the_attention_node_stands_with_its_fallback(exported: Path) -> None:
    model = onnx.load(exported / "onnx" / "fp32" / "denoise.onnx", load_external_data=False)
    kinds = [(node.domain, node.op_type) for node in model.graph.node]
    assert kinds.count(("ms_infer", "SinkWindowAttention")) == 1
    assert kinds.count(("", "TensorScatter")) == 3  # keys, values and the un-rotated keys of the sink
    assert [function.name for function in model.functions] == ["SinkWindowAttention"]


def test_each_cache_is_written_once_where_chunks_fit(exported: Path) -> None:
    model = onnx.load(exported / "onnx" / "fp32" / "denoise.onnx", load_external_data=False)
    inputs, outputs = ({v.name for v in side} for side in (model.graph.input, model.graph.output))
    for node in model.graph.node:
        if node.op_type == "TensorScatter":  # what TensorRT's in-place update asks for
            assert node.input[0] in inputs
            assert node.output[0] in outputs


@pytest.mark.parametrize("name", PRESETS)
def test_specs_of_every_preset_name_each_tensor_once(name: str) -> None:
    for spec in stage_specs(preset(name)).values():
        names = [t.name for t in (*spec.inputs, *spec.outputs)]
        assert len(set(names)) == len(names)
        assert {n for pair in (*spec.aliases, *spec.states) for n in pair} <= set(names)


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        (ContextConfig(), True),
        (ContextConfig(sink_frames=0, window_frames=18), True),
        (ContextConfig(sink_frames=1, window_frames=3, first_chunk_frames=1), True),
        (ContextConfig(sink_frames=1, window_frames=2, first_chunk_frames=1), False),
        (ContextConfig(sink_frames=1, window_frames=3), False),
    ],
)
def test_contiguous_writes(context: ContextConfig, expected: bool) -> None:
    assert contiguous_writes(tiny_config(context=context)) is expected


def test_a_given_latent_frame_shifts_the_chunks(student: Student) -> None:
    config = tiny_config(context=ContextConfig(sink_frames=0, window_frames=3))
    assert contiguous_writes(config)
    assert not contiguous_writes(config, given=1)


# Resuming


def test_unchanged_inputs_are_up_to_date(copied: Path, student: Student) -> None:
    before = {path: path.stat().st_mtime_ns for path in copied.rglob("*")}
    assert again(student, copied).made == ()
    assert {path: path.stat().st_mtime_ns for path in copied.rglob("*")} == before


def test_another_checkpoint_makes_the_bundle_again(copied: Path, student: Student) -> None:
    old = load_manifest(copied).key
    made = export_bundle(student, "e" * 64, copied, ExportOptions(targets=("onnx",))).made
    assert len(made) == len(load_manifest(copied).files)
    assert load_manifest(copied).key != old


def test_finished_files_survive_an_interruption(
    student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "bundle"

    def interrupted(self: Store, name: str, digest: str | None = None) -> None:
        keep(self, name, digest)
        if name.endswith("condition.onnx"):
            raise KeyboardInterrupt

    keep = Store.keep
    monkeypatch.setattr(Store, "keep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        again(student, folder)
    assert not (folder / "manifest.json").exists()
    monkeypatch.setattr(Store, "keep", keep)
    made = again(student, folder).made
    assert "onnx/fp32/weights.bin" not in made
    assert "onnx/fp32/condition.onnx" not in made
    assert "onnx/fp32/denoise.onnx" in made
    load_manifest(folder).verify()


def test_a_half_written_file_is_never_taken_for_a_whole_one(
    copied: Path, student: Student, monkeypatch: pytest.MonkeyPatch
) -> None:
    (copied / "manifest.json").rename(copied / PROGRESS)  # as an interrupted run leaves it
    graph = copied / "onnx" / "fp32" / "decode.onnx"
    graph.write_bytes(graph.read_bytes()[:-10])
    assert again(student, copied).made == ("onnx/fp32/decode.onnx",)
    load_manifest(copied).verify()


def test_a_failed_write_leaves_no_file(student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fails)
    table = WeightTable.of(student, torch.float32)
    with pytest.raises(BundleError, match=r"cannot write .*No space left on device; it needs 0 MiB"):
        write_weights(student, table, tmp_path / "weights.bin")
    assert list(tmp_path.iterdir()) == []


def test_weights_are_those_of_the_student(student: Student, tmp_path: Path) -> None:
    table = WeightTable.of(student, torch.bfloat16)
    digest = write_weights(student, table, tmp_path / "weights.bin")
    content = (tmp_path / "weights.bin").read_bytes()
    assert digest == file_digest(tmp_path / "weights.bin")
    for name, tensor in weights.named_tensors(student):
        region = table.regions[name]
        stored = torch.frombuffer(bytearray(content[region.offset :][: region.nbytes]), dtype=torch.bfloat16)
        assert torch.equal(stored.view(tensor.shape), tensor.bfloat16()), name


def test_progress_names_each_file_and_how_much_of_the_weights_is_written(
    student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(weights, "SECONDS_BETWEEN_LINES", -1.0)
    with caplog.at_level(logging.INFO, logger="ms_export"):
        again(student, tmp_path)
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == "onnx/fp32/weights.bin (1 of 1) ..."
    assert said[1] == "  weights.bin  0 of 0 MiB"
    assert "onnx/fp32/decode.onnx (6 of 6) ..." in said
    assert any(line.startswith("onnx/fp32/decode.onnx  ") and line.endswith(" s") for line in said)


def test_inputs_of_a_trace_take_no_memory() -> None:
    """The caches of the 1.3B model are 12 GB: nobody writes to the examples that stand for them."""
    from ms_export.trace import example_of

    spec = TensorSpec("k_cache_0", (1, 1, 1 << 18, 256))
    before = resident_bytes()
    example = example_of(spec)
    assert example.shape == spec.shape
    assert resident_bytes() - before < example.nbytes / 4


def test_weights_can_be_let_go_and_read_again(tmp_path: Path) -> None:
    save_student(tiny_student(dim=768, heads=12, ffn_dim=3072, layers=3), tmp_path / "student.safetensors")
    student = load_student(tmp_path / "student.safetensors")  # 0.1 GB, which loading has looked at
    size = sum(tensor.nbytes for _, tensor in weights.named_tensors(student))
    digest, before = checkpoint_digest(student), resident_bytes()
    weights.release_pages(student)
    if sys.platform == "linux":
        assert before - resident_bytes() > size / 2
    assert checkpoint_digest(student) == digest


def test_letting_go_keeps_weights_that_are_in_no_file(student: Student) -> None:
    digest = checkpoint_digest(student)
    weights.release_pages(student)
    assert checkpoint_digest(student) == digest


def resident_bytes() -> int:
    """Memory of this process that is in use now; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return 0


# Errors


def test_no_disk_space_is_said_before_anything_is_written(
    student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1 << 20))
    with pytest.raises(BundleError, match=r"needs \d+ MiB more in .*free are 1 MiB"):
        again(student, tmp_path / "bundle")
    assert list((tmp_path / "bundle").iterdir()) == []


@pytest.mark.parametrize(("target", "extra"), [("cpu", "cpu"), ("rtx", "rtx"), ("trt", "trt"), ("onnx", "export")])
def test_a_missing_extra_is_named(
    student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, extra: str
) -> None:
    absent = {"cpu": "openvino", "rtx": "tensorrt_rtx", "trt": "tensorrt", "onnx": "onnx"}[target]
    monkeypatch.setattr(plan, "find_spec", lambda name: None if name == absent else find_spec("json"))
    with pytest.raises(MissingExtraError, match=rf"{absent}: pip install -e '.\[{extra}\]' in the repository"):
        export_bundle(student, "d" * 64, tmp_path, ExportOptions(targets=(target,)))  # type: ignore[arg-type]


def test_a_checkpoint_without_an_autoencoder_is_refused(student: Student, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no autoencoder; give one with --vae"):
        again(replace(student, vae=None), tmp_path)


def test_a_checkpoint_without_its_track_head_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has no track head, which tiny needs"):
        again(replace(tiny_student(), track_head=None), tmp_path)


def test_a_checkpoint_without_its_refiner_is_refused(tmp_path: Path) -> None:
    student = tiny_student(refiner=RefinerConfig(widths=(8, 8, 8)))
    with pytest.raises(CheckpointError, match="has no refiner, which tiny needs"):
        again(replace(student, refiner=None), tmp_path)


def test_writes_per_chunk_need_a_context_that_fits(tmp_path: Path) -> None:
    context = ContextConfig(sink_frames=1, window_frames=2, first_chunk_frames=1)
    with pytest.raises(ConfigError, match="or --writes frame"):
        again(without_tracks(context=context, image_input="slot"), tmp_path, writes="chunk")


@pytest.mark.parametrize("text", ["480", "x832", "480x", "axb", "480*832", "-16x32"])
def test_a_size_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not HEIGHTxWIDTH"):
        parse_size(text)


@pytest.mark.parametrize("text", ["3s3w3", "c", "c3q1", "c3c3", "c3 s3", "cs3"])
def test_a_context_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not like c3s3w3"):
        parse_context(text, ContextConfig())


def test_a_context_keeps_what_it_does_not_name() -> None:
    base = ContextConfig(rope="absolute", window_frames=12)
    assert parse_context("c4s0", base) == replace(base, chunk_frames=4, sink_frames=0)


# Command line


def code(*args: str | Path) -> int:
    return cli.main([str(arg) for arg in args])


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--preset", "wan9"), "unknown preset 'wan9'; known: wan2.1-1.3b"),
        (("--preset", "wan2.1-1.3b"), "dim 24 (wanted 1536)"),
        (("--size", "33x32"), "multiples of 16"),
        (("--size", "big"), "is not HEIGHTxWIDTH"),
        (("--context", "c0"), "chunk_frames must be at least 1"),
    ],
)
def test_wrong_wishes_are_one_line_and_code_1(
    file: Path, capsys: pytest.CaptureFixture[str], args: tuple[str, ...], words: str
) -> None:
    assert code(file, "--dry-run", *args) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("ms-export: failed: ")
    assert words in error


def test_missing_keys_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors.torch import load_file, save_file

    save_student(tiny_student(), tmp_path / "tiny.safetensors")
    tensors = load_file(tmp_path / "tiny.safetensors")
    metadata = {"format": "ms_infer.student/1", "config": json.dumps(tiny_config().to_dict())}
    del tensors["transformer.blocks.1.ffn.2.bias"]
    save_file(tensors, tmp_path / "broken.safetensors", metadata)
    assert code(tmp_path / "broken.safetensors", "--dry-run") == 1
    assert "blocks.1.ffn.2.bias" in capsys.readouterr().err


def test_an_absent_checkpoint_is_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert code(tmp_path / "none.pt") == 1
    assert "does not exist" in capsys.readouterr().err


def test_a_missing_extra_is_code_3(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plan, "find_spec", lambda name: None)
    assert code(file, "-o", tmp_path / "out") == 3
    assert "pip install -e '.[export]'" in capsys.readouterr().err


def test_bad_usage_is_code_2() -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["x.pt", "--target", "gpu"])
    assert stopped.value.code == 2


def test_a_dry_run_lists_stages_and_makes_nothing(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plan, "find_spec", lambda name: None)  # no engine library is needed
    assert code(file, "--dry-run", "--json", "--target", "cpu", "rtx", "--size", "48x64", "-o", tmp_path / "b") == 0
    described = json.loads(capsys.readouterr().out)
    assert described["size"] == [48, 64]
    assert described["graphs"] == ["fp32", "bf16"]
    assert list(described["stages"])[-2:] == ["decode_first", "decode"]
    assert described["stages"]["decode"]["outputs"]["frames"] == "uint8 [12, 48, 64, 3]"
    assert described["bytes"]["caches fp32"] == 2 * described["bytes"]["caches bf16"]
    assert not (tmp_path / "b").exists()


def test_a_dry_run_in_words(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert code(file, "--dry-run") == 0
    words = capsys.readouterr().out
    assert "tiny from ms_infer.student/1" in words
    assert "32x32; latent frames: chunk 3, sink 3, window 3; relative positions" in words


def test_a_bundle_is_listed(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert code(copied, "--list") == 0
    assert "onnx/fp32/denoise.onnx" in capsys.readouterr().out
    assert code(copied, "--list", "--json") == 0
    assert json.loads(capsys.readouterr().out)["format"] == 2


def test_listing_needs_a_folder(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert code(file, "--list") == 1
    assert "--list takes a bundle" in capsys.readouterr().err


def test_the_last_line_says_what_was_made(
    copied: Path,
    student: Student,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    save_student(student, tmp_path / "student.safetensors")
    monkeypatch.setattr(bundle, "checkpoint_digest", lambda *_: "d" * 64)
    logging.getLogger("ms_export").setLevel(logging.NOTSET)
    assert code(tmp_path / "student.safetensors", "-o", copied, "--target", "onnx") == 0
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith(f"ms-export: up to date → {copied} (6 graphs, 0 engine stages, ")


def test_a_failed_verification_is_code_1(
    copied: Path,
    student: Student,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    save_student(student, tmp_path / "student.safetensors")
    monkeypatch.setattr(bundle, "checkpoint_digest", lambda *_: "d" * 64)
    monkeypatch.setattr(verify, "STAGE_LIMITS", {"fp32": -1.0})
    arguments = (tmp_path / "student.safetensors", "-o", copied, "--target", "onnx", "--verify", "--json")
    assert code(*arguments) == 1
    printed = capsys.readouterr()
    assert "verification failed: text, condition" in printed.err
    assert any(not check["passed"] for check in json.loads(printed.out)["checks"])


def test_a_verification_passes(
    copied: Path, student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_student(student, tmp_path / "student.safetensors")
    monkeypatch.setattr(bundle, "checkpoint_digest", lambda *_: "d" * 64)
    assert code(tmp_path / "student.safetensors", "-o", copied, "--target", "onnx", "--verify", "--json") == 0
    checks = json.loads(capsys.readouterr().out)["checks"]
    assert {check["name"] for check in checks} >= {"condition", "roll", "denoise", "decode_first", "decode", "6 chunks"}
    assert all(check["passed"] for check in checks)


# Rollouts


@pytest.fixture(scope="module")
def drawn() -> verify.Frames:
    """24 frames of a smooth picture whose left half moves a pixel a frame to the right."""
    rows, columns = np.mgrid[0:64, 0:160] / 8
    wide = np.stack([127 + 60 * np.sin(rows * (1 + c) + columns * 2) * np.cos(columns * (3 - c)) for c in range(3)], -1)
    return np.stack([wide[:, 64 - t : 128 - t] for t in range(24)]).astype(np.uint8)


def player_of(shift: float) -> TrackPlayer:
    """A grid of 4 x 4 points that moves `shift` pixels to the right in 24 frames."""
    path = Tracks.grid(4, 4, size=(64, 64)).points + np.linspace(0, [shift, 0], 24)[None]
    player = TrackPlayer(64, 64, 16.0, 20)
    player.set(Tracks(path, size=(64, 64)), 0)
    return player


def test_end_point_errors_are_distances_to_the_tracks(drawn: verify.Frames) -> None:
    pytest.importorskip("cv2", reason="needs the extra [video]")
    followed, halfway = (track_errors([drawn, drawn], player_of(shift), 4, 4) for shift in (23.0, 11.5))
    assert followed[0] == followed[1] < 1
    assert halfway[0] == pytest.approx(6, abs=1), "the mean of 0.5 to 11.5"


def test_frames_that_move_otherwise_have_another_error(drawn: verify.Frames) -> None:
    pytest.importorskip("cv2", reason="needs the extra [video]")
    still = np.repeat(drawn[:1], 24, axis=0)
    moving, resting = track_errors([drawn, still], player_of(23.0), 4, 4)
    assert moving < 1
    assert resting > 5


def played(config: StreamConfig) -> Any:
    """Stands for an engine whose frames are prepared."""
    return SimpleNamespace(name="played", precision="fp32", config=config)


def judged(monkeypatch: pytest.MonkeyPatch, ours: float, theirs: float) -> verify.Check:
    frames = [np.zeros((9, 32, 32, 3), np.uint8), np.zeros((12, 32, 32, 3), np.uint8)]
    monkeypatch.setattr(verify, "rollout", lambda engine, chunks: iter(frames[:chunks]))
    monkeypatch.setattr(verify, "track_errors", lambda *_: [ours, theirs])
    return verify.check_rollout(played(tiny_config()), frames)


def test_a_rollout_must_follow_the_tracks_as_pytorch_does(monkeypatch: pytest.MonkeyPatch) -> None:
    assert judged(monkeypatch, 1.09, 1.0).passed
    assert not judged(monkeypatch, 1.11, 1.0).passed
    assert not judged(monkeypatch, 0.89, 1.0).passed
    check = judged(monkeypatch, 0.5, 0.52)
    assert (check.name, check.track_error, check.torch_track_error) == ("2 free", 0.5, 0.52)
    assert "0.500 (0.520)" in verify.format_checks([check])


def test_without_opencv_a_rollout_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    frames = [np.zeros((9, 32, 32, 3), np.uint8)]
    monkeypatch.setattr(verify, "rollout", lambda engine, chunks: iter(frames))
    check = verify.check_rollout(played(tiny_config()), frames)
    assert (check.passed, check.track_error, check.note) == (True, None, "no OpenCV")
    assert "no OpenCV" in verify.format_checks([check])


def test_the_example_is_the_demo_s_own(student: Student) -> None:
    shown = default_example()
    player = example_player(preset("demo"))
    assert player is not None
    moved = player.chunk(0, 48)
    path = np.linalg.norm(moved.points[:144, -1] - moved.points[:144, 0], axis=-1)
    assert shown.image.is_file()
    assert path.max() > 10
    assert np.median(path) == 0, "the background rests"
    assert example_player(student.config) is None


@pytest.mark.parametrize("module", ["ms_export.cli", "ms_infer.engines.openvino", "ms_infer.bundle.manifest"])
def test_what_starts_fast_does_not_import_torch(module: str) -> None:
    script = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_help_does_not_import_torch() -> None:
    script = (
        "import sys\nfrom ms_export.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n"
        "    sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "--dry-run" in done.stdout


def test_the_digest_of_a_checkpoint_follows_its_content(student: Student, tmp_path: Path) -> None:
    save_student(student, tmp_path / "a.safetensors")
    other = Student(student.config, tiny_student(seed=1).transformer)
    assert checkpoint_digest(load_student(tmp_path / "a.safetensors")) == file_digest(tmp_path / "a.safetensors")
    assert checkpoint_digest(student) != checkpoint_digest(other)


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
