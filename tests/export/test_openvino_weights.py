"""Weights of OpenVINO stages: written once, right, and never in memory as a whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

pytest.importorskip("openvino", reason="needs the extra [cpu]")

from ms_export.exporter import export_bundle
from ms_export.options import ExportOptions
from ms_export.weights import WEIGHTS, WeightTable

from ms_infer.bundle.manifest import Manifest
from ms_infer.checkpoint import Student
from tests.tiny import without_tracks


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Student, Manifest]:
    student = without_tracks(dim=96, heads=3, ffn_dim=128, layers=1)  # weights above and below a page
    return student, export_bundle(student, "d" * 64, tmp_path_factory.mktemp("openvino"), ExportOptions()).manifest


def test_every_weight_is_in_the_stage_s_file_where_its_graph_says(made: tuple[Student, Manifest]) -> None:
    student, manifest = made
    (engine,) = manifest.engines.values()
    table = WeightTable.of(student, torch.float32)
    stored = (manifest.folder / "onnx" / "fp32" / WEIGHTS).read_bytes()
    xml = manifest.path(engine.stages["denoise"])
    content, seen = xml.with_suffix(".bin").read_bytes(), set()
    for layer in ElementTree.parse(xml).iter("layer"):
        region, data = table.regions.get(layer.get("name", "")), layer.find("data")
        if layer.get("type") == "Const" and region is not None and data is not None:
            start, size = int(data.get("offset", "")), int(data.get("size", ""))
            if size == region.nbytes:
                assert content[start : start + size] == stored[region.offset : region.offset + size], layer.get("name")
                seen.add(layer.get("name"))
    assert {"transformer.blocks.0.ffn.0.weight", "transformer.blocks.0.self_attn.q.bias"} <= seen
    large = sum(table.regions[name].nbytes for name in seen)
    assert len(content) < 1.5 * large, "no weight is there twice, and no zeros stand for one"


MEMORY = """
import re, sys
from pathlib import Path
import torch
from ms_export.openvino_ir import convert_stage, make_core
from ms_export.trace import module_parts, trace_stage
from ms_export.weights import WEIGHTS, WeightTable, write_weights
from ms_infer.bundle.stages import stage_specs
from tests.tiny import tiny_student

def kib(name):
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

folder = Path(sys.argv[1])
student = tiny_student(dim=1536, heads=12, ffn_dim=6144, layers=2)
table, spec = WeightTable.of(student, torch.float32), stage_specs(student.config)["denoise"]
write_weights(student, table, folder / WEIGHTS)
graph = trace_stage(spec, module_parts(student, torch.float32), torch.float32, table, folder / WEIGHTS)
(folder / "denoise.onnx").write_bytes(graph.SerializeToString())
core = make_core()
before = kib("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the peak begins again
convert_stage(core, folder / "denoise.onnx", spec, folder / "denoise.xml", table)
print(kib("VmHWM") - before, (folder / "denoise.bin").stat().st_size >> 10)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_converting_takes_a_fraction_of_the_weights(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", MEMORY, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    grown, size = map(int, done.stdout.split())
    assert size > 300 << 10, "KiB"
    assert grown < size / 3
