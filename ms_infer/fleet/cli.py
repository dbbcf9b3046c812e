"""`ms-fleet`: a fleet on this machine, what a fleet does, and nodes that are to be taken away."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tyro

from ms_infer.cli.run import run_command, set_logging
from ms_infer.errors import ConfigError
from ms_infer.fleet.config import FleetConfig
from ms_infer.fleet.local import begin_local, join, need_ray


@dataclass(frozen=True)
class Status:
    """Say which engines and gateways there are, and how many streams."""

    json: bool = False
    """As JSON."""


@dataclass(frozen=True)
class Drain:
    """Let the engines of a node hand over their streams, and take no more."""

    node: tyro.conf.Positional[str]
    """Its id, or the beginning of it, as status tells."""


COMMANDS = {"demo": FleetConfig, "status": Status, "drain": Drain}


def main(args: Sequence[str] | None = None) -> int:
    command: Any = tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="ms-fleet", args=args)  # type: ignore[arg-type]
    works: dict[type, Callable[[Any], str]] = {FleetConfig: demo, Status: status, Drain: drain}
    return run_command("ms-fleet", lambda: works[type(command)](command))


def demo(config: FleetConfig) -> str:
    """Serve until interrupted; returns the closing message."""
    set_logging()
    begin_local(config)
    import ray
    from ray import serve

    from ms_infer.fleet.deploy import run

    try:
        run(config)
        print(f"http://localhost:{config.port}/" + (f"?token={config.token}" if config.token else ""), flush=True)
        while True:
            time.sleep(3600)
    finally:
        serve.shutdown()
        ray.shutdown()


def status(command: Status) -> str:
    """Print what the keeper tells; returns the closing message."""
    told = _ask("status")
    if command.json:
        print(json.dumps(told))
    else:
        print(described(told))
    return f"{told['streams']} streams on {len(told['engines'])} engines"


def described(told: dict[str, Any]) -> str:
    """The answer of `Keeper.status` as lines."""
    lines = [
        f"engine {name} on node {one['node'][:12]}: {one['streams']} of {one['capacity']:.0f} streams"
        + (", leaving" if one["leaving"] else "")
        for name, one in told["engines"].items()
    ]
    lines += [f"gateway {name}" for name in told["gateways"]]
    lines.append(f"{told['states']} states are kept, {told['bytes'] / 1e6:.1f} MB; {told['waiting']} streams wait")
    return "\n".join(lines)


def drain(command: Drain) -> str:
    """Ask the keeper to drain a node; returns the closing message."""
    nodes = {one["node"] for one in _ask("status")["engines"].values()}
    found = sorted(node for node in nodes if node.startswith(command.node))
    if len(found) != 1:
        raise ConfigError(
            f"{len(found)} nodes with engines begin with {command.node!r}; give one of {', '.join(sorted(nodes))}"
        )
    _check_room(_ask("status"), found[0])
    engines = _ask("drain", found[0])
    while set(engines) & set(_ask("status")["engines"]):
        time.sleep(0.5)
    return f"node {found[0][:12]} has handed over the streams of {len(engines)} engines and takes no more"


def _check_room(told: dict[str, Any], node: str) -> None:
    """ConfigError when the streams of a node find no seat elsewhere."""
    sitting = sum(one["streams"] for one in told["engines"].values() if one["node"] == node)
    others = [one for one in told["engines"].values() if one["node"] != node and not one["leaving"]]
    free = sum(one["capacity"] - one["streams"] for one in others)
    if sitting > free:
        raise ConfigError(
            f"node {node[:12]} has {sitting} streams, and there are {free:.0f} free seats elsewhere: they would end; "
            "add engines first"
        )


def _ask(method: str, *what: Any) -> Any:
    need_ray()
    import ray

    from ms_infer.fleet.ray_links import find_keeper

    if not ray.is_initialized():
        join()
    return ray.get(getattr(find_keeper(), method).remote(*what))


if __name__ == "__main__":
    sys.exit(main())
