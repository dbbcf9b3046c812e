"""The manifest: round trip, and everything it must refuse."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest

from ms_infer import BundleError, ConfigError
from ms_infer.bundle import manifest
from ms_infer.bundle.digests import file_digest
from ms_infer.bundle.manifest import EngineSpec, FileSpec, Manifest, load_manifest
from ms_infer.bundle.stages import stage_specs
from ms_infer.config import preset
from ms_infer.engines.host import HostArrays
from ms_infer.engines.runner import cache_specs, named
from ms_infer.environment import cache_folder
from tests.public_checkpoints import hub_cache
from tests.tiny import tiny_config

Values = dict[str, Any]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MS_INFER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle whose files are made up."""
    folder = tmp_path / "bundle"
    (folder / "onnx").mkdir(parents=True)
    (folder / "onnx" / "denoise.onnx").write_bytes(b"graph")
    (folder / "onnx" / "weights.bin").write_bytes(bytes(1000))
    files = {
        name: FileSpec((folder / name).stat().st_size, file_digest(folder / name))
        for name in ("onnx/denoise.onnx", "onnx/weights.bin")
    }
    Manifest(
        config=tiny_config(),
        writes="chunk",
        checkpoint={"name": "tiny", "format": "memory", "sha256": "0" * 64},
        key="1" * 64,
        stages={"fp32": stage_specs(tiny_config())},
        graphs={"fp32": {"denoise": "onnx/denoise.onnx"}},
        engines={"x": EngineSpec("openvino", "cpu", "2026.4", "fp32", {"denoise": "onnx/denoise.onnx"})},
        files=files,
        steps=({"timestep": 1000.0, "sigma": 1.0, "next_sigma": 0.0},),
        folder=folder,
    ).save(folder)
    return folder


def edit(folder: Path, **changes: Any) -> None:
    """Change top-level entries of a manifest."""
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def values(folder: Path) -> Values:
    loaded: Values = json.loads((folder / "manifest.json").read_text())
    return loaded


def test_what_was_saved_is_loaded(folder: Path) -> None:
    loaded = load_manifest(folder)
    assert loaded.config == tiny_config()
    assert loaded.stages["fp32"] == stage_specs(tiny_config())
    assert loaded.engines["x"].stages == {"denoise": "onnx/denoise.onnx"}
    assert loaded.path("onnx/denoise.onnx").read_bytes() == b"graph"
    assert values(folder)["sizes"]["cache_tokens"] == tiny_config().cache_tokens
    loaded.verify()


def test_a_newer_format_is_refused(folder: Path) -> None:
    edit(folder, format=manifest.FORMAT + 1)
    with pytest.raises(BundleError, match=r"format 5, this ms-infer reads 4; update ms-infer"):
        load_manifest(folder)


def test_an_older_format_is_refused_with_what_to_run(folder: Path) -> None:
    edit(folder, format=1)
    with pytest.raises(BundleError, match=r"older format 1, this ms-infer reads 4; run the same ms-export"):
        load_manifest(folder)


def edit_tensor(folder: Path, stage: str, name: str, **changes: Any) -> None:
    """Change entries of one tensor; None removes an entry."""
    stages = values(folder)["stages"]
    tensors = stages["fp32"][stage]["inputs"] + stages["fp32"][stage]["outputs"]
    tensor = next(t for t in tensors if t["name"] == name)
    tensor |= changes
    for key in [key for key, value in changes.items() if value is None]:
        del tensor[key]
    edit(folder, stages=stages)


def test_every_tensor_has_a_role_and_its_bytes(folder: Path) -> None:
    stages = load_manifest(folder).stages["fp32"]
    roles = {f"{stage}.{t.name}": t.role for stage, spec in stages.items() for t in spec.tensors}
    expected = {
        "text.words": "host",
        "condition.cross_k_0": "device",
        "points.points": "host",
        "compose.image": "device",
        "tracks.encoder_0_out": "state",
        "denoise.x": "host",
        "denoise.image": "host",
        "denoise.track": "device",
        "denoise.sigma": "pass",
        "denoise.k_cache_0": "cache",
        "roll.sink_k_0": "cache",
        "denoise.x_next": "device",
        "decode.decoder_0": "state",
        "decode.frames": "host",
    }
    assert {name: roles[name] for name in expected} == expected
    tensor = next(t for t in stages["decode"].tensors if t.name == "frames")
    assert tensor.nbytes == 12 * 32 * 32 * 3


def test_what_a_further_stream_of_the_demo_holds_is_at_most_45_mb() -> None:
    """Its arrays, the rows of caches that a request of OpenVINO's returns, and the frames that C++ keeps by default."""
    specs = stage_specs(preset("demo"))
    arrays = HostArrays(specs)
    for stage, spec in specs.items():
        written = [tensor for tensor in spec.outputs if tensor.role != "cache"]
        for tensor, side in itertools.product((*spec.inputs, *written), (0, 1)):
            arrays.of(stage, tensor, side)
    own = sum(array.nbytes for array in arrays._arrays.values())
    tokens = preset("demo").chunk_tokens
    rows = sum(spec.nbytes * tokens // spec.shape[2] for spec in cache_specs(specs))
    kept_chunks = 3 * named(specs["decode"], "frames").nbytes
    assert own + rows + kept_chunks <= 45e6, (own, rows, kept_chunks)
    frames = [arrays.named(stage, "frames", side) for stage in ("decode_first", "decode") for side in (0, 1)]
    assert len({one.ctypes.data for one in frames}) == 1
    opening, later = (arrays.named(stage, "moved") for stage in ("compose_first", "compose"))
    assert opening.size < later.size
    assert opening.ctypes.data == later.ctypes.data


@pytest.mark.parametrize(
    ("tensor", "role", "words"),
    [
        ("sigma", "pas", r"the role 'pas'; known: host, pass"),
        ("sigma", None, r"damaged \(KeyError: 'role'\)"),
        ("k_cache_0", "state", r"pairs k_cache_0 \(state\) and k_cache_0_out \(cache\)"),
    ],
)
def test_roles_that_cannot_be_are_refused(folder: Path, tensor: str, role: str | None, words: str) -> None:
    edit_tensor(folder, "denoise", tensor, role=role)
    with pytest.raises(BundleError, match=words):
        load_manifest(folder)


@pytest.mark.parametrize("found", [None, "1", True, 1.5])
def test_a_format_that_is_no_number_is_no_bundle(folder: Path, found: object) -> None:
    edit(folder, format=found)
    with pytest.raises(BundleError, match="this is no bundle"):
        load_manifest(folder)


def test_a_file_of_another_size_is_refused(folder: Path) -> None:
    with open(folder / "onnx" / "weights.bin", "ab") as file:
        file.write(b"x")
    with pytest.raises(BundleError, match=r"weights.bin has 1001 bytes, the manifest says 1000"):
        load_manifest(folder)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "onnx" / "weights.bin").unlink()
    with pytest.raises(BundleError, match=r"weights.bin is missing"):
        load_manifest(folder)


def tamper(path: Path) -> None:
    """Change one byte and put the old times back."""
    times = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize("hashed_before", [False, True])
def test_a_tampered_file_is_refused_even_with_its_old_times(folder: Path, hashed_before: bool) -> None:
    loaded = load_manifest(folder)
    if hashed_before:
        loaded.path("onnx/weights.bin")
    tamper(folder / "onnx" / "weights.bin")
    with pytest.raises(BundleError, match=r"weights.bin was changed after the export"):
        load_manifest(folder).path("onnx/weights.bin")
    with pytest.raises(BundleError, match="was changed"):
        loaded.verify()


def test_an_unchanged_file_is_hashed_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_manifest(folder)
    loaded.path("onnx/weights.bin")
    monkeypatch.setattr(manifest, "file_digest", lambda path: pytest.fail(f"hashed {path} again"))
    assert load_manifest(folder).path("onnx/weights.bin").is_file()


def test_a_stamp_inside_the_bundle_counts_for_nothing(folder: Path, own_cache: Path) -> None:
    load_manifest(folder).path("onnx/weights.bin")
    assert not (folder / "verified").exists()
    assert list(own_cache.rglob("*.json"))


def test_a_read_only_cache_only_means_hashing_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MS_INFER_CACHE", "/proc/none")
    assert load_manifest(folder).path("onnx/weights.bin").is_file()


@pytest.mark.parametrize("name", ["../weights.bin", "/etc/passwd", "onnx/../../x", "a\\..\\b", "C:/x", ""])
def test_a_path_that_leaves_the_bundle_is_refused(folder: Path, name: str) -> None:
    edit(folder, files={**values(folder)["files"], name: {"bytes": 1, "sha256": "0" * 64}})
    with pytest.raises(BundleError, match="leaves the bundle"):
        load_manifest(folder)


def test_a_link_that_leaves_the_bundle_is_refused(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.bin"
    outside.write_bytes(bytes(1000))
    (folder / "onnx" / "weights.bin").unlink()
    (folder / "onnx" / "weights.bin").symlink_to(outside)
    with pytest.raises(BundleError, match="links to a place outside"):
        load_manifest(folder)


def test_a_bundle_in_a_hub_cache_opens_and_is_hashed(folder: Path, tmp_path: Path) -> None:
    snapshot = hub_cache(folder, tmp_path / "hub", "someone/bundle")
    assert (snapshot / "onnx/weights.bin").is_symlink()

    assert load_manifest(snapshot).path("onnx/weights.bin").read_bytes() == bytes(1000)

    blob = (snapshot / "onnx/weights.bin").resolve()
    blob.write_bytes(bytes(999) + b"x")
    with pytest.raises(BundleError, match="was changed after the export"):
        load_manifest(snapshot).path("onnx/weights.bin")


def test_a_bundle_below_a_folder_of_a_hub_cache_opens(folder: Path, tmp_path: Path) -> None:
    snapshot = hub_cache(folder.parent, tmp_path.parent / f"{tmp_path.name} hub", "someone/bundles")
    assert load_manifest(snapshot / "bundle").path("onnx/weights.bin").is_file()


@pytest.mark.parametrize("place", ["other repository", "outside"])
def test_a_link_that_leaves_the_hub_cache_is_refused(folder: Path, tmp_path: Path, place: str) -> None:
    snapshot = hub_cache(folder, tmp_path / "hub", "someone/bundle")
    target = tmp_path / "outside.bin"
    if place == "other repository":
        target = tmp_path / "hub/models--someone--other/blobs/outside.bin"
        target.parent.mkdir(parents=True)
    target.write_bytes(bytes(1000))
    link = snapshot / "onnx/weights.bin"
    link.unlink()
    link.symlink_to(target)

    with pytest.raises(BundleError, match="links to a place outside"):
        load_manifest(snapshot)


def test_a_digest_needs_no_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MS_INFER_CACHE")
    monkeypatch.setattr(Path, "home", classmethod(no_home))
    assert load_manifest(folder).path("onnx/weights.bin").is_file()
    with pytest.raises(ConfigError, match="no home folder for a cache; set MS_INFER_CACHE"):
        cache_folder()


def no_home(_: type[Path]) -> Path:
    """What pathlib does for a numeric user without HOME."""
    raise RuntimeError("Could not determine home directory.")


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="make a bundle with ms-export"):
        load_manifest(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '{"format": 1}', '{"format": 1, "config": 3}'])
def test_a_damaged_manifest_is_refused(folder: Path, text: str) -> None:
    (folder / "manifest.json").write_text(text)
    with pytest.raises(BundleError):
        load_manifest(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"writes": "row"}, "expected chunk or frame"),
        ({"graphs": {"fp31": {}}}, "unknown graph types"),
        ({"graphs": {"fp32": {"denoise": "onnx/other.onnx"}}}, "files without a digest"),
        ({"engines": {"x": {"kind": "openvino"}}}, "is damaged"),
        ({"files": {"onnx/denoise.onnx": {"bytes": "many"}}}, "is damaged"),
        ({"stages": {"fp32": {"denoise": {"name": "denoise"}}}}, "is damaged"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(folder: Path, changes: Values, message: str) -> None:
    edit(folder, **changes)
    with pytest.raises(BundleError, match=message):
        load_manifest(folder)


def test_settings_that_cannot_work_are_refused(folder: Path) -> None:
    config = values(folder)["config"]
    edit(folder, config={**config, "height": 33})
    with pytest.raises(BundleError, match=r"settings that cannot work.*multiples of 32"):
        load_manifest(folder)


@pytest.mark.parametrize("change", [{"dtype": "object"}, {"shape": [0]}, {"shape": []}])
def test_an_impossible_tensor_is_refused(folder: Path, change: Values) -> None:
    stages = values(folder)["stages"]
    stages["fp32"]["denoise"]["inputs"][0].update(change)
    edit(folder, stages=stages)
    with pytest.raises(BundleError, match="impossible tensor"):
        load_manifest(folder)


def test_loading_reads_no_weights(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "file_digest", lambda path: pytest.fail(f"read {path}"))
    assert load_manifest(folder).files
