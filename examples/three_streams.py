"""Three streams of one model at the same time, each with a hand of its own: three_streams.py [SOURCE] [OUT]."""

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from ms_infer import Model, Stream
from ms_infer.demo import default_example
from ms_infer.media import open_writer

RGB_FRAMES = 32
WAYS = [(-0.25, 0.0), (-0.2, -0.3), (-0.05, -0.15)]
source, out = (sys.argv[1:] + ["demo", "three.gif"][len(sys.argv) - 1 :])[:2]


def video(stream: Stream, way: tuple[float, float]) -> NDArray[np.uint8]:
    """Frames `[RGB_FRAMES, height, width, 3]`: the thing of the picture goes this way."""
    example = default_example()
    stream.start(example.image, example.prompt)
    hand = stream.hand()
    x, y = example.drags[0][0]
    hand.path([(x, y), (x + way[0], y + way[1])], seconds=1.5, reach=0.2)
    made: list[NDArray[np.uint8]] = []
    while sum(map(len, made)) < RGB_FRAMES:
        stream.set_tracks(hand.tracks(frames=stream.next_rgb_frames))
        made.append(stream.step().frames)
    return np.concatenate(made)[:RGB_FRAMES]


with Model(source) as model, ThreadPoolExecutor(len(WAYS)) as threads:
    streams = [model.stream(seed=seed) for seed in range(len(WAYS))]
    videos = list(threads.map(video, streams, WAYS))
    for stream in streams:
        stream.close()
    height, width = model.config.height, len(WAYS) * model.config.width
    with open_writer(out, height=height, width=width, fps=model.config.fps) as writer:
        writer.write(np.concatenate(videos, axis=2))
print(out)
