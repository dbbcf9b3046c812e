"""The messages between page and server: one type byte, then JSON or packed numbers (docs/reference/protocol.md)."""

from __future__ import annotations

import json
import struct
from enum import IntEnum
from typing import Annotated, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from ms_infer.blend import Way

VERSION = 2
FRAME_HEAD = struct.Struct("<BBHHIIId")
ACK_HEAD = struct.Struct("<BBHIIIIH")
SEEN = struct.Struct("<BI")
UNITS = 8192
"""An applied position is a little-endian int16 of 1/8192 of the picture's width or height."""
HIDDEN = -32768
"""Both coordinates of a point that is not visible in a frame."""
MOST_CHARACTERS = 4000
"""Of a prompt; models read 512 tokens of it."""
MOST_OVER = 240
"""Chunks over which a prompt may come."""


class Type(IntEnum):
    """First byte of every message; a receiver ignores types it does not know."""

    NOTHING = 0
    """A message of one byte, before the hello: with it the two tell how fast the link is before the first frame."""
    HELLO = 1
    CONTROL = 2
    FRAME = 3
    ACK = 4
    STATS = 5
    ERROR = 6
    BYE = 7
    WEBCAM = 8
    SEEN = 9


class Codec(IntEnum):
    """How the picture of a frame message is coded."""

    JPEG = 0
    H264_DELTA = 1
    H264_KEY = 2
    WEBP = 3


class BadMessage(ValueError):
    """A message that cannot be read; the text may be shown to its sender."""


def pack_json(kind: Type, content: dict[str, Any]) -> bytes:
    """A hello, control, stats, error or bye message."""
    return bytes([kind]) + json.dumps(content, separators=(",", ":"), allow_nan=False).encode()


def pack_frame(
    picture: bytes, codec: Codec, size: tuple[int, int], chunk: int, frame: int, control: int, made_ms: float
) -> bytes:
    """A frame message. `size` is (height, width), `frame` the RGB frame's index in the stream, `control` the newest
    control it was made with, `made_ms` the server's clock when its chunk was finished."""
    height, width = size
    head = FRAME_HEAD.pack(Type.FRAME, codec, width, height, chunk, frame & 0xFFFFFFFF, control, made_ms)
    return head + picture


def pack_ack(
    chunk: int,
    first_frame: int,
    control: int,
    prompt: int,
    kinds: NDArray[np.uint8],
    points: NDArray[np.floating[Any]],
    visible: NDArray[np.bool_],
) -> bytes:
    """What a chunk was made with: points `[N, T, 2]` in 0..1 for each of its T frames, visible `[N, T]`, kinds `[N]`.

    `control` is the newest control applied, `prompt` the control that set the prompt in force.
    """
    count, frames = visible.shape
    units = np.clip(np.rint(points * UNITS), HIDDEN + 1, -HIDDEN - 1).astype("<i2")
    units[~visible] = HIDDEN
    head = ACK_HEAD.pack(Type.ACK, 0, count, chunk, first_frame & 0xFFFFFFFF, control, prompt, frames)
    return head + kinds.astype(np.uint8).tobytes() + units.tobytes()


def read_seen(data: bytes) -> int:
    """How many messages the client says to have received, modulo 2^32."""
    if len(data) != SEEN.size:
        raise BadMessage(f"a seen message has {SEEN.size} bytes, not {len(data)}")
    return int(SEEN.unpack(data)[1])


class Picked(BaseModel):
    """Body of `/thing`: places that are part of a thing, the first one picks it, and places that are not."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    add: Annotated[list[tuple[float, float]], Field(min_length=1, max_length=64)]
    omit: Annotated[list[tuple[float, float]], Field(max_length=64)] = []


def read_picked(data: bytes) -> Picked:
    """The places in the body of a request."""
    try:
        return Picked.model_validate_json(data)
    except ValidationError as error:
        raise BadMessage(
            f'a thing is picked by {{"add": [[x, y], ...], "omit": [...]}}: {error.errors()[0]["msg"]}'
        ) from None


# ---- controls

Unit = Annotated[float, Field(ge=-1, le=2, allow_inf_nan=False)]
Stick = Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)]
Time = Annotated[float, Field(ge=0, le=1e15, allow_inf_nan=False)]
Point = tuple[Unit, Unit]
Thing = Annotated[list[Point], Field(max_length=64)] | None
"""Points that lie upon a thing, which is then taken instead of what lies within a radius."""
Length = Annotated[float, Field(ge=-10, le=10, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)]
Radius = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
PointerEvent = tuple[Annotated[int, Field(ge=0, le=1 << 40)], Literal["down", "move", "up"], Time, Unit, Unit]


class Message(BaseModel):
    """Fields of every control. Unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=False)

    id: Annotated[int, Field(ge=0, le=0xFFFFFFFF)] = 0
    """Counts up; a frame carries the newest id it was made with."""
    t: Time = 0.0
    """The client's clock in milliseconds."""


class Join(Message):
    """First message: a new session, the one that `session` and `key` name, a fork of it, or watching."""

    do: Literal["join"]
    version: int
    session: Annotated[str, Field(max_length=64)] = ""
    key: Annotated[str, Field(max_length=64)] = ""
    watch: bool = False
    fork: bool = False
    """A new session that goes on from where that one stands."""
    codecs: Annotated[list[Annotated[str, Field(max_length=16)]], Field(max_length=8)] = ["jpeg"]
    """What the client can show: jpeg, webp, h264."""


class Start(Message):
    """Begin a new stream: with an example, or with the picture that is there."""

    do: Literal["start"]
    example: Annotated[str, Field(max_length=40)] = ""
    prompt: Annotated[str, Field(max_length=MOST_CHARACTERS)] | None = None
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] | None = None


class Simple(Message):
    """stop, pause, resume; reset: start over; clear: remove what was placed or drawn."""

    do: Literal["stop", "pause", "resume", "reset", "clear"]


class Ask(Message):
    """key: the next frame must stand alone; leave: the session is given up; take: a watcher wants to own it."""

    do: Literal["key", "leave", "take"]


class Change(Message):
    """How a prompt takes the place of the one before: over so many chunks, and with the context encoded again."""

    over: Annotated[int, Field(ge=1, le=MOST_OVER)] = 1
    way: Way = "linear"
    recache: bool = False


class Prompt(Change):
    """A new prompt from the next chunk on; what is left of a schedule ends."""

    do: Literal["prompt"]
    text: Annotated[str, Field(max_length=MOST_CHARACTERS)]


class Schedule(Change):
    """Prompts that come by themselves, each so many seconds of video from now; in place of the schedule before."""

    do: Literal["schedule"]
    prompts: Annotated[list[tuple[Seconds, Annotated[str, Field(max_length=MOST_CHARACTERS)]]], Field(max_length=32)]

    @model_validator(mode="after")
    def _in_order(self) -> Schedule:
        times = [seconds for seconds, _ in self.prompts]
        if sorted(set(times)) != times:
            raise ValueError("the times of the prompts must grow")
        return self


class Pointers(Message):
    """Drags: (pointer, down | move | up, client milliseconds, x, y); points within `radius` come along."""

    do: Literal["pointers"]
    events: Annotated[list[PointerEvent], Field(max_length=64)]
    radius: Radius = 0.15
    thing: Thing = None


class Points(Message):
    """static: points that must not move; brush: points that move together; remove: those that were put there."""

    do: Literal["static", "brush", "remove"]
    points: Annotated[list[Point], Field(min_length=1, max_length=64)]


class Path(Message):
    """A drawn path that the points near its start follow from the next chunk on."""

    do: Literal["path"]
    points: Annotated[list[Point], Field(min_length=2, max_length=256)]
    seconds: Annotated[float, Field(ge=0.1, le=60, allow_inf_nan=False)] = 2.0
    radius: Radius = 0.15
    thing: Thing = None


class Camera(Message):
    """Speed of the camera, each -1..1: to the right, down, in, clockwise. It holds until the next one."""

    do: Literal["camera"]
    x: Stick = 0.0
    y: Stick = 0.0
    zoom: Stick = 0.0
    roll: Stick = 0.0


class Carry(Message):
    """Move the camera by pictures to the right and down, e-folds in, radians clockwise; no faster than its stick."""

    do: Literal["carry"]
    x: Length = 0.0
    y: Length = 0.0
    zoom: Length = 0.0
    roll: Length = 0.0


class Grid(Message):
    do: Literal["grid"]
    rows: Annotated[int, Field(ge=0, le=50)]
    cols: Annotated[int, Field(ge=0, le=50)]


class Options(Message):
    """hold_rest: grid points that nobody moves stay put (else they are free); hold_released: so do dragged ones."""

    do: Literal["options"]
    hold_rest: bool | None = None
    hold_released: bool | None = None


class Switch(Message):
    """record: write an mp4; webcam: points follow the webcam; transfer: points follow the uploaded video, `loop`: again
    and again."""

    do: Literal["record", "webcam", "transfer"]
    on: bool
    loop: bool = False


Control = (
    Join
    | Start
    | Simple
    | Ask
    | Prompt
    | Schedule
    | Pointers
    | Points
    | Path
    | Camera
    | Carry
    | Grid
    | Options
    | Switch
)
_CONTROLS: TypeAdapter[Control] = TypeAdapter(Annotated[Control, Field(discriminator="do")])
KNOWN = frozenset(name for control in get_args(Control) for name in get_args(control.model_fields["do"].annotation))


def read_control(data: bytes) -> Control | None:
    """The control in a message's bytes after the type; None for one that this version does not know."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        raise BadMessage("a control must be JSON in UTF-8") from None
    if not isinstance(content, dict):
        raise BadMessage("a control must be a JSON object")
    if not isinstance(content.get("do"), str) or content["do"] not in KNOWN:
        return None
    try:
        return _CONTROLS.validate_python(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        raise BadMessage(f"control {content['do']!r}: {where or 'it'}: {first['msg']}"[:300]) from None


def control_schema() -> dict[str, Any]:
    """JSON schema of all controls."""
    return _CONTROLS.json_schema(ref_template="#/components/schemas/{model}")
