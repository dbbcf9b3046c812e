"""The code of the pages runs as it stands: the blocks of a page one after the other, in one folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.pages import DOCS, Block, blocks
from tests.docs.running import CHANGES, RUN, environment, run

PAGES = ["index.md", "tutorial.md", "engines/own.md"]
PAGES += [f"{folder}/{path.name}" for folder in ("howto", "commands") for path in sorted((DOCS / folder).glob("*.md"))]
MOST_NOT_RUN = 10
"""Blocks that the tests may leave alone, each with its reason: servers, GPUs, long training, changed environments."""


def run_blocks(page: str) -> list[Block]:
    """The blocks of a page that are run, and those that are files for them."""
    return [b for b in blocks(DOCS / page) if b.file or (b.language in RUN and not b.not_run)]


@pytest.fixture(scope="module")
def variables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return environment(tmp_path_factory.mktemp("environment"))


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", [page for page in PAGES if any(b.language in RUN for b in run_blocks(page))])
def test_the_blocks_of_a_page_run_as_they_stand(
    page: str, tmp_path: Path, variables: dict[str, str], exported: Path
) -> None:
    for block in run_blocks(page):
        if block.file:
            (tmp_path / block.file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / block.file).write_text(block.text)
        else:
            run(block, tmp_path, variables, exported)


@pytest.mark.parametrize("text", ["pip install x", "cmake --install build --prefix /opt/x", "sudo true"])
def test_a_block_that_would_change_the_machine_is_refused(text: str, tmp_path: Path, exported: Path) -> None:
    with pytest.raises(AssertionError, match="changes the machine"):
        run(Block("page.md", 1, "bash", f"touch ran\n{text}\n"), tmp_path, environment(tmp_path), exported)
    assert not (tmp_path / "ran").exists()


def test_programs_that_install_are_out_of_reach(tmp_path: Path, exported: Path) -> None:
    with pytest.raises(AssertionError, match="a page runs pip"):
        run(Block("page.md", 1, "bash", "pip --version\n"), tmp_path, environment(tmp_path), exported)


def test_every_block_says_its_language_and_few_are_not_run() -> None:
    every = [block for page in PAGES for block in blocks(DOCS / page)]
    nameless = [f"{block.page}:{block.line}" for block in every if not block.language]
    not_run = [f"{block.page}:{block.line}: {block.not_run}" for block in every if block.not_run]
    unmarked = [f"{block.page}:{block.line}" for block in every if not block.not_run and CHANGES.search(block.text)]

    assert not nameless, nameless
    assert not [where for where in unmarked if "howto/gpu.md" not in where]  # its blocks are text, none is run
    assert len(not_run) <= MOST_NOT_RUN, "\n".join(not_run)


def test_the_demo_is_exported_once_and_found_by_later_pages(tmp_path: Path) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "ms-export").write_text('#!/bin/sh\nmkdir -p "$3"\necho made >> "$3/told"\n')
    (programs / "ms-export").chmod(0o755)
    told = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        block = Block(f"{name}.md", 1, "bash", "ms-export demo -o bundles/demo\n")
        variables = environment(tmp_path / name)
        run(block, tmp_path / name, {**variables, "PATH": f"{programs}:{variables['PATH']}"}, tmp_path / "exported")
        told.append((tmp_path / name / "bundles" / "demo" / "told").read_text())

    assert told == ["made\n", "made\nmade\n"]
    assert (tmp_path / "exported" / "told").read_text() == "made\n"
