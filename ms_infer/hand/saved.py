"""The state of a hand as arrays: what it holds, with times relative to the moment at which it is saved."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ms_infer.errors import require
from ms_infer.hand.dots import Dots, Hold, Kind
from ms_infer.hand.movers import MAX_SAMPLES, Field, Path, Pointer, Stick
from ms_infer.tracks import Tracks

Arrays = dict[str, NDArray[Any]]
MAX_HOLDS = 80
SOME = 1 << 16  # corners of a path, cells of a field
LONG_AGO = -1e9  # seconds: a hand that has made no tracks yet


def save_dots(dots: Dots) -> Arrays:
    """ids [N], places [N, 4] (where they are, where they rested), marks [N, 3] (kind, free, grouped), next [1]."""
    marks = np.stack([dots.kind, dots.free, dots.grouped], -1).astype(np.uint8)
    places = np.concatenate([dots.points, dots.rest], -1)
    return {"ids": dots.ids.copy(), "places": places, "marks": marks, "next": np.array([dots.next], np.int64)}


def load_dots(arrays: Mapping[str, NDArray[Any]], capacity: int) -> Dots:
    """Dots as they were saved; ConfigError where they do not fit."""
    ids = checked(arrays, "ids", np.int64, (None,), most=capacity)
    places = checked(arrays, "places", np.float64, (len(ids), 4))
    marks = checked(arrays, "marks", np.uint8, (len(ids), 3))
    (number,) = checked(arrays, "next", np.int64, (1,))
    require(len(set(ids.tolist())) == len(ids) and bool((ids >= 0).all()), "a saved hand holds ids twice or below 0")
    require(bool((marks <= [max(Kind), 1, 1]).all()), "a saved hand holds points of no known kind")
    require(0 <= number < 1 << 62, "a saved hand counts its points from an impossible number")
    dots = Dots(capacity)
    dots.next, dots.ids = int(number), ids.copy()
    dots.points, dots.rest = places[:, :2].copy(), places[:, 2:].copy()
    dots.kind, dots.free, dots.grouped = marks[:, 0].copy(), marks[:, 1] > 0, marks[:, 2] > 0
    return dots


def save_mover(mover: Pointer | Path, now: float) -> Arrays:
    """numbers: [4] of a pointer, [5] of a path; places: [S, 3] (seconds from now, x, y) or corners [S, 2]."""
    x, y = mover.applied
    if isinstance(mover, Path):
        numbers = [x, y, mover.played, mover.seconds, mover.done]
        return {"numbers": np.array(numbers, np.float64), "places": np.array(mover.corners, np.float64)}
    places = [(at - now, *point) for at, point in zip(mover.times, mover.points, strict=True)]
    return {"numbers": np.array([x, y, mover.up, mover.fresh], np.float64), "places": np.array(places, np.float64)}


def load_mover(arrays: Mapping[str, NDArray[Any]], now: float) -> Pointer | Path:
    """The mover as it was saved."""
    numbers = checked(arrays, "numbers", np.float64, (None,), most=5)
    if len(numbers) == 5:
        corners = checked(arrays, "places", np.float64, (None, 2), most=SOME)
        require(len(corners) >= 2 and numbers[2] >= 0 and numbers[3] > 0, "a saved hand holds a path without a way")
        path = Path([(float(x), float(y)) for x, y in corners], float(numbers[3]))
        path.applied, path.played = (float(numbers[0]), float(numbers[1])), int(numbers[2])
        path.done = bool(numbers[4])
        return path
    require(len(numbers) == 4, "a saved hand holds what is neither a pointer nor a path")
    samples = checked(arrays, "places", np.float64, (None, 3), most=MAX_SAMPLES)
    rising = len(samples) > 0 and bool((np.diff(samples[:, 0]) >= 0).all())
    require(rising, "a saved hand holds a pointer whose times fall")
    pointer = Pointer((float(samples[0, 1]), float(samples[0, 2])), now)
    pointer.times = [now + float(at) for at in samples[:, 0]]
    pointer.points = [(float(x), float(y)) for x, y in samples[:, 1:]]
    pointer.applied = float(numbers[0]), float(numbers[1])
    pointer.up, pointer.fresh = bool(numbers[2]), bool(numbers[3])
    return pointer


def checked(
    arrays: Mapping[str, NDArray[Any]], name: str, dtype: type, shape: tuple[int | None, ...], *, most: int = SOME
) -> NDArray[Any]:
    """The array of that name; ConfigError unless it has this type and shape (None: up to `most`), and is finite."""
    array = arrays.get(name)
    fits = (
        array is not None
        and array.dtype == dtype
        and array.ndim == len(shape)
        and all(have <= most if want is None else have == want for have, want in zip(array.shape, shape, strict=True))
    )
    require(fits, f"a saved hand holds no {name} of the shape {list(shape)}; save it again with Hand.state()")
    assert array is not None
    require(bool(np.isfinite(array).all()), f"a saved hand holds {name} that are not finite")
    return array


def under(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> Arrays:
    """The arrays whose names begin with the prefix, without it."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def seconds_before(last: float, now: float) -> float:
    """A finite number for the time of the last tracks."""
    return last - now if math.isfinite(last) else LONG_AGO


def save(hand: Any, now: float) -> Arrays:
    """The whole of a `Hand`, which is not imported here: it imports this."""
    arrays: Arrays = {f"dots.{name}": array for name, array in save_dots(hand._dots).items()}
    numbers = [
        hand._rows,
        hand._cols,
        hand._played,
        hand.loop,
        hand.hold_rest,
        hand.hold_released,
        seconds_before(hand._last, now),
        hand._field is not None,
    ]
    sticks = (hand._stick, hand._steered, hand._stick_before)
    arrays["numbers"] = np.array(numbers, np.float64)
    arrays["sticks"] = np.array([*((one.x, one.y, one.zoom, one.roll) for one in sticks), hand._way], np.float64)
    if hand._field is not None and hand._field.sum is not None:
        arrays["field"] = hand._field.sum.copy()
    if hand._playing is not None:
        tracks, ids = hand._playing
        arrays |= {"playing.points": tracks.points, "playing.visible": tracks.visible, "playing.ids": tracks.ids}
        arrays["playing.dots"] = ids
    for index, hold in enumerate(hand._holds):
        parts = save_mover(hold.mover, now)
        parts |= {"ids": hold.ids, "pointer": np.array([] if hold.pointer is None else [hold.pointer], np.int64)}
        arrays |= {f"hold{index}.{name}": array for name, array in parts.items()}
    return arrays


def load(hand: Any, arrays: Mapping[str, NDArray[Any]], now: float) -> None:
    """Put a saved hand in the place of this one, once all of it is checked."""
    dots = load_dots(under("dots.", arrays), hand.capacity)
    numbers = checked(arrays, "numbers", np.float64, (8,))
    sticks = checked(arrays, "sticks", np.float64, (4, 4))
    require(bool((numbers[:3] >= 0).all()) and numbers[6] <= 0, "a saved hand holds numbers below 0 or a later time")
    fits = bool((numbers[:2] <= hand.capacity).all()) and numbers[0] * numbers[1] <= hand.capacity
    require(fits, "a saved hand holds a grid that does not fit")
    require(bool((np.abs(sticks[:3]) <= 1).all()), "a saved hand holds a stick beyond its full speed")
    playing, holds = _load_playing(under("playing.", arrays), hand), _load_holds(arrays, now)
    field = Field() if numbers[7] else None
    if field is not None and "field" in arrays:
        pushed = checked(arrays, "field", np.float64, (None, None, 2), most=256)
        require(pushed.size > 0, "a saved hand holds an empty field")
        field.add(pushed)
    hand._dots, hand._playing, hand._holds, hand._field = dots, playing, holds, field
    hand._rows, hand._cols, hand._played = (int(number) for number in numbers[:3])
    hand.loop, hand.hold_rest, hand.hold_released = (bool(number) for number in numbers[3:6])
    hand._last = now + float(numbers[6]) if numbers[6] > LONG_AGO else -math.inf
    hand._stick, hand._steered, hand._stick_before = (Stick(*(float(one) for one in row)) for row in sticks[:3])
    hand._way = [float(one) for one in sticks[3]]
    hand.kinds = dots.kind.copy()


def _load_playing(arrays: Arrays, hand: Any) -> tuple[Tracks, NDArray[np.int64]] | None:
    if not arrays:
        return None
    points = checked(arrays, "points", np.float32, (None, None, 2))
    visible = checked(arrays, "visible", np.bool_, points.shape[:2])
    ids = checked(arrays, "ids", np.int64, points.shape[:1])
    return Tracks(points, visible, ids, fps=hand.fps), checked(arrays, "dots", np.int64, points.shape[:1])


def _load_holds(arrays: Mapping[str, NDArray[Any]], now: float) -> list[Hold]:
    holds: list[Hold] = []
    while (part := under(f"hold{len(holds)}.", arrays)) and len(holds) < MAX_HOLDS:
        pointer = checked(part, "pointer", np.int64, (None,), most=1)
        ids = checked(part, "ids", np.int64, (None,))
        holds.append(Hold(load_mover(part, now), ids.copy(), int(pointer[0]) if len(pointer) else None))
    return holds
