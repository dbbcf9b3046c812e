"""Messages byte by byte, and controls that must be refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ms_infer.serve import protocol
from ms_infer.serve.protocol import BadMessage, Codec, Type, read_control
from tests.serve.live import read_ack


def test_json_message_is_its_type_and_compact_json() -> None:
    assert protocol.pack_json(Type.STATS, {"fps": 24.0, "state": "running"}) == b'\x05{"fps":24.0,"state":"running"}'


def test_frame_message_bytes() -> None:
    packed = protocol.pack_frame(b"JPEG", Codec.JPEG, (480, 832), 7, 81, 12, 1.5)
    assert packed.hex(" ") == (
        "03 00 40 03 e0 01 07 00 00 00 51 00 00 00 0c 00 00 00 00 00 00 00 00 00 f8 3f 4a 50 45 47"
    )


def test_ack_message_bytes() -> None:
    points = np.array([[[0.0, 0.5], [1.0, 0.25]], [[-1.0, 2.0], [0.1, 0.1]]])
    visible = np.array([[True, True], [True, False]])
    packed = protocol.pack_ack(3, 33, 9, 4, np.array([1, 2], np.uint8), points, visible)
    assert packed.hex(" ") == (
        "04 00 02 00 03 00 00 00 21 00 00 00 09 00 00 00 04 00 00 00 02 00 01 02 "
        "00 00 00 10 00 20 00 08 00 e0 00 40 00 80 00 80"
    )


def test_ack_reads_back_within_a_unit() -> None:
    rng = np.random.default_rng(0)
    points, visible = rng.uniform(-1, 2, (5, 12, 2)), rng.random((5, 12)) < 0.7
    ack = read_ack(protocol.pack_ack(1, 2, 3, 0, np.arange(5, dtype=np.uint8) % 4, points, visible))
    assert np.array_equal(np.isfinite(ack.points[..., 0]), visible)
    assert np.nanmax(np.abs(ack.points - points)) <= 0.5 / protocol.UNITS + 1e-12


def test_far_positions_are_clipped_and_never_look_hidden() -> None:
    packed = protocol.pack_ack(
        0, 0, 0, 0, np.zeros(1, np.uint8), np.array([[[-99.0, 99.0]]]), np.ones((1, 1), np.bool_)
    )
    assert np.frombuffer(packed[-4:], "<i2").tolist() == [-32767, 32767]


def test_known_control_is_read() -> None:
    data = b'{"do":"pointers","id":3,"t":5.5,"events":[[1,"down",5.0,0.25,0.75]],"radius":0.1,"new":"field"}'
    control = read_control(data)
    assert isinstance(control, protocol.Pointers)
    assert control.events == [(1, "down", 5.0, 0.25, 0.75)]
    assert (control.id, control.radius) == (3, 0.1)


def test_control_of_a_newer_version_is_ignored() -> None:
    assert read_control(b'{"do":"teleport","where":"moon"}') is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"[1,2]",
        b"null",
        b"{" * 100_000,
        b'{"do":"prompt"}',
        b'{"do":"prompt","text":7}',
        b'{"do":"camera","x":NaN}',
        b'{"do":"camera","x":1e9}',
        b'{"do":"path","points":[[0.1,0.2]]}',
        b'{"do":"path","points":[[0.1,Infinity],[0,0]]}',
        b'{"do":"grid","rows":100000,"cols":100000}',
        b'{"do":"pointers","events":[[1,"sideways",0,0,0]]}',
        b'{"do":"start","seed":-1}',
        b'{"do":"reset","id":99999999999}',
        json.dumps({"do": "static", "points": [[0.5, 0.5]] * 65}).encode(),
        json.dumps({"do": "pointers", "events": [[1, "move", 0, 0.5, 0.5]] * 65}).encode(),
    ],
)
def test_wrong_control_is_refused_in_words(data: bytes) -> None:
    with pytest.raises(BadMessage) as refusal:
        read_control(data)
    assert 0 < len(str(refusal.value)) <= 300
    assert "Traceback" not in str(refusal.value)


@pytest.mark.parametrize("do", ["start", "prompt", "schedule"])
def test_a_prompt_has_at_most_4000_characters(do: str) -> None:
    def control(characters: int) -> bytes:
        text = "é" * characters
        content = {"start": {"prompt": text}, "prompt": {"text": text}, "schedule": {"prompts": [[0, text]]}}[do]
        return json.dumps({"do": do, **content}).encode()

    assert read_control(control(4000)) is not None
    with pytest.raises(BadMessage, match=rf"control '{do}': .*at most 4000 characters"):
        read_control(control(4001))


def test_every_control_has_a_schema() -> None:
    text = json.dumps(protocol.control_schema())
    assert all(f'"{name}"' in text for name in protocol.KNOWN)
