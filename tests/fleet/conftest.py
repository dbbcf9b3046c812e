"""One cluster of this machine for all tests, small and quiet, and gone afterwards."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

import pytest

from ms_infer.fleet.config import FleetConfig
from ms_infer.serve.web.transport import bind
from tests.fleet.live import Fleet


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Two engines with two seats each, behind two gateways."""
    from ms_infer.fleet.deploy import run
    from ms_infer.fleet.local import begin_local

    steps = tmp_path_factory.mktemp("steps")
    os.environ["MS_TEST_STEPS"] = str(steps)
    config = FleetConfig(
        opens="tests.fleet.stand_in:StandIn",
        gateways=2,
        cpus=0.1,
        gateway_cpus=0.1,
        max_sessions=2,
        fps=24.0,
        codec="jpeg",
        rest=False,
    )
    free = bind(replace(config.serving(), port=0))
    config = replace(config, port=free.getsockname()[1])
    free.close()
    begin_local(config)
    import ray
    from ray import serve

    try:
        run(config)
        found = Fleet(config, steps)
        found.until_ready()
        yield found
    finally:
        serve.shutdown()
        ray.shutdown()
