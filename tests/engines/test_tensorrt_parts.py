"""Parts of the TensorRT engine's host side, each by itself: memory, noise, the driver, the library's members."""

from __future__ import annotations

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
