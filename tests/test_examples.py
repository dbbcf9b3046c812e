"""The example programs run as they stand, on a tiny student; the README's program is one of them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from ms_infer.checkpoint import save_student
from ms_infer.config import TrackHeadConfig
from tests.tiny import tiny_config, tiny_student

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("student") / "tiny.safetensors"
    save_student(tiny_student(track_head=TrackHeadConfig(content="layers", max_tracks=256, id_dim=8)), path)
    return str(path)


@pytest.mark.parametrize(
    ("name", "words"),
    [("drag.py", "drag.mp4"), ("hand.py", "hand.mp4"), ("live_controls.py", "control"), ("resume.py", "equal: True")],
)
def test_example_runs(name: str, words: str, checkpoint: str, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "examples" / name), checkpoint]

    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)

    assert words in run.stdout


def test_the_readme_program_runs(checkpoint: str, tmp_path: Path) -> None:
    program = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert program is not None
    config = tiny_config()
    text = program[1].replace('"demo"', repr(checkpoint)).replace("rows=12, cols=12", "rows=4, cols=4")
    text = text.replace("height=256, width=256", f"height={config.height}, width={config.width}")
    Image.new("RGB", (64, 48), "teal").save(tmp_path / "photo.jpg")

    subprocess.run([sys.executable, "-c", text], check=True, cwd=tmp_path)

    assert (tmp_path / "out.mp4").stat().st_size > 1_000
    assert (tmp_path / "stream.safetensors").exists()
