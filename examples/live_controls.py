"""Change tracks and prompt from another thread while the stream runs: live_controls.py [SOURCE]."""

import sys
import threading

from ms_infer import Stream, Tracks

PROMPTS = ["", "night", "snow"]


def wander(stream: Stream, stop: threading.Event) -> None:
    """Pan left and right and change the words, as a user would; the newest control wins."""
    turn = 0
    while not stop.wait(0.2):
        turn += 1
        pan = (0.1 if turn % 2 else -0.1, 0.0)
        stream.set_tracks(Tracks.grid(4, 4).camera(pan=pan, seconds=1))
        stream.set_prompt(PROMPTS[turn % len(PROMPTS)])


with Stream(sys.argv[1] if len(sys.argv) > 1 else "demo") as stream:
    stream.start(tracks=Tracks.grid(4, 4))
    stop = threading.Event()
    hand = threading.Thread(target=wander, args=(stream, stop))
    hand.start()
    try:
        for chunk in stream.take(seconds=3):
            print(f"chunk {chunk.index}: control {chunk.control_id}, {chunk.timings['chunk']:.0f} ms")
    finally:
        stop.set()
        hand.join()
