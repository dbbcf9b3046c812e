"""What an index would get: a source release that is whole, a wheel that runs far from the repository."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
import tomllib
import urllib.request
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest

from setup import index_readme
from tests.packages.conftest import ROOT, VERSIONS, Environment, call

pytestmark = pytest.mark.timeout(1800)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MADE = {"PKG-INFO", "setup.cfg", "ms_infer.egg-info"}


def test_the_source_release_holds_the_repository(sdist: Path) -> None:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("no git repository to compare with")
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in (member.name for member in archive if member.isfile())}

    assert {name for name in inside if name.split("/")[0] not in MADE} == set(listed.stdout.splitlines())


def test_the_index_accepts_both(dist: Path) -> None:
    call(sys.executable, "-m", "twine", "check", "--strict", *dist.iterdir())


def test_the_metadata_say_what_it_is_and_link_to_nothing_that_is_not_there(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        named = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = HeaderParser().parsestr(archive.read(named).decode())
        assert any(name.endswith("licenses/LICENSE") for name in archive.namelist())

    links = re.findall(r"\]\(([^)]+)\)", metadata.get_payload())
    assert all("://" in link for link in links), links
    told = metadata.get_all("Classifier", [])
    assert {f"Programming Language :: Python :: {version}" for version in VERSIONS} <= set(told)
    assert metadata.get_all("Project-URL")
    assert "torch" not in " ".join(line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line)


def test_links_of_the_readme_become_absolute_with_an_address() -> None:
    text = "![a](docs/a.png) [b](docs/b.md#c) [d](https://e.org/f)"

    assert index_readme(text, None, "1.2") == " b [d](https://e.org/f)"
    assert index_readme(text, "https://host/us/it/", "1.2") == (
        "![a](https://host/us/it/raw/v1.2/docs/a.png) [b](https://host/us/it/blob/v1.2/docs/b.md#c) [d](https://e.org/f)"
    )


def test_nothing_is_taken_from_the_repository(full: Environment) -> None:
    code = "import ms_infer, ms_export, ms_kernels; print(ms_infer.__file__, ms_export.__file__, ms_kernels.__file__)"

    places = full.run("python", "-c", code).stdout.decode().split()

    assert len(places) == 3
    assert all(Path(place).is_relative_to(full.python.parents[1]) for place in places)


def test_an_extra_is_added_to_what_is_installed(full: Environment) -> None:
    """What the messages about missing extras say to type, with no index to take the package from."""
    said = full.pip("install", "--dry-run", "--no-index", "--no-deps", "ms-infer[cpu]")

    assert "already satisfied" in said


def test_every_script_has_a_test_here() -> None:
    text = Path(__file__).read_text() + (Path(__file__).parent / "conftest.py").read_text()

    assert not [name for name in PROJECT["scripts"] if f'run("{name}"' not in text and f'script("{name}")' not in text]


def test_ms_fleet_says_what_it_does(full: Environment) -> None:
    done = full.run("ms-fleet", "--help")

    assert done.returncode == 0, done.stderr.decode()
    assert "drain" in (done.stdout + done.stderr).decode()


def test_ms_stream_makes_a_video_of_the_demo(full: Environment) -> None:
    done = full.run("ms-stream", "demo", "--seconds", "0.5", "--engine", "torch", "-o", "demo.gif")

    assert done.returncode == 0, done.stderr.decode()
    assert (full.home / "demo.gif").stat().st_size > 10_000


def test_ms_bench_measures_what_ms_export_made(full: Environment, bundle: Path) -> None:
    done = full.run("ms-bench", bundle, "--chunks", "3", "--warm-up", "1", "--json")

    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout)["fps"] > 0


def test_ms_serve_shows_its_page(full: Environment, bundle: Path) -> None:
    command = [full.script("ms-serve"), str(bundle), "--port", "0"]
    server = subprocess.Popen(command, cwd=full.home, env=full.variables, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        with urllib.request.urlopen(server.stdout.readline().strip(), timeout=60) as answer:
            assert "<canvas" in answer.read().decode()
    finally:
        server.terminate()
        server.wait(60)
