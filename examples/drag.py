"""Drag a thing in a picture: drag.py [SOURCE] [PICTURE] [OUT.mp4]."""

import sys

from ms_infer import Stream, Tracks
from ms_infer.demo import demo_examples
from ms_infer.media import open_writer

source, picture, out = (sys.argv[1:] + ["demo", None, "drag.mp4"][len(sys.argv) - 1 :])[:3]
picture = picture or demo_examples()[0].image

tracks = Tracks.grid(rows=12, cols=12).grab(point=(0.75, 0.51), to=(0.48, 0.31), seconds=1.5, radius=0.13)
with Stream(source) as stream:
    stream.start(picture, tracks=tracks)
    with open_writer(out, height=stream.config.height, width=stream.config.width, fps=stream.config.fps) as writer:
        for chunk in stream.take(seconds=2):
            writer.write(chunk.frames)
print(out)
