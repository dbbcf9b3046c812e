"""The plugin variant: kernels that take exactly what TensorRT passes, registered by its rules, in the right graphs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import pytest

pytest.importorskip("triton", reason="needs the extra [kernels]")

from ms_export.tensorrt import plugin
from ms_kernels import ptx

from ms_infer import BundleError, ConfigError
from ms_infer.engines.tensorrt.library import TensorRt, load
from tests.trt_graphs import attention_graph, attention_spec, split_writes

Q, CACHE = (1, 2, 48, 64), (1, 2, 144, 64)


@pytest.fixture(scope="module")
def attention() -> plugin.Launch:
    return plugin.attention_launch(Q, CACHE, 90, "bf16")


@pytest.fixture(scope="module")
def write() -> plugin.Launch:
    return plugin.write_launch(CACHE, Q, 3, 90, "bf16")


def test_attention_takes_four_inputs_nine_integers_one_output(attention: plugin.Launch) -> None:
    assert len(ptx.parameters(attention.symbol, attention.ptx)) == 4 + 9 + 1
    assert len(attention.integers) == 9
    assert attention.integers[:3] == (48, 144, 2)


def test_cache_write_takes_the_cache_twice(write: plugin.Launch) -> None:
    assert len(ptx.parameters(write.symbol, write.ptx)) == 3 + 3 + 1
    assert write.integers == (16, 48, 144)


@pytest.mark.parametrize("name", ["attention", "write"])
def test_the_text_assembles(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    import subprocess

    import triton

    launch: plugin.Launch = request.getfixturevalue(name)
    (tmp_path / "k.ptx").write_text(launch.ptx)
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
    subprocess.run([tool, "--gpu-name=sm_90a", tmp_path / "k.ptx", "-o", tmp_path / "k.cubin"], check=True)
    assert (tmp_path / "k.cubin").stat().st_size > 1000


def test_the_grid_covers_every_query_and_head(attention: plugin.Launch) -> None:
    wide = plugin.attention_launch((1, 3, 4680, 64), (1, 3, 14040, 64), 90, "bf16")
    assert attention.grid[1] == 2
    assert wide.grid[1] == 3
    assert (wide.grid[0] - 1) * 128 < 4680 <= wide.grid[0] * 128


def test_a_kernel_of_another_order_is_refused() -> None:
    from ms_kernels import aot, aot_specs

    spec = aot_specs.specs(90, aot_specs.Profile(dim=128, heads=2))["write_kv"]
    with pytest.raises(BundleError, match="input pointers, int32, one output"):
        plugin._launch(aot, spec, 90, (1, 1), ())


@dataclass
class Recorder:
    """`tensorrt.plugin` as far as it is used."""

    registered: dict[str, Any] = field(default_factory=dict)
    tuned: dict[str, Any] = field(default_factory=dict)
    built: dict[str, Any] = field(default_factory=dict)

    class TensorDesc:
        pass

    class AutoTuneCombination:
        def __init__(self, *values: Any) -> None:
            self.values = values

    class KernelLaunchParams:
        def __init__(self, **sizes: int) -> None:
            self.sizes = sizes

    class SymInt32:
        def __init__(self, value: int) -> None:
            self.value = value

    class SymIntExprs(list):  # type: ignore[type-arg]
        @classmethod
        def from_tuple(cls, values: Any) -> Any:
            return cls(values)

    def register(self, name: str, lazy_register: bool) -> Any:
        return lambda f: self.registered.__setitem__(name, (f, lazy_register))

    def autotune(self, name: str) -> Any:
        return lambda f: self.tuned.__setitem__(name, f)

    def aot_impl(self, name: str) -> Any:
        return lambda f: self.built.__setitem__(name, f)


class Desc:
    """A tensor as plugins see it."""

    def __init__(self, *shape: int) -> None:
        self.shape = shape

    def like(self) -> str:
        return "like"

    def aliased(self) -> str:
        return "aliased"


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    made = Recorder()
    monkeypatch.setattr(plugin, "import_module", lambda _: made)
    network = type("INetworkDefinition", (), {"add_plugin": None})
    module = type("tensorrt", (), {"INetworkDefinition": network, "__version__": "11.4.0.106"})
    plugin.register(TensorRt("trt", module), "sm_90", "bf16")
    return made


def test_attention_makes_a_new_tensor_and_the_write_returns_its_cache(recorder: Recorder) -> None:
    describe, lazy = recorder.registered["ms_infer::SinkWindowAttention"]
    assert (describe(Desc(*Q), Desc(*CACHE), Desc(*CACHE), Desc(1)), lazy) == ("like", False)
    describe, _ = recorder.registered["ms_infer::CacheWrite"]
    assert describe(Desc(*CACHE), Desc(*Q), Desc(3)) == "aliased"


def test_formats_name_every_input_and_output(recorder: Recorder) -> None:
    (attention,) = recorder.tuned["ms_infer::SinkWindowAttention"](*[None] * 5)
    (write,) = recorder.tuned["ms_infer::CacheWrite"](*[None] * 4)
    assert attention.values == ("BF16, BF16, BF16, INT64, BF16", "LINEAR", [1])
    assert write.values == ("BF16, BF16, INT64, BF16", "LINEAR", [1])


def test_launches_are_handed_over_in_the_library_s_words(recorder: Recorder, write: plugin.Launch) -> None:
    name, text, sizes, integers = recorder.built["ms_infer::CacheWrite"](Desc(*CACHE), Desc(*Q), Desc(3), (), 1)
    assert (name, text) == (write.symbol, write.ptx)
    assert sizes.sizes == {"grid_x": 2, "grid_y": 2, "block_x": 128, "shared_mem": write.shared_bytes}
    assert [integer.value for integer in integers] == [16, 48, 144]


def test_types_are_real_ones_at_run_time(recorder: Recorder) -> None:
    import inspect

    for function in (*(f for f, _ in recorder.registered.values()), *recorder.built.values()):
        signature = inspect.signature(function)
        kinds = {p.annotation for n, p in signature.parameters.items() if n not in ("outputs", "tactic")}
        assert kinds == {recorder.TensorDesc}
        assert signature.return_annotation is not inspect.Signature.empty


def test_the_real_bindings_take_the_registrations() -> None:
    """Runs where `import tensorrt` works, if only over a link stub: its own validators check our functions."""
    pytest.importorskip("tensorrt", reason="needs the bindings of tensorrt 11")
    plugin.register(load("trt"), "sm_90", "fp16", lazy=True)


def test_rtx_has_no_plugins() -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs the extra [rtx]")
    with pytest.raises(ConfigError, match="takes no plugins"):
        plugin.register(load("rtx"), "sm_90", "bf16")


def test_fp32_has_no_plugin(recorder: Recorder) -> None:
    network = type("INetworkDefinition", (), {"add_plugin": None})
    module = type("tensorrt", (), {"INetworkDefinition": network, "__version__": "11.4.0.106"})
    with pytest.raises(ConfigError, match="bf16, fp16, not for fp32"):
        plugin.register(TensorRt("trt", module), "sm_90", "fp32")


def test_writes_in_several_places_become_one_node(tmp_path: Path) -> None:
    model = onnx.load(split_writes(attention_graph(tmp_path / "a.onnx", attention_spec(), writes=2)))
    assert plugin.with_cache_writes(model) == 1

    kinds = [node.op_type for node in model.graph.node]
    (write,) = [node for node in model.graph.node if node.op_type == plugin.CACHE_WRITE]
    assert "TensorScatter" not in kinds
    assert (list(write.input), list(write.output)) == (["k_cache_0", "k", "write_index"], ["k_cache_0_out"])


def test_a_single_write_stays_native(tmp_path: Path) -> None:
    model = onnx.load(attention_graph(tmp_path / "a.onnx", attention_spec()))
    assert plugin.with_cache_writes(model) == 0
    assert "TensorScatter" in [node.op_type for node in model.graph.node]


def test_writes_that_are_no_parts_of_one_chunk_are_refused(tmp_path: Path) -> None:
    model = onnx.load(attention_graph(tmp_path / "a.onnx", attention_spec(), writes=2))
    with pytest.raises(BundleError, match="not the parts of one chunk"):
        plugin.with_cache_writes(model)
