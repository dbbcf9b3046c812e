"""Prompts become the rows that Wan's umT5 makes of them, from local files, through a cache that is never believed."""

from __future__ import annotations

import logging
import shutil
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_tensors

from ms_infer import ConfigError, Stream
from ms_infer.checkpoint import load_student
from ms_infer.errors import CheckpointError, MotionStreamError
from ms_infer.model.umt5 import Umt5Encoder, _buckets
from ms_infer.prompts import PromptEncoder, read_embedding
from ms_infer.prompts.clean import clean_prompt
from ms_infer.text import embed_prompt
from tests import public_weights as pw
from tests.public_checkpoints import Published, make
from tests.tiny import without_tracks

PROMPT = "a cat walking in the snow"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MS_INFER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("nothing may be fetched")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> Published:
    return make("wan2.1-1.3b", tmp_path_factory.mktemp("wan"))


@pytest.fixture(scope="module")
def diffusers(tmp_path_factory: pytest.TempPathFactory) -> Published:
    return make("diffusers", tmp_path_factory.mktemp("diffusers"))


def encoder(made: Published, **options: Any) -> PromptEncoder:
    assert made.text_encoder is not None
    return PromptEncoder(made.text_encoder, **options)


def tokens_of(made: Published, prompt: str) -> list[int]:
    from tokenizers import Tokenizer

    assert made.tokenizer is not None
    return Tokenizer.from_file(str(made.tokenizer / "tokenizer.json")).encode(prompt).ids


def reference(made: Published, tokens: list[int], length: int = 512) -> torch.Tensor:
    """What transformers makes of the padded tokens."""
    transformers = pytest.importorskip("transformers", minversion="5.24")
    config = transformers.UMT5Config.from_pretrained(made.text_encoder)
    model = transformers.UMT5EncoderModel(config).eval()
    weights = pw.random_weights(pw.t5_shapes(made.widths.text), torch.bfloat16)
    state = {pw.t5_to_transformers(name): tensor.float() for name, tensor in weights.items()}
    missing = model.load_state_dict(state, strict=False).missing_keys
    assert set(missing) <= {"encoder.embed_tokens.weight"}
    ids = torch.tensor([tokens + [0] * (length - len(tokens))])
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=(ids != 0).long()).last_hidden_state[0, : len(tokens)]


def test_both_layouts_give_the_rows_of_transformers(wan: Published, diffusers: Published) -> None:
    ours = [encoder(made).embed(PROMPT) for made in (wan, diffusers)]

    expected = reference(diffusers, tokens_of(diffusers, PROMPT)).numpy()
    assert np.array_equal(ours[0], ours[1])
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(ours[0], expected, atol=2e-5)


def test_distances_of_every_length_fall_into_the_buckets_of_transformers() -> None:
    attention = pytest.importorskip("transformers.models.umt5.modeling_umt5").UMT5Attention
    config = pytest.importorskip("transformers").UMT5Config(num_heads=1, d_kv=4, d_model=4)
    module = attention(config, has_relative_attention_bias=True)
    places = torch.arange(512)

    assert torch.equal(_buckets(512, 32), module._relative_position_bucket(places[None] - places[:, None]))


def test_the_empty_prompt_is_the_row_of_its_end(wan: Published) -> None:
    rows = encoder(wan).embed("  ")

    tensors = pw.random_weights(pw.t5_shapes(64), torch.bfloat16)
    assert rows.shape == (1, 64)
    assert np.array_equal(rows, Umt5Encoder(tensors, "test")([1]).numpy())


def test_a_long_prompt_is_cut_and_keeps_its_end(wan: Published) -> None:
    one = encoder(wan)
    assert one._tokens("a cat " * 400, 16)[-1] == 1
    assert one.embed("a cat " * 400, 16).shape == (16, 64)


@pytest.mark.parametrize(
    ("prompt", "cleaned"),
    [
        ("  two\n\tblanks   here ", "two blanks here"),
        ("cats &amp;amp; dogs &lt;3", "cats & dogs <3"),
        ("schÃ¶n", "schön"),
        ("“quoted”", '"quoted"'),
        ("ﬁlm", "film"),
    ],
)
def test_prompts_are_cleaned_as_wan_cleans_them(prompt: str, cleaned: str) -> None:
    assert clean_prompt(prompt) == cleaned


def test_prompts_that_clean_to_the_same_text_share_an_entry(wan: Published, own_cache: Path) -> None:
    one = encoder(wan)
    assert np.array_equal(one.embed("a  cat"), one.embed("a cat\n"))
    assert len(list((own_cache / "prompts").iterdir())) == 1


def test_the_encoder_is_loaded_once_and_freed_unless_kept(wan: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[str] = []
    original = Umt5Encoder.__init__
    monkeypatch.setattr(Umt5Encoder, "__init__", lambda self, *a: (loads.append("x"), original(self, *a))[1])
    one, kept = encoder(wan), encoder(wan, keep=True)
    for each in (one, kept):
        for prompt in ("a", "cat", "a"):
            each.embed(prompt + each.tokenizer.name[:0])
        each.free()

    assert len(loads) == 2
    assert one._encoder is None
    assert kept._encoder is not None


def entry(cache: Path) -> Path:
    (found,) = (cache / "prompts").iterdir()
    return found


def damage_nan(path: Path) -> None:
    rows = load_file(path)["rows"]
    save_file({"rows": np.full_like(rows, np.nan)}, path, {"sha256": "x"})


def damage_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))


DAMAGES = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-40]),
    "empty": lambda path: path.write_bytes(b""),
    "noise": lambda path: path.write_bytes(b"\x93NUMPY noise"),
    "NaN": damage_nan,
    "one bit": damage_bit,
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_made_again_with_a_warning(
    wan: Published, own_cache: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    right = encoder(wan).embed(PROMPT)
    DAMAGES[damage](entry(own_cache))

    with caplog.at_level(logging.WARNING, "ms_infer"):
        again = encoder(wan).embed(PROMPT)

    assert np.array_equal(again, right)
    assert "made again" in caplog.text
    if damage != "a folder":
        assert np.array_equal(load_file(entry(own_cache))["rows"], right)


def test_an_entry_of_another_encoder_is_not_believed(wan: Published, tmp_path: Path) -> None:
    assert wan.text_encoder is not None
    one = encoder(wan).embed(PROMPT)
    shutil.copytree(wan.root, tmp_path / "other")
    file = tmp_path / "other" / wan.text_encoder.name
    torch.save(pw.random_weights(pw.t5_shapes(64), torch.bfloat16, seed=9), file)

    assert not np.array_equal(PromptEncoder(file).embed(PROMPT), one)


def test_a_cache_that_cannot_be_written_is_only_a_warning(
    wan: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("MS_INFER_CACHE", str(tmp_path / "file"))

    with caplog.at_level(logging.WARNING, "ms_infer"):
        assert encoder(wan).embed(PROMPT).shape[1] == 64

    assert "is not kept" in caplog.text


def test_nan_rows_are_neither_returned_nor_kept(wan: Published, own_cache: Path, tmp_path: Path) -> None:
    tensors = pw.random_weights(pw.t5_shapes(64), torch.bfloat16)
    tensors["blocks.0.ffn.fc2.weight"][0, 0] = torch.nan
    torch.save(tensors, tmp_path / "nan.pth")

    with pytest.raises(ConfigError, match=r"nan.pth made NaN"):
        PromptEncoder(tmp_path / "nan.pth", wan.tokenizer).embed(PROMPT)

    assert not (own_cache / "prompts").exists()


def without(tensors: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    return {key: tensor for key, tensor in tensors.items() if key != name}


BROKEN = {
    "blocks.1.attn.k.weight is missing": lambda t: without(t, "blocks.1.attn.k.weight"),
    "token_embedding.weight is missing": lambda t: {"blocks.0.x": torch.ones(2)},
    r"blocks.0.ffn.fc2.weight has shape \[3, 3\], expected": lambda t: {
        **t,
        "blocks.0.ffn.fc2.weight": torch.ones(3, 3),
    },
}


@pytest.mark.parametrize("message", BROKEN)
def test_a_file_that_is_no_text_encoder_is_refused_in_one_line(wan: Published, tmp_path: Path, message: str) -> None:
    torch.save(BROKEN[message](pw.random_weights(pw.t5_shapes(64), torch.bfloat16)), tmp_path / "t5.pth")

    with pytest.raises(CheckpointError, match=message) as caught:
        PromptEncoder(tmp_path / "t5.pth", wan.tokenizer).embed("a")
    assert "\n" not in str(caught.value)


def test_a_missing_tokenizer_says_where_it_was_looked_for(wan: Published, tmp_path: Path) -> None:
    assert wan.text_encoder is not None
    shutil.copy(wan.text_encoder, tmp_path / "t5.pth")

    with pytest.raises(ConfigError, match=r"no tokenizer.json for .*t5.pth \(looked in .*google/umt5-xxl") as caught:
        PromptEncoder(tmp_path / "t5.pth")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b"[1]"])
def test_a_broken_tokenizer_is_one_line(wan: Published, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)

    with pytest.raises(ConfigError, match=r"tokenizer.json is no usable tokenizer") as caught:
        encoder(wan, tokenizer=tmp_path).embed("a")
    assert "\n" not in str(caught.value)


def test_a_stream_reads_prompts_with_the_encoder_given(wan: Published) -> None:
    student = without_tracks(text=load_student(wan.student).config.model.text)
    rows = encoder(wan).embed(PROMPT)
    with Stream(student, text_encoder=wan.text_encoder) as one, Stream(student) as other:
        one.start(prompt=PROMPT)
        other.start(prompt=rows)
        assert np.array_equal(one.step().frames, other.step().frames)
        one.set_prompt("a dog")
        assert np.array_equal(one.embed(PROMPT)[: len(rows)], rows)


def test_a_prompt_without_an_encoder_says_what_to_give(wan: Published) -> None:
    student = without_tracks(text=load_student(wan.student).config.model.text)
    with Stream(student) as stream, pytest.raises(ConfigError, match="give its encoder as text_encoder="):
        stream.start(prompt=PROMPT)


def test_a_torch_embedding_of_any_type_is_a_prompt() -> None:
    text = without_tracks().config.model.text
    rows = torch.randn(3, text.dim)

    assert np.array_equal(embed_prompt(rows.bfloat16(), text, None)[:3], rows.bfloat16().float().numpy())


def test_what_is_no_embedding_is_one_line() -> None:
    text = without_tracks().config.model.text
    with pytest.raises(ConfigError, match="a prompt is text or an array of numbers, not list"):
        embed_prompt([["a"], ["b", "c"]], text, None)  # type: ignore[arg-type]


def test_embeddings_are_read_from_files(tmp_path: Path) -> None:
    rows = torch.randn(5, 8)
    np.save(tmp_path / "a.npy", rows.numpy())
    save_tensors({"prompt_embeds": rows[None]}, tmp_path / "a.safetensors")
    torch.save({"prompt_embeds": rows.bfloat16()}, tmp_path / "a.pt")

    assert np.array_equal(read_embedding(tmp_path / "a.npy"), rows.numpy())
    assert np.array_equal(read_embedding(tmp_path / "a.safetensors"), rows.numpy())
    assert np.array_equal(read_embedding(tmp_path / "a.pt"), rows.bfloat16().float().numpy())


@pytest.mark.parametrize("name", ["no.npy", "no.pt", "cut.npy", "two.safetensors", "flat.npy", "pickled.npy"])
def test_files_that_are_no_embedding_are_refused_in_one_line(tmp_path: Path, name: str) -> None:
    np.save(tmp_path / "flat.npy", np.ones(4, np.float32))
    np.save(tmp_path / "pickled.npy", np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "flat.npy").read_bytes()[:20])
    save_tensors({"a": torch.ones(2, 2), "b": torch.ones(2, 2)}, tmp_path / "two.safetensors")

    with pytest.raises(MotionStreamError, match=name.split(".")[0]) as caught:
        read_embedding(tmp_path / name)
    assert "\n" not in str(caught.value)
