"""The C interface through ctypes: a second implementation of a stream for the equality tests."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, byref, c_char_p, c_double, c_float, c_int32, c_int64, c_size_t, c_uint8, c_uint64, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class ModelParams(ctypes.Structure):
    _fields_ = (
        ("struct_size", c_size_t),
        ("bundle", c_char_p),
        ("engine", c_char_p),
        ("precision", c_char_p),
        ("threads", c_int32),
        ("device", c_int32),
        ("progress", c_void_p),
        ("user", c_void_p),
    )


class Prompt(ctypes.Structure):
    _fields_ = (
        ("struct_size", c_size_t),
        ("embedding", POINTER(c_float)),
        ("embedding_tokens", c_int32),
        ("recache", c_int32),
        ("replace_sink", c_int32),
        ("embedding_file", c_char_p),
        ("text", c_char_p),
        ("over", c_int32),
        ("slerp", c_int32),
    )


class StartParams(ctypes.Structure):
    _fields_ = (
        ("struct_size", c_size_t),
        ("image", POINTER(c_uint8)),
        ("image_width", c_int32),
        ("image_height", c_int32),
        ("prompt", POINTER(Prompt)),
        ("tracks", c_void_p),
        ("seed", c_uint64),
    )


class ChunkStruct(ctypes.Structure):
    _fields_ = (
        ("struct_size", c_size_t),
        ("index", c_int64),
        ("first_rgb_frame", c_int64),
        ("control_id", c_int64),
        ("frames", POINTER(c_uint8)),
        ("rgb_frames", c_int32),
        ("height", c_int32),
        ("width", c_int32),
        ("times", c_float * 5),
        ("buffer", c_void_p),
        ("buffer_bytes", c_size_t),
        ("row_stride", c_size_t),
        ("frame_stride", c_size_t),
        ("device_frames", c_void_p),
        ("device_event", c_void_p),
    )


class Camera(ctypes.Structure):
    _fields_ = (
        ("struct_size", c_size_t),
        *((name, c_double) for name in ("pan_x", "pan_y", "zoom", "roll", "aspect", "dolly", "seconds", "start")),
        *((name, c_int32) for name in ("linear", "depth_height", "depth_width")),
        ("depth", c_void_p),
    )


class NativeError(Exception):
    """A status other than ok, with the library's words."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


class Library:
    """libms_infer, opened."""

    def __init__(self, path: Path) -> None:
        self.handle = ctypes.CDLL(str(path))
        self.handle.ms_last_error.restype = c_char_p
        self.handle.ms_version.restype = c_char_p
        for name in ("ms_model_close", "ms_stream_destroy", "ms_tracks_destroy"):
            getattr(self.handle, name).argtypes = [c_void_p]
        self.handle.ms_tracks_path.argtypes = [c_void_p, c_void_p, c_int32, *[c_double] * 3, c_int32, c_void_p]
        self.handle.ms_tracks_grab.argtypes = [c_void_p, *[c_double] * 7, c_void_p]
        for name in ("ms_tracks_static", "ms_tracks_select"):
            getattr(self.handle, name).argtypes = [c_void_p, c_void_p, c_int32, c_void_p]
        self.handle.ms_tracks_load.argtypes = [c_char_p, c_int32, c_int32, c_double, c_void_p]
        self.handle.ms_tracks_save.argtypes = [c_void_p, c_char_p]
        self.handle.ms_tracks_resample.argtypes = [c_void_p, c_double, c_void_p]
        self.handle.ms_tracks_grid.argtypes = [*[c_int32] * 4, c_double, c_void_p]
        self.handle.ms_tracks_create.argtypes = [*[c_void_p] * 3, *[c_int32] * 4, c_double, c_void_p]

    def call(self, name: str, *args: Any) -> None:
        status = getattr(self.handle, name)(*args)
        if status:
            raise NativeError(status, self.handle.ms_last_error().decode())

    def tracks(self, name: str, *args: Any) -> NativeTracks:
        """Tracks made by one of the functions that give some."""
        made = c_void_p()
        self.call(name, *args, byref(made))
        return NativeTracks(self, made)

    def from_python(self, tracks: Any) -> NativeTracks:
        """The same tracks as an `ms_infer.Tracks`."""
        height, width = tracks.size or (0, 0)
        points, visible = np.ascontiguousarray(tracks.points), np.ascontiguousarray(tracks.visible, np.uint8)
        ids = np.ascontiguousarray(tracks.ids)
        pointers = [array.ctypes.data for array in (points, visible, ids)]
        sizes = tracks.count, tracks.rgb_frames, width, height, tracks.fps
        return self.tracks("ms_tracks_create", *pointers, *sizes)


class NativeTracks:
    def __init__(self, library: Library, handle: c_void_p) -> None:
        self.library, self.handle = library, handle

    def read(self) -> tuple[Array, Array, Array]:
        """points [count, frames, 2], visible [count, frames], ids [count]."""
        count, frames = c_int32(), c_int32()
        self.library.call("ms_tracks_size", self.handle, byref(count), byref(frames))
        points = np.zeros((count.value, frames.value, 2), np.float32)
        visible = np.zeros((count.value, frames.value), np.uint8)
        ids = np.zeros(count.value, np.int64)
        pointers = [c_void_p(array.ctypes.data) for array in (points, visible, ids)]
        self.library.call("ms_tracks_read", self.handle, *pointers)
        return points, visible.astype(np.bool_), ids

    def __del__(self) -> None:
        self.library.handle.ms_tracks_destroy(self.handle)


class NativeModel:
    """A bundle that is open in the C library, for any number of streams."""

    def __init__(self, library: Library, bundle: Path, *, engine: str = "auto", precision: str = "", threads: int = 0):
        self.library, self.handle = library, c_void_p()
        params = ModelParams(ctypes.sizeof(ModelParams), str(bundle).encode(), engine.encode())
        params.precision, params.threads = precision.encode() or None, threads
        library.call("ms_model_open", byref(params), byref(self.handle))

    def __del__(self) -> None:
        self.library.handle.ms_model_close(self.handle)


class NativeStream:
    """Looks like `ms_infer.Stream` as far as the tests need it."""

    def __init__(self, library: Library, source: Path | NativeModel, **options: Any):
        model = source if isinstance(source, NativeModel) else NativeModel(library, source, **options)
        self.library, self.handle = library, c_void_p()
        library.call("ms_stream_create", model.handle, None, byref(self.handle))

    def start(self, image: Array | None = None, prompt: str = "", tracks: Any = None, *, seed: int = 0) -> None:
        params = StartParams(struct_size=ctypes.sizeof(StartParams), seed=seed)
        if image is not None:
            pixels = np.ascontiguousarray(image, np.uint8)
            params.image = pixels.ctypes.data_as(POINTER(c_uint8))
            params.image_height, params.image_width = image.shape[:2]
        words = Prompt(struct_size=ctypes.sizeof(Prompt), text=prompt.encode())
        params.prompt = ctypes.pointer(words)
        made = self.library.from_python(tracks) if tracks is not None else None
        params.tracks = made.handle if made is not None else None
        self.library.call("ms_stream_start", self.handle, byref(params))

    def step(self) -> tuple[Array, ChunkStruct]:
        """A copy of the frames, and the chunk."""
        chunk = ChunkStruct(struct_size=ctypes.sizeof(ChunkStruct))
        self.library.call("ms_stream_step", self.handle, byref(chunk))
        shape = (chunk.rgb_frames, chunk.height, chunk.width, 3)
        return np.ctypeslib.as_array(chunk.frames, shape).copy(), chunk

    def set_tracks(self, tracks: Any) -> int:
        number = c_int64()
        made = self.library.from_python(tracks) if tracks is not None else None
        self.library.call("ms_stream_set_tracks", self.handle, made and made.handle, byref(number))
        return number.value

    def set_prompt(
        self, prompt: str, *, recache: bool = False, replace_sink: bool = False, over: int = 1, way: str = "linear"
    ) -> int:
        number = c_int64()
        words = Prompt(struct_size=ctypes.sizeof(Prompt), text=prompt.encode())
        words.recache, words.replace_sink, words.over, words.slerp = recache, replace_sink, over, way == "slerp"
        self.library.call("ms_stream_set_prompt", self.handle, byref(words), byref(number))
        return number.value

    def snapshot(self, path: Path) -> None:
        self.library.call("ms_stream_snapshot", self.handle, str(path).encode())

    def restore(self, path: Path) -> None:
        self.library.call("ms_stream_restore", self.handle, str(path).encode())

    def reset(self) -> None:
        self.library.call("ms_stream_reset", self.handle)

    def close(self) -> None:
        self.library.handle.ms_stream_destroy(self.handle)
        self.handle = c_void_p()

    def __enter__(self) -> NativeStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def corners_of(points: Sequence[tuple[float, float]]) -> Array:
    """Corners of a path as the float64 array that `ms_tracks_path` reads."""
    return np.ascontiguousarray(points, np.float64)


class NativeHand:
    """A hand with Python's method names."""

    def __init__(self, library: Library, rows: int = 10, cols: int = 10, capacity: int = 256) -> None:
        self.library, self.handle = library, c_void_p()
        library.handle.ms_hand_create.argtypes = [c_int32, c_int32, c_double, c_double, c_int32, c_void_p]
        library.call("ms_hand_create", rows, cols, 1.0, 16.0, capacity, byref(self.handle))

    def __del__(self) -> None:
        self.library.handle.ms_hand_destroy(self.handle)

    def call(self, name: str, *arguments: Any) -> None:
        """A function of the hand: whole numbers, floats and arrays as they come."""
        kinds = {int: c_int64, float: c_double}
        converted = [kinds[type(one)](one) if type(one) in kinds else one for one in arguments]
        self.library.call(f"ms_hand_{name}", self.handle, *converted)

    def tracks(self, now: float, frames: int = 12) -> NativeTracks:
        made = c_void_p()
        self.call("tracks", now, frames, byref(made))
        return NativeTracks(self.library, made)

    def save(self, now: float) -> bytes:
        size = c_size_t()
        self.call("save", now, None, byref(size))
        room = ctypes.create_string_buffer(size.value)
        self.call("save", now, room, byref(size))
        return room.raw[: size.value]

    def load(self, now: float, saved: bytes) -> None:
        self.call("load", now, saved, c_size_t(len(saved)))
