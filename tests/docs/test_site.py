"""The parts that make the site: option tables, the C reference, docstrings as Markdown, the check of links."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scripts.docs.c_header import header_items, header_reference
from scripts.docs.links import broken_links
from scripts.docs.options import capture, option_tables
from scripts.docs.pages import expand
from tests.docs.pages import DOCS, ROOT, pages

HEADER = (ROOT / "ms_infer" / "cpp" / "include" / "ms_infer" / "ms_infer.h").read_text()


@pytest.mark.parametrize(
    "command", ["ms-stream", "ms-export", "ms-serve", "ms-fleet", "ms-bench", "python -m ms_infer"]
)
def test_a_table_has_every_option_of_the_parser(command: str) -> None:
    table = option_tables(command)
    options = [name for parser in capture(command).values() for one in parser._actions for name in one.option_strings]
    wanted = [name for name in options if not re.match(r"--(.*\.)?no-", name) and name not in ("-h", "--help")]

    assert len(wanted) >= 3
    assert not [name for name in wanted if f"`{name}" not in table]
    assert all(line.count("|") - line.count("\\|") == 4 for line in table.splitlines() if line.startswith("|"))


def test_defaults_are_those_of_the_command() -> None:
    assert "| `--radius FLOAT` | `0.15` |" in option_tables("ms-stream")
    assert "| `--port INT` | `8600` |" in option_tables("ms-serve")


def test_training_has_a_section_for_every_stage() -> None:
    told = option_tables("python -m ms_train")

    assert re.findall(r"^## (\S+)", told, re.M) == list(capture("python -m ms_train"))
    assert {"render", "teacher", "evaluate"} <= set(capture("python -m ms_train"))
    assert "| `--common.assets PATH` |  | Folder with panoramas/, sprites/ and textures/. Required. |" in told


def test_every_function_and_type_of_the_header_is_in_the_reference() -> None:
    told = header_reference(HEADER)
    functions = set(re.findall(r"\b(ms_\w+)\(", re.sub(r"/\*.*?\*/", "", HEADER, flags=re.S)))
    types = set(re.findall(r"(?:\}|typedef struct ms_\w+) (ms_\w+);", HEADER))

    assert len(functions) > 20
    assert set(re.findall(r"^### `(\w+)`", told, re.M)) == functions | types
    assert "MS_API" not in told


def test_the_comment_of_a_function_stands_with_it() -> None:
    (item,) = header_items("/* Another *rate*. */\nMS_API ms_status ms_x(int a,\n                        int b);\n")

    assert (item.name, item.words) == ("ms_x", "Another \\*rate\\*.")
    assert item.code.startswith("ms_status ms_x(int a,")


def test_every_mark_of_the_pages_is_replaced() -> None:
    for page in pages():
        assert "<!--" not in expand(page.read_text()), page


def test_every_page_is_in_the_navigation() -> None:
    text = (ROOT / "zensical.toml").read_text()

    assert set(re.findall(r"\"([\w/.-]+\.md)\"", text)) == {str(page.relative_to(DOCS)) for page in pages()}


def test_links_that_lead_nowhere_are_found(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "two.html").write_text('<h1 id="here">x</h1><a href="../index.html#top">back</a>')
    (tmp_path / "index.html").write_text(
        '<p id="top"><a href="a/two.html#here">ok</a> <a href="https://example.org/">out</a> <img src="no.png">'
        '<a href="a/two.html#there">wrong</a> <a href="three.html">wrong</a> <a href="../../etc/passwd">wrong</a>'
    )

    assert broken_links(tmp_path) == [
        "index.html links to no.png",
        "index.html links to a/two.html#there",
        "index.html links to three.html",
        "index.html links to ../../etc/passwd",
    ]


def test_entries_of_a_docstring_become_a_list() -> None:
    pytest.importorskip("griffe", reason="no mkdocstrings")
    from scripts.docs.docstrings import with_lists

    columns = with_lists("points  float32 [N]:\n        x\nvisible bool [N]")
    assert columns == "- `points`: float32 [N]:\n  x\n- `visible`: bool [N]"

    told = with_lists("Begin.\n\nimage: path or\nbytes.\npan    so far\n\nNote: no entry\n\n    code: stays")

    assert told == "Begin.\n\n- `image`: path or\n  bytes.\n- `pan`: so far\n\nNote: no entry\n\n    code: stays"
