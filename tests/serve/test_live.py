"""A session from the first message to the last, over a real socket, with a stand-in for the model."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator

import av
import numpy as np
import pytest
from PIL import Image

from ms_infer.hand import Kind
from ms_infer.serve.protocol import Codec
from ms_infer.serve.settings import Limits
from tests.serve.live import Page, Running, best_pictures, running
from tests.serve.moving_picture import MovingPicture

FPS = 48.0  # the video of these tests runs three times as fast


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with best_pictures(), running(fps=FPS, max_sessions=64, min_fps=0.01) as made:
        yield made


def started(server: Running, codecs: tuple[str, ...] = ("jpeg",), **content: object) -> Page:
    page = Page(server, codecs=codecs)
    page.send("start", **content)
    page.until(lambda: len(page.frames) >= 3)
    return page


def picture(page: Page) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(page.frames[-1].picture)))


def test_hello_tells_what_there_is(server: Running) -> None:
    with Page(server) as page:
        hello = page.hello
        assert (hello["version"], hello["owner"], hello["state"]) == (2, True, "waiting")
        assert (hello["width"], hello["height"], hello["fps"]) == (64, 64, FPS)
        assert "balloon" in hello["examples"]
        assert len(hello["key"]) >= 24


def test_nothing_is_streamed_before_the_start(server: Running) -> None:
    with Page(server) as page:
        assert page.quiet(0.7) == 0


def all_counted(page: Page) -> None:
    """Pause, and wait until the server has told of every frame that did not come."""
    page.send("pause")
    page.until(lambda: page.stats.get("state") == "paused")
    page.until(lambda: page.stats.get("dropped") == page.lost())


def test_frames_come_in_order_and_those_that_are_left_out_are_counted(server: Running) -> None:
    with started(server) as page:
        page.until(lambda: len(page.frames) >= 40)
        all_counted(page)
        indices = [frame.index for frame in page.frames]
        assert indices == sorted(set(indices))
        assert {frame.size for frame in page.frames} == {(64, 64)}
        assert picture(page).shape == (64, 64, 3)


def test_frames_keep_the_pace(server: Running) -> None:
    with started(server) as page:
        page.until(lambda: page.frames[-1].chunk >= 10)
        first, last = next(frame for frame in page.frames if frame.chunk >= 2), page.frames[-1]
        made = (last.index - first.index) / (last.made_ms - first.made_ms) * 1e3  # by the server's own clock
        assert made < 1.5 * FPS  # the stand-in alone would make hundreds


def test_every_chunk_is_acknowledged_before_its_frames(server: Running) -> None:
    with started(server) as page:
        control = page.drag((0.5, 0.5), (0.6, 0.5), (0.7, 0.5))
        page.until(lambda: page.frames and page.frames[-1].control >= control)
        chunk = page.frames[-1].chunk
        ack = next(ack for ack in page.acks if ack.chunk == chunk)
        assert ack.control >= control
        assert ack.first <= page.frames[-1].index < ack.first + ack.points.shape[1]
        moved = ack.kinds == Kind.DRAG
        assert moved.sum() >= 4
        page.until(lambda: np.nanmax(page.acks[-1].points[page.acks[-1].kinds == Kind.DRAG][:, -1, 0]) > 0.6)


def test_dragged_thing_moves_in_the_picture(server: Running) -> None:
    with started(server, example="balloon") as page:
        before = picture(page)
        page.drag(*[(0.5 + 0.02 * i, 0.4) for i in range(13)])
        page.until(lambda: red(picture(page)) - red(before) > 6)  # of 16 pixels: the part within the radius


def red(shot: np.ndarray) -> float:
    """Where the red of the picture is, in pixels from the left."""
    return float(np.argwhere(shot[..., 0].astype(int) - shot[..., 1] > 80).mean(0)[1])


def test_pause_stops_frames_and_resume_goes_on(server: Running) -> None:
    with started(server) as page:
        page.send("pause")
        page.until(lambda: page.stats.get("state") == "paused")
        assert page.quiet(1.0) <= 1  # one may have waited for the link
        last = page.frames[-1].index
        page.send("resume")
        page.until(lambda: page.frames[-1].index > last)
        assert page.stats["state"] == "running"
        all_counted(page)  # it went on where it stopped


def test_prompt_is_acknowledged_with_its_chunk(server: Running) -> None:
    with started(server) as page:
        control = page.send("prompt", text="night")
        page.until(lambda: page.acks and page.acks[-1].prompt == control)
        stream = page_stream(server, "night")
        assert stream.prompts[-1] == "night"


def page_stream(server: Running, prompt: str) -> MovingPicture:
    return next(stream for stream in server.streams if prompt in stream.prompts)


def test_reset_starts_over_and_drops_what_waits(server: Running) -> None:
    with started(server, seed=5) as page:
        page.until(lambda: page.frames[-1].chunk >= 2)
        page.drag((0.5, 0.5), (0.7, 0.5))
        page.send("reset")
        seen = len(page.frames)
        page.until(lambda: page.frames[-1].chunk == 0 and len(page.frames) > seen)
        assert page.frames[-1].index < 9
        again = next(ack for ack in reversed(page.acks) if ack.chunk == 0)
        assert again.first == 0
        assert not (again.kinds == Kind.DRAG).any()


def test_stop_ends_and_start_begins_again(server: Running) -> None:
    with started(server) as page:
        page.send("stop")
        page.until(lambda: page.stats.get("state") == "stopped")
        assert page.quiet(0.7) <= 1  # one may have waited for the link
        page.send("start")
        page.until(lambda: page.frames[-1].chunk == 0)


def test_newest_of_many_controls_is_applied(server: Running) -> None:
    with started(server) as page:
        for x in np.linspace(-1, 1, 200):
            last = page.send("camera", x=float(x))
        page.until(lambda: page.acks[-1].control == last)
        page.until(lambda: page.frames[-1].control == last)


def test_reload_resumes_the_same_stream(server: Running) -> None:
    page = started(server)
    page.until(lambda: page.frames[-1].chunk >= 2)
    known = {"session": page.hello["session"], "key": page.hello["key"]}
    page.socket.close()
    time.sleep(0.3)
    with Page(server, join=False) as again:
        again.join(**known)
        assert again.hello["session"] == known["session"]
        assert again.hello["state"] == "running"
        again.until(lambda: again.frames)
        assert again.frames[0].chunk >= 2


def test_second_window_replaces_the_first(server: Running) -> None:
    with started(server) as page, Page(server, join=False) as other:
        other.join(session=page.hello["session"], key=page.hello["key"])
        page.until(lambda: page.byes)
        assert page.byes[0]["reason"] == "replaced"
        other.until(lambda: other.frames)


def test_two_sessions_have_contexts_of_their_own(server: Running) -> None:
    with started(server, example="balloon") as one, started(server, example="owl") as other:
        assert one.hello["session"] != other.hello["session"]
        one.until(lambda: len(one.frames) > 30)
        other.until(lambda: len(other.frames) > 30)
        assert np.abs(picture(one).astype(int) - picture(other)).mean() > 20


def test_one_thread_runs_every_engine() -> None:
    with running(fps=FPS, max_sessions=8, min_fps=0.01) as made, started(made), started(made):
        threads = set().union(*(stream.threads - {threading.get_ident()} for stream in made.streams))
        engine = {thread.ident for thread in threading.enumerate() if thread.name == "ms-serve-engine"}
        started_by_warm_up = threads - engine
        assert len(threads & engine) == 1
        assert len(started_by_warm_up) <= 1


def test_watcher_sees_and_cannot_control(server: Running) -> None:
    with started(server, example="kite") as page, Page(server, join=False) as watcher:
        watcher.join(watch=True, session=page.hello["session"])
        assert watcher.hello["owner"] is False
        assert watcher.hello["key"] == ""
        watcher.until(lambda: len(watcher.frames) > 5)
        watcher.send("stop")
        count = len(page.frames)
        page.until(lambda: len(page.frames) > count + 30)
        page.until(lambda: page.stats.get("watchers") == 1)


def test_engine_failure_is_told_without_a_trace_and_can_be_left() -> None:
    failing = iter([MovingPicture(), MovingPicture(fail_at=4)])
    settings = {"fps": FPS, "max_sessions": 4, "min_fps": 0.01}
    with running(lambda: next(failing), **settings) as made, Page(made) as other, started(made) as page:
        other.send("start")
        page.until(lambda: page.errors)
        assert page.errors[-1]["code"] == "engine"
        assert "secret" not in str(page.errors)
        page.until(lambda: page.stats.get("state") == "stopped")
        count = len(other.frames)
        other.until(lambda: len(other.frames) > count + 20)  # the other session is not disturbed
        page.send("start")
        page.until(lambda: page.frames[-1].chunk >= 5)


def test_recording_holds_exactly_the_frames(server: Running) -> None:
    with started(server, example="kite") as page, server.http() as http:
        page.send("record", on=True)
        page.until(lambda: page.stats.get("recording") is True)
        count = len(page.frames)
        page.until(lambda: len(page.frames) > count + 24)
        page.send("record", on=False)
        page.until(lambda: page.stats.get("recorded") is True)
        path = f"/api/sessions/{page.hello['session']}/recording"
        assert http.get(path).status_code == 404
        answer = http.get(path, headers={"x-session-key": page.hello["key"]})
        assert answer.headers["content-type"] == "video/mp4"
        with av.open(io.BytesIO(answer.content)) as video:
            frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
        assert len(frames) >= 12
        assert np.abs(frames[-1].astype(int) - picture(page)).mean() < 12


def test_recording_ends_at_its_limit() -> None:
    with running(fps=FPS, limits=Limits(record_seconds=0.5)) as made, started(made) as page:
        page.send("record", on=True)
        page.until(lambda: page.stats.get("recorded") is True)
        assert page.stats["recording"] is False


def test_recording_that_cannot_go_on_leaves_the_stream_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with running(fps=FPS) as made, started(made) as page:
        page.send("record", on=True)
        page.until(lambda: page.stats.get("recording") is True)
        monkeypatch.setattr("ms_infer.media.writers._Mp4._put", full)
        page.until(lambda: page.stats.get("recording") is False)
        count = len(page.frames)
        page.until(lambda: len(page.frames) > count + 20)
        assert not page.errors


def test_frame_that_cannot_be_coded_stops_with_words(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(fps=FPS) as made, started(made) as page:
        monkeypatch.setattr("ms_infer.serve.wire.encode.JpegEncoder.encode", lambda *_, **__: 1 / 0)
        page.until(lambda: page.errors)
        assert "division" not in str(page.errors)
        monkeypatch.undo()
        page.send("start")
        page.until(lambda: page.frames[-1].chunk == 0 and page.stats["state"] == "running")


def test_h264_frames_decode_and_begin_with_a_key() -> None:
    with running(lambda: MovingPicture(size=64), fps=FPS, codec="h264") as made, started(made, ("h264",)) as page:
        page.until(lambda: len(page.frames) >= 20)
        assert page.frames[0].codec == Codec.H264_KEY
        assert {frame.codec for frame in page.frames[1:20]} == {Codec.H264_DELTA}
        decoder = av.CodecContext.create("h264", "r")
        shown = [picture for frame in page.frames[:20] for picture in decoder.decode(av.Packet(frame.picture))]
        assert len(shown) >= 15
        assert (shown[0].width, shown[0].height) == (64, 64)


def test_lost_decoder_gets_a_key_frame() -> None:
    with (
        running(fps=FPS, codec="h264") as made,
        started(made, ("h264",)) as page,
        Page(made, join=False, codecs=("h264",)) as watcher,
    ):
        watcher.join(watch=True)
        watcher.until(lambda: len(watcher.frames) >= 5)
        assert watcher.frames[-1].codec == Codec.H264_DELTA
        count, others = len(watcher.frames), len(page.frames)
        watcher.send("key")
        watcher.until(lambda: Codec.H264_KEY in {frame.codec for frame in watcher.frames[count:]})
        page.until(lambda: len(page.frames) > others + 10)
        assert {frame.codec for frame in page.frames[others:]} == {Codec.H264_DELTA}  # the others are not disturbed


def test_session_ends_when_nobody_comes_back() -> None:
    with running(fps=FPS, limits=Limits(resume_seconds=0.2)) as made, made.http() as http:
        Page(made).socket.close()
        end = time.monotonic() + 60
        while http.get("/api/sessions").json()["sessions"]:
            assert time.monotonic() < end, "the session was kept"
            time.sleep(0.1)


def test_idle_session_says_goodbye() -> None:
    with running(fps=FPS, limits=Limits(idle_seconds=0.5)) as made, Page(made) as page:
        page.until(lambda: page.byes)
        assert page.byes[0]["reason"] == "idle"


def test_session_ends_after_its_lifetime() -> None:
    with running(fps=FPS, limits=Limits(lifetime_seconds=0.5)) as made, Page(made) as page:
        page.until(lambda: page.byes)
        assert page.byes[0]["reason"] == "lifetime"


def test_full_server_offers_to_watch() -> None:
    with running(fps=FPS, max_sessions=1) as made, started(made), Page(made, join=False) as late:
        late.join()
        refusal = late.errors[0]
        assert (refusal["reason"], refusal["watch"]) == ("full", True)
        assert "watch" in refusal["text"]
        late.join(watch=True)
        late.until(lambda: late.hello)
        late.until(lambda: late.frames)


def test_slow_engine_lets_nobody_else_in() -> None:
    slow = 12 / 15.0  # seconds a chunk: one session gets 15 frames per second, two would get 7.5
    with running(lambda: MovingPicture(seconds=slow), min_fps=10.0) as made, Page(made), Page(made, join=False) as late:
        late.join()
        assert late.errors[0]["reason"] == "full"


def test_frames_slow_down_evenly_with_the_engine() -> None:
    with running(lambda: MovingPicture(seconds=0.5), fps=FPS) as made, started(made) as page:
        page.quiet(2.0)
        arrivals = []
        for _ in range(30):
            count = len(page.frames)
            page.until(lambda count=count: len(page.frames) > count)
            arrivals.append(time.monotonic())
        gaps = np.diff(arrivals)
        assert np.median(gaps) > 1.3 / FPS  # spread over the chunk, not a burst and a wait


def test_metrics_count() -> None:
    with running(fps=FPS) as made, started(made) as page, made.http() as http:
        page.until(lambda: len(page.frames) > 20)
        text = http.get("/metrics").text
        values = {
            line.split()[0]: float(line.split()[1]) for line in text.splitlines() if line and not line.startswith("#")
        }
        assert values["ms_infer_sessions"] == 1
        assert values["ms_infer_clients"] == 1
        assert values["ms_infer_frames_total"] >= 20
        assert values['ms_infer_chunk_duration_seconds_count{stage="chunk"}'] >= 2
        assert values["ms_infer_control_latency_seconds_count"] >= 1


def test_operators_pages() -> None:
    with running(fps=FPS) as made, Page(made) as page, made.http() as http:
        assert http.get("/healthz").json() == {"status": "ok"}
        assert http.get("/readyz").json() == {"status": "ready"}
        (session,) = http.get("/api/sessions").json()["sessions"]
        assert session["id"] == page.hello["session"]
        assert session["owner_connected"] is True
        assert page.hello["key"] not in http.get("/api/sessions").text
        api = http.get("/api/openapi.json").json()
        assert api["openapi"].startswith("3.1")
        assert set(api["paths"]) >= {"/healthz", "/readyz", "/metrics", "/ws", "/api/sessions"}
        assert "Pointers" in api["components"]["schemas"]


def test_not_ready_while_the_model_loads() -> None:
    gate = threading.Event()

    def slow() -> MovingPicture:
        gate.wait(30)
        return MovingPicture()

    with running(slow, wait=False, fps=FPS) as made, made.http() as http:
        assert http.get("/healthz").status_code == 200
        assert http.get("/readyz").status_code == 503
        with Page(made, join=False) as early:
            early.join()
            assert early.errors[0]["reason"] == "loading"
            gate.set()
            made.until_ready()
            early.join()
            early.until(lambda: early.hello)
