"""A live hand drags a thing, lets go and zooms in, as a window would: hand.py [SOURCE] [PICTURE] [OUT.mp4]."""

import sys

from ms_infer import Hand, Stream
from ms_infer.demo import demo_examples
from ms_infer.media import open_writer

source, picture, out = (sys.argv[1:] + ["demo", None, "hand.mp4"][len(sys.argv) - 1 :])[:3]
picture = picture or demo_examples()[0].image


def user(hand: Hand, before: float, now: float) -> None:
    """What a window would call; times are seconds."""
    if before < 0.1 <= now:
        hand.press(1, 0.75, 0.51, at=0.1, reach=0.13)
    for step in range(100):
        at = 0.1 + step / 60  # a mouse sends 60 places a second
        if before < at <= now and step < 72:
            hand.move(1, 0.75 - 0.27 * step / 72, 0.51 - 0.2 * step / 72, at=at)
    if before < 1.4 <= now:
        hand.release(1)
        hand.steer(zoom=0.6)


with Stream(source) as stream:
    config, hand, now = stream.config, stream.hand(), 0.0
    stream.start(picture)
    with open_writer(out, height=config.height, width=config.width, fps=config.fps) as writer:
        while now < 2.5:
            frames = stream.next_rgb_frames
            before, now = now, now + frames / config.fps  # a live program takes the clock: hand.tracks(frames=frames)
            user(hand, before, now)
            stream.set_tracks(hand.tracks(now, frames=frames))
            writer.write(stream.step().frames)
print(out)
