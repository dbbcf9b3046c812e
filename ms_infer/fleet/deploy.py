"""The two applications of Ray Serve: engines and gateways. In one, an update of the engines would end WebSockets."""

from __future__ import annotations

import re
from typing import Any, NoReturn

from ray import serve
from ray.serve.config import RequestRouterConfig
from starlette.applications import Starlette

from ms_infer import errors
from ms_infer.errors import DeviceError, MotionStreamError
from ms_infer.fleet.config import FleetConfig
from ms_infer.fleet.engine import Engine
from ms_infer.fleet.gateway import FleetLanes, KeeperDirectory
from ms_infer.fleet.ray_links import ENGINES, GATEWAYS, ToGateway, ToReplica, get_keeper
from ms_infer.serve.app import create_app
from ms_infer.serve.directory import Directory
from ms_infer.serve.lanes import Lanes
from ms_infer.serve.shared import Context

LEAVE_SECONDS = 60.0
"""How long a replica that is stopped may hand over what it has."""
READY_SECONDS = 60.0
"""Ray Serve sends nobody to a new gateway until it is ready; after so long it says itself that it is not ready yet."""
CALLS = 10_000
"""Calls that a replica takes at the same time: most of them wait for their turn, or are WebSockets."""
BOTH: dict[str, Any] = {
    "max_ongoing_requests": CALLS,
    "graceful_shutdown_wait_loop_s": 0.1,
    "graceful_shutdown_timeout_s": LEAVE_SECONDS,
    "max_constructor_retry_count": 3,  # what keeps it from starting is mostly a setting
    "logging_config": {"enable_access_log": False, "log_level": "WARNING"},
}
"""Settings of both deployments."""


def engines(settings: dict[str, Any]) -> serve.Application:
    """The application of the engines, from settings (`FleetConfig`)."""
    config = FleetConfig.from_dict(settings)
    options: dict[str, Any] = {"num_cpus": config.cpus} | ({"num_gpus": config.gpus} if config.gpus else {})
    deployment: Any = serve.deployment(
        Engine,
        name="Engine",
        num_replicas=config.replicas,
        ray_actor_options=options,
        health_check_period_s=2,
        request_router_config=routed_by(ToReplica),
        **BOTH,
    )
    return deployment.bind(config.to_dict())


def gateways(settings: dict[str, Any]) -> serve.Application:
    """The application of the gateways, from the same settings."""
    config = FleetConfig.from_dict(settings)
    values = config.to_dict()

    def build() -> Starlette:
        return gateway_app(FleetConfig.from_dict(values))

    class Gateway:
        """A server of WebSockets."""

    deployment: Any = serve.deployment(
        serve.ingress(build)(Gateway),
        name="Gateway",
        num_replicas=config.gateways,
        ray_actor_options={"num_cpus": config.gateway_cpus},
        request_router_config=routed_by(ToGateway),
        **BOTH,
    )
    return deployment.bind()


def routed_by(router: type) -> RequestRouterConfig:
    """Ray Serve's setting for a router of `ray_links`."""
    return RequestRouterConfig(request_router_class=f"{router.__module__}:{router.__name__}")


def gateway_app(config: FleetConfig) -> Starlette:
    """ms-serve over the fleet's engines. One that cannot get ready does not start."""

    def behind(context: Context) -> tuple[Lanes, Directory]:
        keeper, name = get_keeper(config.spare), serve.get_replica_context().replica_id.unique_id
        lanes = FleetLanes(keeper, name, context, config.save_chunks, lambda: app.state.hub)
        return lanes, KeeperDirectory(lanes)

    def failed(error: Exception) -> NoReturn:
        raise error

    app = create_app(config.serving(), behind=behind, failed=failed, ready_seconds=READY_SECONDS)
    return app


def run(config: FleetConfig) -> None:
    """Both applications, on the Ray cluster that this process is connected to; returns when they run.

    What keeps an engine or a gateway from starting is raised here, as the error that it is.
    """
    serve.start(http_options={"host": config.host, "port": config.port})
    deploy(engines(config.to_dict()), ENGINES, None)
    deploy(gateways(config.to_dict()), GATEWAYS, "/")


def deploy(application: serve.Application, name: str, route: str | None) -> None:
    """Deploy an application, or what is new of it; returns when it runs. Raises what keeps it from that."""
    try:
        serve.run(application, name=name, route_prefix=route)
    except RuntimeError as error:
        parts = serve.status().applications[name].deployments.values()
        raise told("\n".join([str(error), *(part.message for part in parts)])) from error


def told(traceback: str) -> MotionStreamError:
    """The error of ours that a process elsewhere ended with; Ray Serve passes on nothing but its text."""
    kinds = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type)}
    for name, text in reversed(re.findall(rf"{errors.__name__}\.(\w+): (.+)", traceback)):
        if issubclass(kinds.get(name, object), MotionStreamError):
            error: MotionStreamError = kinds[name](text)
            return error
    return DeviceError(f"the fleet could not be started: {traceback.strip().splitlines()[-1]}")
