"""A web service around one model: fastapi_endpoint.py [SOURCE] [PORT]; needs pip install fastapi uvicorn.

GET /video/NAME is a stream of its own as motion JPEG, which a browser's <img> shows. POST /hand/NAME with
{"event": "press", "x": 0.5, "y": 0.5} (or move, release) moves what is in it.
"""

import io
import sys
from collections.abc import Iterator
from time import monotonic, sleep
from typing import Literal

import uvicorn
from fastapi import FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from PIL import Image
from pydantic import BaseModel

from ms_infer import Hand, Model
from ms_infer.demo import default_example

source, port = (sys.argv[1:] + ["demo", "8000"][len(sys.argv) - 1 :])[:2]
model = Model(source)
hands: dict[str, Hand] = {}
app = FastAPI()


class Event(BaseModel):
    """What a pointer does, in shares of the picture."""

    event: Literal["press", "move", "release"]
    x: float = 0.0
    y: float = 0.0


def parts(name: str) -> Iterator[bytes]:
    """JPEG after JPEG at the video's rate, until the viewer goes; chunks are made in the thread that sends them."""
    with model.stream() as stream:
        hand = hands[name] = stream.hand()
        stream.start(default_example().image)
        due = monotonic()
        while True:
            stream.set_tracks(hand.tracks(frames=stream.next_rgb_frames))
            for frame in stream.step().frames:
                memory = io.BytesIO()
                Image.fromarray(frame).save(memory, "JPEG", quality=90)
                yield b"--frame\r\nContent-Type: image/jpeg\r\n\r\n" + memory.getvalue() + b"\r\n"
                due = max(due + 1 / stream.config.fps, monotonic())
                sleep(max(0.0, due - monotonic()))


@app.get("/video/{name}")
def video(name: str) -> StreamingResponse:
    return StreamingResponse(parts(name), media_type="multipart/x-mixed-replace; boundary=frame")


@app.post("/hand/{name}")
def move(name: str, event: Event) -> int:
    """How many points the pointer took along, for a press."""
    if name not in hands:
        raise HTTPException(404, f"nobody watches {name}; open /video/{name} first")
    hand = hands[name]
    if event.event == "press":
        return hand.press(0, event.x, event.y, reach=0.2)
    if event.event == "move":
        hand.move(0, event.x, event.y)
    else:
        hand.release(0)
    return 0


if __name__ == "__main__":
    uvicorn.run(app, port=int(port), timeout_graceful_shutdown=1)  # a video never ends by itself
