"""`ms-serve`: parse, open the server, print its address."""

from __future__ import annotations

import secrets
import sys
import webbrowser
from collections.abc import Sequence
from itertools import pairwise

import tyro

from ms_infer.cli.run import run_command, set_logging
from ms_infer.serve.settings import ServeConfig, is_loopback


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
        return [*arguments, "--token", secrets.token_urlsafe(18)]
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
    from ms_infer.serve.transport import make_server

    def listening(port: int) -> None:
        url = address(config, port)
        print(url, flush=True)
        if not config.loopback:
            print("ms-serve: other machines can reach this address", file=sys.stderr)
        if config.open:
            webbrowser.open(url)

    problems: list[Exception] = []

    def failed(error: Exception) -> None:
        problems.append(error)
        server.should_exit = True

    server = make_server(create_app(config, stream_opener(config), failed), config, listening)
    server.run()
    if problems:
        raise problems[0]
    return "closed"


def address(config: ServeConfig, port: int) -> str:
    """What to open in a browser."""
    name = "localhost" if is_loopback(config.host) else config.host
    return f"http://{name}:{port}/" + (f"?token={config.token}" if config.token else "")
