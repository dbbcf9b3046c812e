"""How gateways reach engines and the keeper, over Ray."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import numpy as np
import ray
from numpy.typing import NDArray
from ray import serve
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from ms_infer.errors import DeviceError
from ms_infer.fleet.keeper import NAME, NAMESPACE, Keeper
from ms_infer.fleet.remote import Ask, Lost, Made
from ms_infer.fleet.vault import Place

logger = logging.getLogger("ray.serve")
ENGINES, GATEWAYS = "ms-engines", "ms-gateways"
CALL_SECONDS = 120.0
"""A call that is not answered for so long has failed; a chunk takes less."""
Result = TypeVar("Result")


class ToReplica(RequestRouter):  # type: ignore[misc]
    """Sends a request to the replica whose id is its `session_id`; to any other one when that is not there.

    The other one answers that it is not meant (`Lost`), which is faster than waiting. Not first in, first out, as Ray
    Serve's own routers are: they send the oldest request that waits to the replica that was found for another one.
    """

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        if not candidate_replicas or pending_request is None:
            return []
        wanted = pending_request.metadata.session_id
        pending_request.routing_context.should_backoff = True
        meant = [one for one in candidate_replicas if one.replica_id.unique_id == wanted]
        return [meant or self._others(candidate_replicas)]

    def _others(self, replicas: list[RunningReplica]) -> list[RunningReplica]:
        return replicas[:1]


class ToGateway(ToReplica):
    """The same for gateways; where none is meant, or one that is gone, the less busy of two is taken."""

    def _others(self, replicas: list[RunningReplica]) -> list[RunningReplica]:
        return random.sample(replicas, min(2, len(replicas)))


def get_keeper(spare: float) -> Any:
    """The fleet's keeper; made by whoever needs it first, and again when its process dies."""
    actor: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=3, max_concurrency=1000)(Keeper)
    return actor.options(name=NAME, namespace=NAMESPACE, get_if_exists=True, lifetime="detached").remote(
        spare, stopping_replicas, is_dead
    )


def find_keeper() -> Any:
    """The keeper of a fleet that runs; DeviceError when there is none."""
    try:
        return ray.get_actor(NAME, NAMESPACE)
    except ValueError:
        raise DeviceError("no fleet runs here; start one with ms-fleet demo, or serve run a file of it") from None


def stopping_replicas() -> set[str]:
    """Replicas that Ray Serve is stopping: they are told nothing while a WebSocket is open."""
    from ray.serve.context import _get_global_client

    client = _get_global_client(raise_if_no_controller_running=False)
    if client is None:
        return set()
    found = client.get_serve_details().get("applications", {})
    return {
        str(replica["replica_id"])
        for application in found.values()
        for deployment in application.get("deployments", {}).values()
        for replica in deployment.get("replicas", [])
        if replica.get("state") == "STOPPING"
    }


async def is_dead(actor: Any) -> bool:
    """Whether an actor's process is gone."""
    if actor is None:
        return False
    try:
        await actor.__ray_ready__.remote()
    except RayActorError:
        return True
    return False


def as_array(data: bytes) -> NDArray[np.uint8]:
    """Bytes as Ray hands them over without a copy."""
    return np.frombuffer(data, np.uint8)


class RayLinks:
    """See `Links`. Calls block, so they are for threads beside the event loop; `watch` is for the loop."""

    def __init__(self, keeper: Any) -> None:
        self.keeper = keeper
        self._handle: Any = serve.get_deployment_handle("Engine", ENGINES)
        self._handles: dict[str, Any] = {}
        self._dead: set[str] = set()

    def step(self, engine: str, seat: str, place: Place, asks: list[Ask], *, keep: bool) -> Made:
        made: Made = self._call(engine, "step", seat, place, asks, keep)
        return made

    def adopt(self, engine: str, seat: str, place: Place, log: list[list[Ask]], *, restore: bool) -> None:
        self._call(engine, "adopt", seat, place, log, restore)

    def state(self, engine: str, seat: str, place: Place, asks: list[Ask]) -> bytes:
        data: bytes = self._call(engine, "state", seat, place, asks)
        return data

    def embed(self, engine: str, prompt: Any) -> NDArray[np.float32]:
        embedded: NDArray[np.float32] = self._call(engine, "embed", prompt)
        return embedded

    def move(self, seat: str, away_from: str, wanted: Place) -> tuple[str, Place | None]:
        try:
            found = ray.get(self.keeper.move.remote(seat, away_from, wanted, away_from in self._dead))
        except RayError as error:
            raise DeviceError("the fleet's keeper does not answer; start the stream again") from error
        if found is None:
            raise DeviceError("the engine was lost, and no other one has a free seat; start the stream again")
        engine, kept = found
        return engine, None if kept is None else Place(*kept)

    def end(self, engine: str, seat: str) -> None:
        with suppress(Lost):
            self._call(engine, "drop", seat)

    async def watch(self, engine: str) -> bool:
        """Wait until an engine leaves (False) or dies (True)."""
        while True:
            try:
                await self._to(engine).watch.remote(engine)
            except RayActorError:
                self._dead.add(engine)
                return True
            except RayError:
                return False

    def _call(self, engine: str, method: str, *what: Any) -> Any:
        try:
            return getattr(self._to(engine), method).remote(engine, *what).result(timeout_s=CALL_SECONDS)
        except RayTaskError as error:  # raised there
            cause = error.cause
            raise (Lost(str(cause)) if isinstance(cause, Lost) else cause) from None
        except RayActorError as error:
            self._dead.add(engine)
            raise Lost(type(error).__name__) from None
        except (RayError, TimeoutError) as error:
            raise Lost(type(error).__name__) from None

    def _to(self, engine: str) -> Any:
        if engine not in self._handles:
            self._handles[engine] = self._handle.options(session_id=engine)
        return self._handles[engine]


async def soon(call: Callable[[], Any], otherwise: Result) -> Any:
    """What the keeper answers; the other value while it does not."""
    try:
        return await call()
    except RayError as error:
        logger.warning("the fleet's keeper does not answer: %s", type(error).__name__)
        return otherwise
