"""A LoRA adapter merges as peft merges it, and one that does not fit is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ms_infer.checkpoint import load_student
from ms_infer.checkpoint.lora import Lora, read_lora, with_strength
from ms_infer.checkpoint.merge import fitted, merge
from ms_infer.errors import CheckpointError, ConfigError
from tests.diffusers_names import to_diffusers
from tests.public_checkpoints import lora, make
from tests.public_loras import KINDS, factors

GOLDEN = Path(__file__).parent / "golden"
TINY96 = GOLDEN / "weights_tiny96.safetensors"
CASE = load_file(GOLDEN / "lora_merge.safetensors")
META = json.loads((GOLDEN / "lora_merge.json").read_text())
ADAPTER = {name.removeprefix("lora."): tensor for name, tensor in CASE.items() if name.startswith("lora.")}
MERGED = {name.removeprefix("merged."): tensor for name, tensor in CASE.items() if name.startswith("merged.")}
DOWN = "base_model.model.blocks.0.ffn.0.lora_A.weight"
UP = "base_model.model.blocks.0.ffn.0.lora_B.weight"


def weights() -> dict[str, Tensor]:
    return {name: tensor.float() for name, tensor in load_file(TINY96).items()}


def merge_lora(weights: dict[str, Tensor], lora: Lora, **given: Any) -> dict[str, Tensor]:
    """The weights with one adapter at strength 1."""
    return merge(weights, [fitted(weights, lora, **given)], [1.0], None)[0]


def write(folder: Path, content: Any) -> Path:
    torch.save(content, folder / "lora.pt")
    return folder / "lora.pt"


@pytest.mark.parametrize("wrapped", [True, False])
def test_merge_reproduces_peft(tmp_path: Path, wrapped: bool) -> None:
    content = {"generator_lora": ADAPTER, "critic_lora": {}} if wrapped else ADAPTER

    merged = merge_lora(weights(), read_lora(write(tmp_path, content)), alpha=META["alpha"], rank=META["rank"])

    assert len(MERGED) == 3
    for name, expected in MERGED.items():
        torch.testing.assert_close(merged[name], expected, atol=1e-6, rtol=0)


def test_weights_that_the_adapter_does_not_name_are_passed_on_uncopied(tmp_path: Path) -> None:
    before = weights()

    merged = merge_lora(before, read_lora(write(tmp_path, ADAPTER)), alpha=8)

    changed = {name for name in before if merged[name] is not before[name]}
    assert len(changed) == 30
    assert torch.equal(before["blocks.0.self_attn.q.weight"], weights()["blocks.0.self_attn.q.weight"])


def test_load_student_merges_a_longlive_pair(tmp_path: Path) -> None:
    torch.save({"generator": {f"model.{name}": tensor for name, tensor in weights().items()}}, tmp_path / "base.pt")
    adapter = write(tmp_path, {"generator_lora": ADAPTER})

    student = load_student(
        tmp_path / "base.pt", preset=load_student(TINY96).config, lora=adapter, lora_alpha=8, lora_rank=4
    )

    for name, expected in MERGED.items():
        torch.testing.assert_close(student.transformer.state_dict()[name], expected, atol=1e-6, rtol=0)


def test_bfloat16_weights_merge_without_rounding_into_float32(tmp_path: Path) -> None:
    student = load_student(TINY96, lora=write(tmp_path, ADAPTER), lora_alpha=8, dtype=torch.float32)

    for name, expected in MERGED.items():
        torch.testing.assert_close(student.transformer.state_dict()[name], expected, atol=1e-6, rtol=0)


def test_a_peft_folder_states_its_alpha(tmp_path: Path) -> None:
    renamed = {name.replace(".weight", ".default.weight"): tensor for name, tensor in ADAPTER.items()}
    save_file(renamed, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 8}))

    merged = merge_lora(weights(), read_lora(tmp_path))

    for name, expected in MERGED.items():
        torch.testing.assert_close(merged[name], expected, atol=1e-6, rtol=0)


def test_a_diffusers_adapter_with_its_own_alphas_merges(tmp_path: Path) -> None:
    adapter: dict[str, Tensor] = {}
    for name, tensor in ADAPTER.items():
        module, factor = name.removeprefix("base_model.model.").split(".lora_")
        renamed = to_diffusers(module)
        adapter[f"transformer.{renamed}.lora_{'down' if factor[0] == 'A' else 'up'}.weight"] = tensor
        adapter[f"transformer.{renamed}.alpha"] = torch.tensor(8.0)
    save_file(adapter, tmp_path / "lora.safetensors")

    merged = merge_lora(weights(), read_lora(tmp_path / "lora.safetensors"))

    for name, expected in MERGED.items():
        torch.testing.assert_close(merged[name], expected, atol=1e-6, rtol=0)


def without(name: str) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in ADAPTER.items() if key != name}


BROKEN = {
    "has rank 4, not 256": (ADAPTER, {"rank": 256, "alpha": 256}),
    "only one of the two LoRA factors of blocks.0.ffn.0": (without(UP), {"alpha": 8}),
    "has the ranks 3 and 4": ({**ADAPTER, DOWN: torch.ones(3, 96)}, {"alpha": 8}),
    "does not fit the weight": ({**ADAPTER, DOWN: torch.ones(4, 95)}, {"alpha": 8}),
    "NaN or infinite": ({**ADAPTER, DOWN: torch.full((4, 96), torch.nan)}, {"alpha": 8}),
    "no LoRA factors: blocks.0.ffn.0.magnitude": ({**ADAPTER, "blocks.0.ffn.0.magnitude": torch.ones(4)}, {"alpha": 8}),
    "changes what the model has not: blocks.9.cross_attn.k": (
        {name.replace("blocks.2.", "blocks.9."): tensor for name, tensor in ADAPTER.items()},
        {"alpha": 8},
    ),
    "alpha is nan": (ADAPTER, {"alpha": float("nan")}),
}


@pytest.mark.parametrize("message", BROKEN)
def test_an_adapter_that_does_not_fit_is_refused(tmp_path: Path, message: str) -> None:
    content, given = BROKEN[message]

    with pytest.raises(CheckpointError, match=message):
        merge_lora(weights(), read_lora(write(tmp_path, content)), **given)


def described(folder: Path, **settings: Any) -> Path:
    """A peft folder with the golden adapter."""
    save_file(ADAPTER, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8, **settings}))
    return folder


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("use_dora", True),
        ("bias", "all"),
        ("peft_type", "LOHA"),
        ("fan_in_fan_out", True),
        ("modules_to_save", ["head"]),
        ("alpha_pattern", {"q": 3}),
        ("use_something_new", 1),
        *(("init_lora_weights", name) for name in ("pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga")),
    ],
)
def test_everything_but_plain_lora_is_refused_by_name(tmp_path: Path, name: str, value: object) -> None:
    with pytest.raises(CheckpointError, match=f"asks for {name}="):
        read_lora(described(tmp_path, **{name: value}))


@pytest.mark.parametrize("name", ["pissa", "use_dora"])
def test_the_header_of_a_file_is_refused_like_a_configuration(tmp_path: Path, name: str) -> None:
    settings = {"transformer.use_dora": True} if name == "use_dora" else {"transformer.init_lora_weights": name}
    file = tmp_path / "lora.safetensors"
    save_file(ADAPTER, file, {"lora_adapter_metadata": json.dumps({"transformer.r": 4, **settings})})

    with pytest.raises(CheckpointError, match=f"lora.safetensors asks for .*{name}"):
        read_lora(file)


@pytest.mark.parametrize("name", [True, False, "gaussian"])
def test_initialisations_that_leave_the_base_alone_merge(tmp_path: Path, name: object) -> None:
    settings = {"init_lora_weights": name, "lora_dropout": 0.1, "target_modules": ["q"], "bias": "none"}
    assert_golden(merge_lora(weights(), read_lora(described(tmp_path, **settings))))


def assert_golden(merged: dict[str, Tensor]) -> None:
    for name, expected in MERGED.items():
        torch.testing.assert_close(merged[name], expected, atol=1e-6, rtol=0)


HEADERS = {
    "diffusers": {"lora_adapter_metadata": json.dumps({"transformer.r": 4, "transformer.lora_alpha": 8})},
    "rslora": {"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 4, "transformer.use_rslora": True})},
    "plain": {"r": "4", "lora_alpha": "8", "format": "pt"},
    "plain rslora": {"lora_alpha": "4", "use_rslora": "True"},
    "kohya": {"ss_network_dim": "4", "ss_network_alpha": "8.0", "ss_network_module": "networks.lora_wan"},
}
"""Headers whose scale is that of the golden, 8 / 4 = 4 / sqrt(4)."""


@pytest.mark.parametrize("kind", HEADERS)
def test_alpha_and_rslora_come_from_the_header(tmp_path: Path, kind: str) -> None:
    save_file(ADAPTER, tmp_path / "lora.safetensors", HEADERS[kind])

    assert_golden(merge_lora(weights(), read_lora(tmp_path / "lora.safetensors")))


def test_rslora_of_a_configuration_divides_by_the_root_of_the_rank(tmp_path: Path) -> None:
    assert_golden(merge_lora(weights(), read_lora(described(tmp_path, lora_alpha=4, use_rslora=True))))


def test_without_any_alpha_the_rank_is_taken_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    adapter = read_lora(write(tmp_path, ADAPTER))

    merged = merge_lora(weights(), adapter)

    assert "does not state its alpha" in caplog.text
    expected = merge_lora(weights(), adapter, alpha=4)
    assert all(torch.equal(merged[name], expected[name]) for name in merged)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.float16])
def test_an_alpha_of_any_number_type_is_read(tmp_path: Path, dtype: torch.dtype) -> None:
    alphas = {DOWN.replace("lora_A.weight", "alpha"): torch.tensor(8, dtype=dtype)}
    adapter = read_lora(write(tmp_path, {**ADAPTER, **alphas}))

    assert adapter.alphas == {"blocks.0.ffn.0": 8.0}


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_of_every_kind_merge_to_the_same_weights(tmp_path: Path, kind: str) -> None:
    made = make("wan2.1-1.3b", tmp_path, dtype=torch.float32)
    file = lora(made, tmp_path / ("adapter" if kind == "peft" else "lora.safetensors"), kind, rank=4, alpha=8.0)
    if kind == "longlive":
        file = file.rename(tmp_path / "lora.pt")
    base = made.weights()
    linear = [name for name in base if name.startswith("blocks.") and base[name].ndim == 2]
    down, up = factors({name.removesuffix(".weight"): tuple(base[name].shape) for name in linear}, 4)

    student = load_student(made.student, lora=file, lora_alpha=8 if kind == "longlive" else None)

    state = student.transformer.state_dict()
    for name in linear:
        module = name.removesuffix(".weight")
        torch.testing.assert_close(state[name], base[name] + 2 * up[module] @ down[module], atol=1e-5, rtol=0)


def test_whole_differences_are_added(tmp_path: Path) -> None:
    made = make("wan2.1-1.3b", tmp_path, dtype=torch.float32)
    base = made.weights()
    diffs = {
        "blocks.0.self_attn.q.diff": "blocks.0.self_attn.q.weight",
        "blocks.0.self_attn.q.diff_b": "blocks.0.self_attn.q.bias",
        "blocks.0.norm3.diff": "blocks.0.norm3.weight",
        "blocks.0.diff_m": "blocks.0.modulation",
        "head.diff_m": "head.modulation",
        "patch_embedding.diff": "patch_embedding.weight",
    }
    save_file(
        {f"diffusion_model.{key}": torch.ones_like(base[name]) for key, name in diffs.items()},
        tmp_path / "d.safetensors",
    )

    state = load_student(made.student, lora=f"{tmp_path / 'd.safetensors'}:0.5").transformer.state_dict()

    for name, tensor in base.items():
        assert torch.equal(state[name], tensor + 0.5 if name in diffs.values() else tensor), name


def test_strengths_scale_and_add(tmp_path: Path) -> None:
    made = make("wan2.1-1.3b", tmp_path, dtype=torch.float32)
    files = [lora(made, tmp_path / f"{seed}.safetensors", "comfyui", seed=seed) for seed in (1, 5)]
    name = "blocks.0.ffn.2.weight"
    base = load_student(made.student).transformer.state_dict()[name]
    single = [load_student(made.student, lora=file).transformer.state_dict()[name] - base for file in files]

    both = load_student(made.student, lora=[f"{files[0]}:0.25", f"{files[1]}:-2"]).transformer.state_dict()[name]

    torch.testing.assert_close(both, base + 0.25 * single[0] - 2 * single[1], atol=1e-5, rtol=0)


def test_adapters_leave_the_exact_base(tmp_path: Path) -> None:
    made = make("wan2.1-1.3b", tmp_path)
    student = load_student(made.student, lora=lora(made, tmp_path / "lora.safetensors", "comfyui"))

    left = dict(student.adapters.weights([0.0]))

    base = made.weights()
    assert len(left) == 10
    assert all(torch.equal(tensor, base[name]) for name, tensor in left.items())


def test_a_strength_stands_behind_the_last_colon() -> None:
    assert with_strength("a/b.safetensors:0.8") == (Path("a/b.safetensors"), 0.8)
    assert with_strength("c:/b:odd.safetensors") == (Path("c:/b:odd.safetensors"), 1.0)
    with pytest.raises(ConfigError, match="finite"):
        with_strength("b.safetensors:nan")


def test_a_sum_that_the_type_cannot_hold_is_refused(tmp_path: Path) -> None:
    made = make("wan2.1-1.3b", tmp_path, dtype=torch.float16)
    large = {"diffusion_model.blocks.0.self_attn.q.diff": torch.full((256, 256), 7e4)}
    save_file(large, tmp_path / "d.safetensors")

    with pytest.raises(CheckpointError, match=r"self_attn.q.weight with the adapters .* float16 ends at 6.55e\+04"):
        load_student(made.student, lora=tmp_path / "d.safetensors")


def test_the_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    small, large = (make(name, tmp_path) for name in ("wan2.1-1.3b", "diffusers-i2v"))
    file = lora(large, tmp_path / "lora.safetensors", "comfyui")

    with pytest.raises(CheckpointError, match=r"lora.safetensors changes what the model has not: .*k_img"):
        load_student(small.student, lora=file)


def test_an_adapter_is_no_base_model(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="give it as lora="):
        load_student(write(tmp_path, ADAPTER))
