"""A cluster of this machine alone, and the connection to one that runs."""

from __future__ import annotations

import os
import sys

from ms_infer.errors import ConfigError, DeviceError, MissingExtraError
from ms_infer.fleet.config import FleetConfig

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_enable_worker_prestart": "0",
    "RAY_worker_niceness": "0",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "120",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "30",
}
"""Of Ray's environment, where they are not set: its makers are told nothing, engines do not wait behind all other
programs, and slow machines may start slowly."""
STORE_BYTES = 256 * 2**20
"""Memory through which chunks and states go from process to process."""


def need_ray() -> None:
    """MissingExtraError unless Ray Serve is installed."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        import ray.serve  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(f"ms-fleet needs {error.name}: pip install 'ms-infer[fleet]'") from error


def begin_local(config: FleetConfig) -> None:
    """Start a cluster of this machine that has just what the fleet takes, for loopback only."""
    need_ray()
    import ray

    if config.host != "127.0.0.1":
        raise ConfigError(f"a fleet of one machine listens to 127.0.0.1, not {config.host!r}; docs/fleet.md has others")
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)  # of the processes it starts
    ray.init(
        num_cpus=1 + int(config.replicas * config.cpus + config.gateways * config.gateway_cpus),
        num_gpus=config.replicas * config.gpus or None,
        include_dashboard=False,
        object_store_memory=STORE_BYTES,
        logging_level="error",
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
    )


def join() -> None:
    """Connect to the cluster that runs here (DeviceError when there is none)."""
    need_ray()
    import ray

    try:
        ray.init(address="auto", logging_level="error", log_to_driver=False)
    except ConnectionError:
        raise DeviceError("no fleet runs here; start one with ms-fleet demo, or serve run a file of it") from None
