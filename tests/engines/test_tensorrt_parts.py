"""Parts of the TensorRT engine's host side, each by itself: memory, noise, the driver, the library's members."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorrt_rtx", reason="needs the extra [rtx]")
pytest.importorskip("cuda.bindings.runtime", reason="needs the extra [rtx]")

from ms_infer import DeviceError
from ms_infer.checkpoint import Student
from ms_infer.engines.tensorrt.cuda import Cuda
from tests.engines.fake_cuda import FakeCuda
from tests.tiny import tiny_student


@pytest.fixture(scope="module")
def student() -> Student:
    return tiny_student()


def test_half_precision_is_laid_out_without_overlaps(student: Student) -> None:
    from ms_infer.bundle.stages import stage_specs
    from ms_infer.engines.tensorrt.memory import StageMemory

    cuda, specs = FakeCuda(), stage_specs(student.config, dtype="bf16")
    memory = StageMemory(Cuda(cuda), student.config, specs, passes=4)
    spans = {}
    for stage, spec in specs.items():
        aliased = {new for _, new in spec.aliases}
        for tensor in (*spec.inputs, *spec.outputs):
            if tensor.name not in aliased:
                spans[memory.address(stage, tensor)] = tensor.nbytes
                assert cuda.owns(memory.address(stage, tensor), tensor.nbytes), f"{stage}.{tensor.name}"
    assert len(spans) > 40
    assert memory.pass_address(1) - memory.pass_address(0) == memory.bound.nbytes


def test_noise_is_drawn_ahead_and_only_taken_where_it_fits() -> None:
    from ms_infer.numerics import noise
    from ms_infer.numerics.noise import NoiseAhead

    ahead = NoiseAhead((4, 2, 2), draws=2)
    ahead.prepare(seed=1, chunk=5, frames=3)
    for seed, chunk, frames in ((1, 5, 3), (1, 6, 3), (2, 5, 3), (1, 5, 1)):
        made = ahead.take(seed, chunk, frames)
        assert [m.shape for m in made] == [(1, frames, 4, 2, 2)] * 2
        np.testing.assert_array_equal(made[1].ravel(), noise.normal(seed, chunk, 1, frames * 16))


def test_an_old_driver_is_told() -> None:
    cuda = FakeCuda()
    cuda.fail["cudaGetDeviceCount"] = 1
    with pytest.raises(DeviceError, match="update the driver"):
        Cuda(cuda)


IN_PYTHON = {
    "enqueueV3": "execute_async_v3",
    "setDeviceMemoryV2": "set_device_memory",
    "getTensorDataType": "get_tensor_dtype",
    "getDeviceMemorySizeV2": "device_memory_size_v2",
}
"""Functions of the C++ interface whose Python names are not just spelled otherwise."""


def test_declarations_that_cpp_is_compiled_against_are_those_of_the_library() -> None:
    """NVIDIA's wheels carry no headers; its Python modules have the same classes and numbers."""
    import tensorrt_rtx as trt

    header = (Path(__file__).parents[1] / "cpp" / "fake_tensorrt" / "NvInferRuntime.h").read_text()
    compared = 0
    for name, members in re.findall(r"enum class (\w+) : int32_t \{([^}]*)\}", header):
        enum = trt.ILogger.Severity if name == "Severity" else getattr(trt, name)
        for value, member in enumerate(part.strip().removeprefix("k") for part in members.split(",")):
            assert int(enum.__members__[member]) == value, f"{name}.{member}"
            compared += 1
    for name, body in re.findall(r"^class I(\w+) \{(.*?)^\};", header, re.S | re.M):
        owner = trt.Runtime if name == "Runtime" else getattr(trt, f"I{name}")
        for function in re.findall(r"(\w+)\([^)]*\)(?: const)? noexcept", body):
            spelled = IN_PYTHON.get(function, re.sub(r"(?<!^)([A-Z])", r"_\1", function).lower())
            assert hasattr(owner, spelled), f"I{name}.{function}"
            compared += 1
    assert compared >= 26


def test_the_library_tells_cpp_its_release() -> None:
    libs = pytest.importorskip("tensorrt_rtx_libs")
    import tensorrt_rtx as trt

    library = ctypes.CDLL(str(next(Path(libs.__path__[0]).glob("libtensorrt_rtx.so*"))))
    major, minor = (int(part) for part in trt.__version__.split(".")[:2])
    found = int(library.getInferLibVersion())
    assert (found // 10_000, found // 100 % 100) == (major, minor)
    assert hasattr(library, "createInferRuntime_INTERNAL"), "what the headers' createInferRuntime calls"


def test_every_member_that_is_used_exists_in_the_library() -> None:
    import tensorrt_rtx as trt

    used = {
        trt.ICudaEngine: "get_tensor_name get_tensor_shape get_tensor_dtype num_io_tensors get_aliased_input_tensor "
        "device_memory_size_v2 create_runtime_config create_execution_context",
        trt.IRuntimeConfig: "cuda_graph_strategy create_runtime_cache set_runtime_cache "
        "set_execution_context_allocation_strategy",
        trt.IExecutionContext: "set_device_memory set_tensor_address execute_async_v3 is_stream_capturable",
        trt.Runtime: "deserialize_cuda_engine get_engine_validity",
        trt.IRuntimeCache: "serialize deserialize",
    }
    absent = [f"{kind.__name__}.{n}" for kind, names in used.items() for n in names.split() if not hasattr(kind, n)]
    assert absent == []
