"""How frames are coded: how close to the picture, how large, and what a client gets."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest
from PIL import Image

from ms_infer.demo import demo_examples
from ms_infer.media import load_image
from ms_infer.serve.protocol import FRAME_HEAD, Codec
from ms_infer.serve.wire.grades import BEST, H264, JPEG, LARGE, WEBP, Coder, Grade, Shown, Sizes, grades

SIZE = 128


def picture(size: int = SIZE) -> np.ndarray:
    return load_image(demo_examples()[0].image, size, size)


def shown(frame: np.ndarray, index: int = 0) -> Shown:
    return Shown(frame, 0, index, 0, 0.0, Sizes.of(frame.shape[0] * frame.shape[1]))


def decibels(frame: np.ndarray, data: bytes) -> float:
    back = np.asarray(Image.open(io.BytesIO(data)).convert("RGB").resize(frame.shape[1::-1]))
    return float(10 * np.log10(255**2 / np.mean((frame.astype(float) - back) ** 2)))


def test_best_grade_is_close_to_the_picture_in_colour_too() -> None:
    coded = shown(picture()).picture(BEST)
    assert decibels(picture(), coded.data) >= 40  # 34 with quality 88 and halved colour
    assert len(coded.data) <= 14_000
    assert Image.open(io.BytesIO(coded.data)).layer[0][1:3] == (1, 1)  # type: ignore[attr-defined]


@pytest.mark.parametrize("ladder", [JPEG, WEBP])
def test_every_lower_grade_is_smaller(ladder: tuple[Grade, ...]) -> None:
    coded = [shown(picture()).picture(grade) for grade in ladder]
    sizes = [len(one.data) for one in coded]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 0.2 * sizes[0]
    assert coded[-1].size == (SIZE // 2, SIZE // 2)


def test_webp_is_closer_than_jpeg_of_its_size() -> None:
    jpeg, webp = shown(picture()).picture(Grade("jpeg", 60, 0)), shown(picture()).picture(Grade("webp", 75, 0))
    assert len(webp.data) < len(jpeg.data)
    assert decibels(picture(), webp.data) > decibels(picture(), jpeg.data)


@pytest.mark.parametrize(
    ("wanted", "shows", "pixels", "first", "last"),
    [
        ("auto", [], SIZE**2, BEST, JPEG[-1]),
        ("auto", ["jpeg", "webp"], SIZE**2, BEST, WEBP[-1]),
        ("auto", ["jpeg", "webp", "h264"], SIZE**2, BEST, H264[-1]),
        ("auto", ["jpeg", "webp", "h264"], LARGE, H264[0], H264[-1]),
        ("auto", ["jpeg", "webp"], LARGE, BEST, WEBP[-1]),
        ("jpeg", ["jpeg", "h264"], LARGE, BEST, JPEG[-1]),
        ("h264", ["jpeg", "h264"], SIZE**2, H264[0], H264[-1]),
        ("h264", ["jpeg"], SIZE**2, BEST, JPEG[-1]),  # a browser without WebCodecs sees something all the same
    ],
)
def test_codec_is_chosen_by_client_and_size(
    wanted: str, shows: list[str], pixels: int, first: Grade, last: Grade
) -> None:
    ladder = grades(wanted, shows, pixels)  # type: ignore[arg-type]
    assert (ladder[0], ladder[-1]) == (first, last)


def test_grade_follows_the_link_down_and_up_without_dithering() -> None:
    coder, sizes = Coder(JPEG, 16.0), Sizes(10_000)
    grades_seen = []
    for carried in (1e6, 6_000, 9_000, 11_000, 17_000, 900, 1e6):
        coder.fit(carried, sizes)
        grades_seen.append(JPEG.index(coder.grade))
    assert grades_seen == [0, 1, 1, 1, 0, 3, 0]


def test_picture_is_coded_once_for_all_clients() -> None:
    frame = shown(picture())
    messages = {Coder(JPEG, 16.0).message(frame) for _ in range(3)}
    assert len(messages) == 1
    assert len(frame._coded) == 1


def decoded(messages: list[bytes]) -> list[np.ndarray]:
    decoder = av.CodecContext.create("h264", "r")
    packets = [av.Packet(message[FRAME_HEAD.size :]) for message in messages]
    return [one.to_ndarray(format="rgb24") for packet in packets for one in decoder.decode(packet)]


def test_video_that_loses_frames_needs_no_key() -> None:
    frame, coder = picture(256), Coder(H264, 16.0)
    messages = [coder.message(shown(np.roll(frame, index, 1), index)) for index in (0, 1, 5, 6, 40)]
    assert [message[1] for message in messages] == [Codec.H264_KEY, *[Codec.H264_DELTA] * 4]
    assert np.abs(decoded(messages)[-1].astype(int) - np.roll(frame, 40, 1)).mean() < 6


def test_key_frame_comes_when_it_is_asked_for() -> None:
    coder = Coder(H264, 16.0)
    kinds = []
    for index in range(6):
        if index == 3:
            coder.need_key()
        kinds.append(coder.message(shown(picture(), index))[1])
    assert kinds == [Codec.H264_KEY, *[Codec.H264_DELTA] * 2, Codec.H264_KEY, *[Codec.H264_DELTA] * 2]


def test_other_grade_of_video_begins_with_a_key() -> None:
    coder = Coder(H264, 16.0)
    before = coder.message(shown(picture()))
    coder.fit(10.0, Sizes.of(SIZE * SIZE))
    after = coder.message(shown(picture()))
    assert (before[1], after[1]) == (Codec.H264_KEY, Codec.H264_KEY)
    _, _, width, height, *_ = FRAME_HEAD.unpack_from(after)
    assert (height, width) == (SIZE // 2, SIZE // 2)
