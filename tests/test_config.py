"""Settings: derived sizes, round trip, refusals; and the cost of importing the package."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ms_infer.config import (
    PRESETS,
    ContextConfig,
    ModelConfig,
    StreamConfig,
    TrackHeadConfig,
    latent_frames,
    preset,
    rgb_frames,
)
from ms_infer.errors import ConfigError


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_survive_json(name: str) -> None:
    config = preset(name)

    assert StreamConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("name", "tokens", "cache_tokens", "channels"),
    [
        ("motionstream-1.3b", 1560, 14_040, 48),
        ("track-v0", 1560, 9_360, 52),
        ("wan2.1-1.3b", 1560, 32_760, 16),
        ("wan2.2-5b", 880, 7_920, 48),
    ],
)
def test_published_geometry(name: str, tokens: int, cache_tokens: int, channels: int) -> None:
    config = preset(name)

    assert (config.tokens_per_frame, config.cache_tokens) == (tokens, cache_tokens)
    assert config.model.in_channels == channels


@given(frames=st.integers(1, 500))
def test_rgb_and_latent_frames_agree(frames: int) -> None:
    assert latent_frames(rgb_frames(frames, first=True)) == frames


@given(first=st.sampled_from([None, 1, 2, 3]), chunks=st.integers(1, 60))
def test_rgb_frames_of_chunks_join_without_gap(first: int | None, chunks: int) -> None:
    config = StreamConfig(
        model=preset("wan2.1-1.3b").model, context=ContextConfig(first_chunk_frames=first), height=480, width=832
    )

    spans = [config.context.span(i) for i in range(chunks + 1)]
    ends = [span.first_rgb_frame + span.rgb_frames for span in spans[:-1]]

    assert ends == [span.first_rgb_frame for span in spans[1:]]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ContextConfig(chunk_frames=0), "at least 1"),
        (lambda: ContextConfig(sink_frames=-1), "negative"),
        (lambda: ContextConfig(first_chunk_frames=4), "chunk_frames"),
        (lambda: StreamConfig(model=preset("demo").model, height=100, width=128), "112x128|96x128"),
        (lambda: ModelConfig(name="x", dim=10, ffn_dim=4, heads=3, layers=1), "heads"),
        (lambda: ModelConfig(name="x", dim=8, ffn_dim=4, heads=2, layers=1, layout=(("image", 16),)), "noise"),
        (lambda: ModelConfig(name="x", dim=8, ffn_dim=4, heads=2, layers=1, layout=(("noise", 1), ("sky", 2))), "sky"),
        (lambda: TrackHeadConfig(convs=3), "convs"),
        (lambda: preset("wan9"), "known:.*demo"),
        (lambda: StreamConfig.from_dict({"model": {"name": "x", "size": 3}}), "fields"),
        (lambda: latent_frames(8), "1 \\+ 4 k"),
    ],
)
def test_impossible_settings_say_what_is_possible(make: object, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make()  # type: ignore[operator]


def test_importing_the_package_loads_no_torch() -> None:
    code = "import sys, ms_infer; print(ms_infer.__version__, 'torch' in sys.modules, 'numpy' in sys.modules)"

    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert out.split()[1:] == ["False", "False"]


def test_every_public_name_is_there() -> None:
    import ms_infer

    for name in ms_infer.__all__:
        assert getattr(ms_infer, name) is not None
    with pytest.raises(AttributeError, match="nothing_like_this"):
        _ = ms_infer.nothing_like_this


@pytest.mark.parametrize("part", ["context", "schedule"])
def test_a_word_in_place_of_settings_is_one_clear_line(part: str) -> None:
    values = {**preset("demo").to_dict(), part: "c3s1w1"}
    with pytest.raises(ConfigError, match=r"Config was given 'c3s1w1'; set one of its own fields: \["):
        StreamConfig.from_dict(values)
