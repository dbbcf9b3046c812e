"""Options of a command as Markdown, read from the parser that the command itself uses."""

from __future__ import annotations

import argparse
import re
import runpy
import sys
import tomllib
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import tyro

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Captured(BaseException):
    """What a command was about to parse its arguments with. No Exception: nothing but `options` may catch it."""

    parsers: dict[str, argparse.ArgumentParser]
    """By the words of the subcommand, "" for a command without any."""


def option_tables(command: str) -> str:
    """Markdown of all options of a console script such as `ms-stream`, or of `python -m NAME`."""
    parsers = capture(command)
    if list(parsers) == [""]:
        return _usage(command, parsers[""]) + _table(parsers[""])
    sections = [f"## {name}\n\n{_usage(f'{command} {name}', one)}{_table(one)}" for name, one in parsers.items()]
    return "\n\n".join(sections)


def capture(command: str) -> dict[str, argparse.ArgumentParser]:
    """The parsers of a command, by subcommand; the command stops where it would have parsed."""
    try:
        with _captured():
            _entry(command)()
    except Captured as captured:
        return captured.parsers
    raise RuntimeError(f"{command} ended without parsing its arguments")


def _entry(command: str) -> Callable[[], Any]:
    """What the command's `main` is."""
    if command.startswith("python -m "):
        name = command.removeprefix("python -m ")
        return lambda: runpy.run_module(name, run_name="__main__", alter_sys=True)
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, function = scripts[command].partition(":")
    return lambda: getattr(import_module(module), function)()


@contextmanager
def _captured() -> Iterator[None]:
    def one(made: Any, *_: Any, **__: Any) -> None:
        raise Captured({"": _parser_of(made)})

    def many(table: dict[str, Any], *_: Any, **__: Any) -> None:
        raise Captured({name: _parser_of(made) for name, made in table.items()})

    def plain(parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        raise Captured({"": parser})

    with (
        patch.object(tyro, "cli", one),
        patch.object(tyro.extras, "subcommand_cli_from_dict", many),
        patch.object(argparse.ArgumentParser, "parse_args", plain),
        patch.object(sys, "argv", ["docs"]),
    ):
        yield


def _parser_of(made: Any) -> argparse.ArgumentParser:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        parser = tyro.extras.get_parser(made)
    parser.description = parser.description or (made.__doc__ or "").partition("\n")[0]
    return parser


def _usage(command: str, parser: argparse.ArgumentParser) -> str:
    positional = [_positional(action) for action in parser._actions if not action.option_strings]
    words = " ".join([command, *positional, "[options]"])
    described = (parser.description or "").partition("\n\n")[0].replace("\n", " ").strip()
    return f"{described}\n\n```text\n{words}\n```\n\n"


def _positional(action: argparse.Action) -> str:
    return f"[{action.dest.upper()}]" if action.nargs == "?" else action.dest.upper()


def _table(parser: argparse.ArgumentParser) -> str:
    rows = [_row(action) for action in parser._actions if "--help" not in action.option_strings]
    return "\n".join(["| option | default | meaning |", "|---|---|---|", *rows])


def _row(action: argparse.Action) -> str:
    words, default = _split_default(action.help or "")
    if not default and action.default not in (None, argparse.SUPPRESS) and not _is_missing(action.default):
        default = _words_of(action.default)
    default = {"None": "", "''": "", "False": "off", "True": "on"}.get(default, default)
    words = f"{words.rstrip('.')}. Required." if _is_required(action) else words
    return f"| {_names(action)} | {_code(default)} | {_escape(words).lstrip('. ')} |"


def _names(action: argparse.Action) -> str:
    value = _value(action)
    if not action.option_strings:
        return _code(_positional(action))
    positive = [name for name in action.option_strings if not re.match(r"--(.*\.)?no-", name)]
    return ", ".join(_code(f"{name} {value}".strip()) for name in positive)


def _value(action: argparse.Action) -> str:
    """What follows an option, in the words of its own help."""
    if action.nargs == 0:
        return ""
    if action.metavar is None and action.choices:
        return "{" + ",".join(map(str, action.choices)) + "}" + (" ..." if action.nargs == "+" else "")
    shown = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    shown = shown.replace("{None}|", "").replace("{None,", "{")
    several = re.fullmatch(r"\[(.+) \[\1 \.\.\.\]\]", shown)
    return f"{several[1]} ..." if several else shown


def _split_default(text: str) -> tuple[str, str]:
    """Tyro writes "words (default: value)" or "words (required)"."""
    found = re.fullmatch(r"(.*?)\s*\((?:default: (.*)|required)\)", text.replace("%(default)s", ""), re.S)
    return (found[1], found[2] or "") if found else (re.sub(r"\s*\(\)$", "", text.replace("%(default)s", "")), "")


def _is_required(action: argparse.Action) -> bool:
    return action.required or (action.help or "").endswith("(required)")


def _is_missing(value: Any) -> bool:
    return "MISSING" in repr(value)


def _words_of(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _code(text: str) -> str:
    return f"`{text}`".replace("|", "\\|") if text else ""


def _escape(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
