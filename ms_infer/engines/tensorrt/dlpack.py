"""Memory as a DLPack capsule, which array libraries take without a copy."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, ClassVar

CPU, CUDA = 1, 2
_UNSIGNED = 1
_NAME = b"dltensor"
_held: dict[int, tuple[object, object]] = {}
"""Address of a managed tensor -> what it needs until its reader lets go of it."""


class _Tensor(ctypes.Structure):
    _fields_: ClassVar = [
        ("data", ctypes.c_void_p),
        ("device_kind", ctypes.c_int32),
        ("device_number", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class _Managed(ctypes.Structure):
    _fields_: ClassVar = [("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p)]


def _release(managed: int) -> None:
    _held.pop(managed, None)


def _unread(capsule: int) -> None:
    """A capsule that nobody took goes with its tensor; one that was taken is called otherwise, and its reader's."""
    if ctypes.pythonapi.PyCapsule_IsValid(ctypes.c_void_p(capsule), _NAME):
        ctypes.pythonapi.PyCapsule_GetPointer.restype = ctypes.c_void_p
        _held.pop(ctypes.pythonapi.PyCapsule_GetPointer(ctypes.c_void_p(capsule), _NAME), None)


_RELEASE, _UNREAD = (ctypes.CFUNCTYPE(None, ctypes.c_void_p)(function) for function in (_release, _unread))


def capsule_of(address: int, shape: Sequence[int], owner: object, device: tuple[int, int]) -> Any:
    """A capsule over uint8 `shape` at an address; `owner` lives until its reader lets go."""
    sizes = (ctypes.c_int64 * len(shape))(*shape)
    managed = _Managed()
    managed.tensor = _Tensor(address, *device, len(shape), _UNSIGNED, 8, 1, sizes, None, 0)
    managed.deleter = ctypes.cast(_RELEASE, ctypes.c_void_p)
    place = ctypes.addressof(managed)
    _held[place] = (managed, (sizes, owner))
    make = ctypes.pythonapi.PyCapsule_New
    make.restype, make.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    return make(place, _NAME, ctypes.cast(_UNREAD, ctypes.c_void_p))
