"""Exported stages encode the window again before every chunk, as PyTorch does, without a graph of their own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from ms_export.verify import PSNR_LIMITS, psnr

from ms_infer import Stream
from ms_infer.engines.torch import TorchEngine
from tests.engines.conftest import Made, opened


@pytest.mark.parametrize("image", [False, True])
@pytest.mark.parametrize("writes", ["frame", "chunk"])
def test_streams_of_a_bundle_are_those_of_pytorch(made: Callable[..., Made], writes: str, image: bool) -> None:
    student, manifest = made("again", writes=writes)
    engines = [
        TorchEngine(student, device="cpu"),
        opened(manifest, "onnxruntime"),
        opened(manifest, "openvino fp32"),
    ]
    picture = np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8) if image else None
    videos = []
    for engine in engines:
        with Stream(engine) as stream:
            stream.start(picture, "a cat", seed=3)
            chunks = [stream.step().frames for _ in range(3)]
            stream.set_prompt("dog night")
            videos.append([*chunks, stream.step().frames, stream.step().frames])

    for video in videos[1:]:
        assert min(psnr(made, wanted) for made, wanted in zip(video, videos[0], strict=True)) >= PSNR_LIMITS["fp32"]
