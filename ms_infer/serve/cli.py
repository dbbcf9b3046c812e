"""`ms-serve`: parse, open the server, print its address."""

from __future__ import annotations

import secrets
import socket
import sys
import webbrowser
from collections.abc import Sequence
from itertools import pairwise
from urllib.parse import quote

import tyro

from ms_infer.cli.run import run_command, set_logging
from ms_infer.serve.settings import ServeConfig, is_loopback, is_wildcard


def main(args: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if args is None else args)
    config = tyro.cli(ServeConfig, prog="ms-serve", args=with_token(arguments))
    return run_command("ms-serve", lambda: serve(config))


def with_token(arguments: list[str]) -> list[str]:
    """A made-up token for a host that needs one, where none is given."""
    hosts = [after for before, after in pairwise(arguments) if before == "--host"]
    hosts += [argument.partition("=")[2] for argument in arguments if argument.startswith("--host=")]
    given = any(argument.split("=")[0] == "--token" for argument in arguments)
    if hosts and not is_loopback(hosts[-1]) and not given:
        return [*arguments, f"--token={secrets.token_urlsafe(18)}"]  # it may begin with a dash
    return arguments


def serve(config: ServeConfig) -> str:
    """Run until interrupted; returns the closing message."""
    set_logging()
    try:
        from ms_infer.serve.app import create_app
    except ImportError as error:
        from ms_infer.errors import MissingExtraError

        raise MissingExtraError(f"ms-serve needs {error.name}: pip install 'ms-infer[serve]'") from error
    from ms_infer.serve.open import stream_opener
    from ms_infer.serve.web.transport import bind, make_server

    bound = bind(config)  # before the model is loaded: a port that is in use is told at once

    def listening(port: int) -> None:
        url = address(config, port)
        print(url, flush=True)
        for line in elsewhere(config, port):
            print(f"ms-serve: {line}", file=sys.stderr)
        if config.open:
            webbrowser.open(url)

    problems: list[Exception] = []

    def failed(error: Exception) -> None:
        problems.append(error)
        server.should_exit = True

    server = make_server(create_app(config, stream_opener(config), failed=failed), config, listening)
    server.run([bound])
    if problems:
        raise problems[0]
    return "closed"


def address(config: ServeConfig, port: int) -> str:
    """What to open in a browser on this machine."""
    here = config.host in ("127.0.0.1", "localhost") or is_wildcard(config.host)
    name = "localhost" if here else f"[{config.host}]" if ":" in config.host else config.host
    return _with_token(f"http://{name}:{port}/", config)


def elsewhere(config: ServeConfig, port: int) -> list[str]:
    """How others reach it, in words."""
    lines = [f"public address: {_with_token(origin.rstrip('/') + '/', config)}" for origin in config.origin]
    if not config.loopback and not config.origin:
        own = socket.gethostname() if is_wildcard(config.host) else ""
        url = _with_token(f"http://{own}:{port}/", config) if own else "this address"
        lines.append(f"other machines reach it at {url}")
    return lines


def _with_token(url: str, config: ServeConfig) -> str:
    return url + (f"?token={quote(config.token, safe='')}" if config.token else "")
