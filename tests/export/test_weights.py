"""Weights of a bundle: what is written, the memory it takes, and their digest."""

from __future__ import annotations

import errno
import os
import resource
import sys
from pathlib import Path

import pytest
import torch
from ms_export import weights
from ms_export.exporter import checkpoint_digest
from ms_export.weights import WeightTable, write_weights

from ms_infer import BundleError
from ms_infer.bundle.digests import file_digest
from ms_infer.bundle.stages import TensorSpec
from ms_infer.checkpoint import Student, load_student, save_student
from tests.tiny import tiny_student


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


def test_the_digest_of_a_checkpoint_follows_its_content(student: Student, tmp_path: Path) -> None:
    save_student(student, tmp_path / "a.safetensors")
    other = Student(student.config, tiny_student(seed=1).transformer)
    assert checkpoint_digest(load_student(tmp_path / "a.safetensors")) == file_digest(tmp_path / "a.safetensors")
    assert checkpoint_digest(student) != checkpoint_digest(other)
