"""What every kernel owes: a twin with the same signature, a benchmark, the shared dot; and no Triton to read twins."""

from __future__ import annotations

import ast
import inspect
import os
import subprocess
import sys
from pathlib import Path

import ms_kernels
import pytest
from ms_kernels import layout, reference

FOLDER = Path(ms_kernels.__file__).parent
FUNCTIONS = sorted(set(ms_kernels.__all__) - {name for name in ms_kernels.__all__ if hasattr(layout, name)})
ONLY_KERNEL = {"form"}  # how a kernel does it, not what it computes


def test_the_list_of_functions_is_the_one_we_test():
    assert len(FUNCTIONS) == 14


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_twin_has_the_same_signature(name):
    kernel = inspect.signature(getattr(ms_kernels, name)).parameters
    twin = inspect.signature(getattr(reference, name)).parameters
    assert [(p.name, p.kind, p.default) for p in kernel.values() if p.name not in ONLY_KERNEL] == [
        (p.name, p.kind, p.default) for p in twin.values()
    ]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_there_is_a_benchmark(name):
    folder = FOLDER.parents[1] / "benchmarks"
    assert (folder / f"bench_{name}.py").is_file()


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.name)
def test_only_the_shared_dot_calls_tl_dot(path):
    """The interpreter multiplies the bit patterns of bf16: `jit.dot` is the one that knows."""
    calls = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr == "dot" and getattr(node.value, "id", "") == "tl"
    ]
    assert len(calls) == (path.name == "jit.py")


def _python(code):
    """Run outside the interpreter of kernels."""
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=env)


def test_twins_need_no_triton():
    result = _python("import sys; sys.modules['triton'] = None; from ms_kernels import ChunkState, reference")
    assert result.returncode == 0, result.stderr


def test_kernels_without_triton_name_the_extra():
    result = _python("import sys; sys.modules['triton'] = None; import ms_kernels; ms_kernels.gelu_fp8")
    assert result.returncode != 0
    assert "pip install 'ms-infer[kernels]'" in result.stderr


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_kernel"):
        _ = ms_kernels.no_such_kernel


def test_a_cpu_tensor_outside_the_interpreter_names_the_twin():
    result = _python("import torch, ms_kernels; ms_kernels.gelu_fp8(torch.zeros(3))")
    assert "ms_kernels.reference" in result.stderr
