"""Who sits where, and what is kept of them: pure, with time as a number."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import numpy as np
import pytest

from ms_infer.config import StreamConfig
from ms_infer.errors import ConfigError
from ms_infer.fleet.config import FleetConfig
from ms_infer.fleet.keeper import Found, Keeper
from ms_infer.fleet.place import Places
from ms_infer.fleet.vault import KEEP_SECONDS, MOVE_SECONDS, Card, Place, Vault
from ms_infer.serve.saved import Facts, SessionState, joined, pack_stream, unpack
from tests.fleet.here import Here
from tests.fleet.stand_in import StandIn


def places(*capacities: float, spare: float = 0.0) -> Places:
    made = Places(spare)
    for number, capacity in enumerate(capacities):
        made.report(f"e{number}", f"n{number}", capacity, 0.0)
    return made


def test_no_more_are_let_in_than_there_are_seats() -> None:
    seated = places(2, 3)
    engines = [seated.reserve(f"s{number}", first=False) for number in range(8)]
    assert engines.count("e0") == 2
    assert engines.count("e1") == 3
    assert engines.count(None) == 3
    seated.free("s0")
    assert seated.reserve("t", first=False) == engines[0]


def test_spare_seats_are_for_those_that_lost_an_engine() -> None:
    seated = places(4, 4, spare=0.25)
    assert sum(seated.reserve(f"s{number}", first=False) is not None for number in range(8)) == 6
    for seat in seated.lose("e0"):
        assert seated.move(seat, "e0") in ("e1", None)
    assert len(seated.on("e1")) == 4
    assert seated.reserve("new", first=False) is None


def test_session_that_comes_back_is_let_in_though_its_old_seat_is_not_free_yet() -> None:
    seated = places(1)
    assert seated.reserve("old", first=False) == "e0"
    assert seated.reserve("new", first=False) is None
    assert seated.reserve("back", first=True) == "e0"


def test_drained_node_hands_over_and_takes_nobody() -> None:
    seated = places(2, 2)
    assert seated.reserve("a", first=False) == "e0"
    assert seated.drain("n0") == ["e0"]
    assert seated.move("a", "e0") == "e1"
    assert seated.reserve("b", first=False) == "e1"
    assert seated.reserve("c", first=False) is None
    seated.report("e2", "n0", 2, 1.0)
    assert seated.reserve("c", first=False) is None
    assert seated.capacity == 2


def test_stream_that_was_moved_already_stays_there() -> None:
    seated = places(1, 1)
    seated.reserve("a", first=False)
    assert seated.move("a", "e0") == "e1"
    assert seated.move("a", "e0") == "e1"


def test_newest_state_stays_whatever_comes_late() -> None:
    vault = Vault()
    assert vault.keep("a", Place(1, 8), b"8") == (1, 8)
    assert vault.keep("a", Place(1, 4), b"4") == (1, 8)
    assert vault.keep("a", Place(2, 0), b"new start") == (2, 0)
    assert vault.newest("a") == ((2, 0), b"new start")
    assert vault.nbytes == 9


def card(whole: bytes | None = None) -> Card:
    return Card("s", "g", Place(1, 4), light(), 0.0, whole)


def light() -> bytes:
    facts = Facts("name", "key", "running", 1, 2, 0, False, "words")
    return SessionState(facts, None, None, {"a": np.zeros(1)}, None).pack()


def test_session_is_whoever_asks_first_and_knows_its_key() -> None:
    vault = Vault()
    vault.tell("name", "key", card())
    assert vault.ask("name", "guess") is None
    assert vault.take("name", "guess", 0.0) is None
    assert vault.ask("name", "key") is not None
    assert vault.ask("name", "key") is None
    assert vault.take("name", "key", 0.0) is not None
    assert vault.take("name", "key", 0.0) is None


def test_session_that_is_being_handed_out_is_there_again_in_a_moment() -> None:
    """Whoever asks meanwhile, with a page loaded anew for instance, must not take it for gone."""
    vault = Vault()
    vault.tell("name", "key", card())
    assert not vault.moving("name", "key", 100.0)
    vault.ask("name", "key")
    assert vault.moving("name", "key", 100.0)
    vault.take("name", "key", 100.0)
    assert vault.moving("name", "key", 100.1)
    assert not vault.moving("name", "key", 100.0 + MOVE_SECONDS)  # whoever got it is gone as well
    vault.tell("name", "key", card())
    assert not vault.moving("name", "key", 100.1)


def test_key_of_a_session_that_was_taken_over_is_worth_nothing() -> None:
    vault = Vault()
    vault.tell("name", "key", card())
    vault.tell("name", "newer", card())
    assert vault.ask("name", "key") is None
    assert vault.take("name", "key", 0.0) is None
    assert vault.take("name", "newer", 0.0) is not None


def test_session_goes_on_with_the_newest_state_of_its_stream() -> None:
    stream = StandIn(seconds=0.0, size=1000)
    for _ in range(4):
        stream.step()
    state, vault = pack_stream(stream.state()), Vault()
    for kept, index in ((Place(1, 4), 4), (Place(0, 4), None)):
        vault.tell("name", "key", card())
        vault.keep("s", kept, state)
        found = vault.take("name", "key", 0.0)
        assert found is not None
        session = unpack(found, stream.config)
        assert session.facts.prompt == "words"
        assert (None if session.stream is None else session.stream.index) == index
        assert not vault.seats


def test_handed_over_session_outlives_its_stream_and_late_cards() -> None:
    vault = Vault()
    vault.tell("name", "key", card(whole=b"whole"))
    vault.tell("name", "key", card())
    vault.forget("s")
    assert vault.take("name", "key", 0.0) == b"whole"
    vault.tell("name", "key", card())
    vault.forget("s")
    assert vault.take("name", "key", 0.0) is None


def test_session_that_nobody_comes_back_to_is_thrown_away() -> None:
    vault = Vault()
    vault.tell("name", "key", card())
    vault.keep("s", Place(1, 4), b"state")
    vault.tidy(KEEP_SECONDS + 1, {"g"})
    assert vault.seats
    vault.tidy(KEEP_SECONDS + 1, set())
    assert not vault.seats
    assert vault.take("name", "key", 0.0) is None


@pytest.mark.parametrize("stream", [b"", b"no file", b"\x10" + bytes(7) + b'{"a": 1}        '])
def test_session_with_a_broken_stream_is_a_config_error(stream: bytes) -> None:
    with pytest.raises(ConfigError):
        joined(light(), stream)


def test_keeper_asks_the_gateway_that_has_a_session() -> None:
    fleet = Here()
    keeper: Keeper = fleet.keeper
    stream = fleet.stream("s")
    fleet.run(keeper.listen("g", ["s"], None))
    fleet.run(keeper.tell("name", "key", "s", "g", stream.place, light()))

    async def both() -> tuple[Found, list[str], bool, Found]:
        finding = asyncio.ensure_future(keeper.find("name", "key"))
        order = await keeper.listen("g", ["s"], None)
        while not order.hand_over:
            order = await keeper.listen("g", ["s"], order)
        meanwhile = await keeper.find("name", "key")
        saved = await keeper.save("name", "key", "s", "g", b"whole")
        return await finding, order.hand_over, saved, meanwhile

    assert fleet.run(both()) == (Found(b"whole"), ["name"], True, Found(None, moving=True))
    assert not fleet.run(keeper.save("name", "key", "s", "g", b"late"))  # it is somebody else's now
    assert fleet.run(keeper.status())["streams"] == 0
    fleet.close()


def test_seat_whose_gateway_is_gone_becomes_free(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Here()
    keeper = fleet.keeper
    fleet.stream("s")
    fleet.run(keeper.listen("g", ["s"], None))
    fleet.run(keeper._look())
    assert fleet.run(keeper.status())["streams"] == 1
    clock = time.monotonic
    monkeypatch.setattr("ms_infer.fleet.keeper.time.monotonic", lambda: clock() + 60)
    fleet.run(keeper._look())
    assert fleet.run(keeper.status())["streams"] == 0
    fleet.close()


def test_keeper_learns_from_engines_who_sits_where() -> None:
    fleet = Here()
    streams = [fleet.stream(name) for name in "abc"]
    for stream in streams:
        stream.step()
    fleet.begin_keeper()
    fleet.report()
    told = fleet.run(fleet.keeper.status())
    assert (told["streams"], told["states"]) == (3, 0)
    assert {one["streams"] for one in told["engines"].values()} == {1, 2}
    fleet.close()


def test_settings_survive_a_file() -> None:
    config = FleetConfig(source="demo", replicas=3, origin=("https://a.b",), keep="near")
    assert FleetConfig.from_dict(config.to_dict()) == config
    assert FleetConfig.from_dict({"origin": ["https://a.b"]}).origin == ("https://a.b",)
    with pytest.raises(ConfigError, match="no setting 'replica'"):
        FleetConfig.from_dict({"replica": 3})
    with pytest.raises(ConfigError, match="replicas must be within"):
        FleetConfig(replicas=0)
    with pytest.raises(ConfigError, match="token"):
        FleetConfig(host="0.0.0.0")


def test_settings_of_streams_survive_the_keeper() -> None:
    config = StandIn().config
    assert StreamConfig.from_dict(config.to_dict()) == config


def test_examples_are_settings_of_a_fleet() -> None:
    import yaml

    folder = Path(__file__).parents[2] / "examples" / "fleet"
    for name in ("serve.yaml", "rayservice.yaml"):
        text = (folder / name).read_text()
        told = yaml.safe_load(text)
        told = yaml.safe_load(told["spec"]["serveConfigV2"]) if "spec" in told else told
        engines, gateways = told["applications"]
        assert (engines["import_path"], gateways["import_path"]) == (
            "ms_infer.fleet.deploy:engines",
            "ms_infer.fleet.deploy:gateways",
        )
        assert FleetConfig.from_dict(engines["args"]) == FleetConfig.from_dict(gateways["args"])
