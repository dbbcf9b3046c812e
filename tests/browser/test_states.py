"""Every state of the page, reached as a person reaches it, with the words of docs/reference/page.md."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ms_infer.serve.protocol import Type
from ms_infer.serve.settings import Limits
from tests.browser.conftest import Visit
from tests.serve.live import running
from tests.serve.moving_picture import MovingPicture

Open = Callable[..., Visit]
SOCKET = "WebSocket connection|Failed to load resource"
LISTED = Path(__file__).parents[2] / "docs" / "reference" / "page.md"


def listed() -> dict[str, str]:
    """Words of every state and saying in the documentation."""
    rows = re.findall(r"^\| `([a-z-]+)` \| (.+?) \|", LISTED.read_text(), re.M)
    return dict(rows)


def in_page() -> dict[str, str]:
    """Words of every state and saying in the page."""
    text = (files("ms_infer.serve") / "static" / "words.js").read_text()
    return dict(re.findall(r'^  "?([a-z-]+)"?: "(.+)",$', text, re.M))


def says(page: Visit, name: str, **parts: object) -> None:
    """The page is in a state and shows its words."""
    page.is_told(name)
    words = in_page()[name].format(**parts)
    page.until(lambda: page.words().startswith(words), 10)
    page.shoot(f"state-{name}")


def start(page: Visit) -> None:
    page.tab.keyboard.press("Enter")
    page.until(lambda: page.state("page.mode") == "running" and page.frames)


def receive(page: Visit, kind: Type, *contents: str) -> str:
    """Let the page take messages as if the server had sent them, and none after them; its state then."""
    return str(
        page.state(
            f"(() => {{ const take = (page.taken ??= page.socket.onmessage);"
            f" const bytes = (text) => new TextEncoder().encode(text);"
            f" page.socket.onmessage = null;"
            f" for (const text of {list(contents)})"
            f" take({{ data: Uint8Array.of({int(kind)}, ...bytes(text)).buffer }});"
            f" return document.body.dataset.state; }})()"
        )
    )


def enabled(page: Visit) -> set[str]:
    """Controls that can be pressed, of those for the stream."""
    return set(
        page.state(
            "[...document.querySelectorAll('#bar button, #panel input, #panel button')].filter((one) => !one.disabled"
            " && one.id).map((one) => one.id)"
        )
    )


def test_every_state_is_listed_with_its_words() -> None:
    assert listed() == in_page()


def test_loading(visit: Open) -> None:
    go = threading.Event()

    def opened() -> MovingPicture:
        go.wait(60)
        return MovingPicture(size=128)

    with running(opened, wait=False) as made:
        page = visit(f"http://localhost:{made.port}/", greeted=False)
        says(page, "loading")
        assert enabled(page) == set()  # nothing can work yet
        go.set()
        says(page, "ready")  # by itself


def test_ready_running_paused_and_stopped(visit: Open, stand_in: str) -> None:
    page = visit(stand_in)
    says(page, "ready")
    assert not {"pause", "record", "undo", "redo", "clear", "save", "fork"} & enabled(page)
    assert {"play", "picture", "text"} <= enabled(page)
    start(page)
    says(page, "running")
    assert {"pause", "record", "clear"} <= enabled(page)
    page.until(lambda: "ms" in page.tab.locator("#chunk").inner_text())
    page.tab.keyboard.press(" ")
    says(page, "paused")
    assert page.tab.locator("#badge").inner_text() == "Paused"
    page.until(lambda: page.tab.locator("#p95").inner_text() == "–")  # no stale numbers
    page.tab.keyboard.press("Enter")
    says(page, "stopped")
    assert "pause" not in enabled(page)


def test_resting_until_something_is_done(visit: Open) -> None:
    with running(lambda: MovingPicture(size=128), rest=True) as made:
        page = visit(f"http://localhost:{made.port}/")
        start(page)
        says(page, "resting")
        page.until(page.shown_whole)
        count = len(page.frames)
        page.tab.wait_for_timeout(1000)
        assert len(page.frames) == count  # and it costs nothing
        page.tab.keyboard.down("ArrowRight")
        says(page, "running")
        page.until(lambda: len(page.frames) > count)
        page.tab.keyboard.up("ArrowRight")
        says(page, "resting")


def test_recording_goes_on_when_space_pauses_whatever_was_clicked(visit: Open, stand_in: str) -> None:
    page = visit(stand_in)
    start(page)
    page.tab.click("#record")
    says(page, "recording")
    page.until(lambda: re.fullmatch(r"(?!0:00)\d:\d\d", page.tab.locator("#taping").inner_text().strip()))
    page.tab.keyboard.press(" ")
    page.until(lambda: page.state("page.mode") == "paused")
    assert page.tab.locator("#record").get_attribute("aria-pressed") == "true"
    page.tab.keyboard.press(" ")
    says(page, "recording")
    with page.tab.expect_download() as download:
        page.tab.click("#record")
    assert download.value.path().read_bytes()[4:8] == b"ftyp"
    page.is_told("running")


def test_space_presses_what_was_reached_by_tab(visit: Open, stand_in: str) -> None:
    page = visit(stand_in)
    start(page)
    page.tab.focus("[data-tool=path]")
    page.tab.keyboard.press("Tab")
    page.tab.keyboard.press("Shift+Tab")
    page.tab.keyboard.press(" ")
    assert page.state("page.tool") == "path"
    assert page.state("page.mode") == "running"


def test_slow_link(visit: Open, stand_in: str) -> None:
    page = visit(stand_in)
    start(page)
    told = [f'{{"state":"running","fps":5,"dropped":{1000 + 20 * lost}}}' for lost in range(4)]
    assert receive(page, Type.STATS, *told) == "slow"
    says(page, "slow")


def test_lost_and_back(visit: Open, stand_in: str) -> None:
    page = visit(stand_in)
    start(page)
    session = page.state("page.hello.session")
    page.state(  # nothing is found at the other end for a while
        "(() => { window.Found = WebSocket; window.WebSocket = class { static OPEN = 1; constructor() {"
        " setTimeout(() => this.onclose({ code: 1006 })); } close() {} }; page.socket.close(); })()"
    )
    says(page, "lost")
    assert enabled(page) == set()
    page.state("void (window.WebSocket = Found)")
    assert page.has_said("back") == in_page()["back"]
    count = len(page.frames)
    page.until(lambda: len(page.frames) > count)
    assert page.state("page.hello.session") == session
    page.is_told("running")


def test_replaced_by_another_tab_and_taken_back(visit: Open, stand_in: str) -> None:
    page = visit(stand_in)
    start(page)
    known = page.state("sessionStorage.getItem('session')")
    other = page.tab.context.new_page()
    other.add_init_script(f"sessionStorage.setItem('session', '{known}')")
    other.goto(stand_in)
    says(page, "replaced")
    page.tab.wait_for_timeout(2500)
    assert page.words() == in_page()["replaced"]  # nothing writes over it
    page.tab.click("#ways >> text=Use it here")
    page.is_told("running")
    other.close()


@pytest.mark.parametrize(("query", "name"), [("", "token-missing"), ("?token=guessed", "token-wrong")])
def test_token_is_missing_or_wrong(visit: Open, query: str, name: str) -> None:
    with running(lambda: MovingPicture(size=128), token="correct horse battery") as made:
        page = visit(f"http://localhost:{made.port}/{query}", greeted=False, expected=SOCKET)
        says(page, name)
        page.tab.wait_for_timeout(1500)
        assert page.words() == in_page()[name]


def test_full_server_lets_watch_or_wait(visit: Open) -> None:
    with running(lambda: MovingPicture(size=128), max_sessions=1, limits=Limits(resume_seconds=1)) as made:
        address = f"http://localhost:{made.port}/"
        owner = visit(address)
        start(owner)
        watcher = visit(address, greeted=False)
        says(watcher, "full", line="")
        waiter = visit(address, greeted=False)
        says(waiter, "full", line="")
        watcher.until(lambda: "number 1 in line" in watcher.words())
        waiter.until(lambda: "number 2 in line" in waiter.words())
        watcher.tab.click("#ways >> text=Watch")
        watcher.until(lambda: watcher.state("!!page.frame"))
        says(watcher, "watching")
        assert enabled(watcher) == {"link"}
        owner.tab.close()
        waiter.is_told("ready", 30)  # somebody left


def test_idle_end_stays_until_it_is_begun_again(visit: Open) -> None:
    with running(lambda: MovingPicture(size=128), limits=Limits(idle_seconds=1.5)) as made:
        page = visit(f"http://localhost:{made.port}/")
        says(page, "idle")
        page.tab.wait_for_timeout(2500)
        assert page.words() == in_page()["idle"]
        context = made.app.state.hub.context
        context.config = replace(context.config, limits=Limits())  # the next session does not end while it is looked at
        page.tab.click("#ways >> text=Start again")
        page.is_told("ready")


def test_restarted_server_gets_the_users_own_picture_again(visit: Open, tmp_path: Path) -> None:
    path = tmp_path / "red.png"
    Image.new("RGB", (300, 200), (200, 30, 30)).save(path)
    with running(lambda: MovingPicture(size=128)) as made:
        page = visit(f"http://localhost:{made.port}/", expected=SOCKET)
        page.tab.set_input_files("#picture", str(path))
        page.until(lambda: page.frames and page.state("!!page.own"))
        port = made.port
    says(page, "closing")
    with running(lambda: MovingPicture(size=128), port=port):
        assert page.has_said("restarted") == in_page()["restarted"]
        count = len(page.frames)
        page.until(lambda: len(page.frames) > count)
        shown = page.pictures(-1, None)[0].astype(int)  # type: ignore[arg-type]
        assert np.abs(shown - (200, 30, 30)).max() < 15  # and not an example
        page.shoot("state-restarted")


def kept(page: Visit) -> bool:
    """Whether a picture was sent and is kept for after a reload."""
    return bool(page.state("!!page.own && document.getElementById('toast').hidden"))


@pytest.mark.parametrize("away", [False, True])
def test_picture_of_ones_own_outlives_a_reload(visit: Open, tmp_path: Path, away: bool) -> None:
    path = tmp_path / "red.png"
    Image.new("RGB", (300, 200), (200, 30, 30)).save(path)
    with running(lambda: MovingPicture(size=128), limits=Limits(resume_seconds=1.0 if away else 30.0)) as made:
        address = f"http://localhost:{made.port}/"
        page = visit(address)
        page.tab.set_input_files("#picture", str(path))
        page.until(lambda: page.frames and kept(page))
        session = page.state("page.hello.session")
        page.tab.goto("about:blank")
        page.until(lambda: not away or not made.app.state.hub.sessions)  # nobody came back to it
        page.tab.goto(address)
        page.until(lambda: page.state("!!(page.hello && page.own && page.frame)"))
        assert (page.state("page.hello.session") == session) is not away
        if away:
            assert page.has_said("restarted") == in_page()["restarted"]
        page.until(lambda: np.abs(np.subtract(page.pixel(0.05, 0.03), (200, 30, 30))).max() < 15)
        page.tab.click("[data-example=coffee]")
        page.until(lambda: page.state("page.own") is None)
        page.tab.reload()
        page.until(lambda: page.state("!!(page.hello && page.picture)"))
        assert page.state("page.own") is None  # another picture has taken its place


def test_picture_that_another_replaced_does_not_come_back_where_the_browser_stores_slowly(
    visit: Open, stand_in: str, tmp_path: Path
) -> None:
    path = tmp_path / "red.png"
    Image.new("RGB", (300, 200), (200, 30, 30)).save(path)
    page = visit(stand_in)
    page.tab.set_input_files("#picture", str(path))
    page.until(lambda: page.frames and kept(page))
    page.state(  # a transaction without an end lets no other one write
        "new Promise((done) => { indexedDB.open('ms-infer').onsuccess = ({ target }) => {"
        " const store = target.result.transaction('pictures', 'readwrite').objectStore('pictures');"
        " (function hold() { store.count().onsuccess = hold; done(); })(); }; })"
    )
    page.tab.click("[data-example=coffee]")
    page.until(lambda: page.state("page.own") is None)
    page.tab.reload()
    page.until(lambda: page.state("!!(page.hello && page.picture)"))
    assert page.state("page.own") is None


def test_jump_of_the_clock(visit: Open, stand_in: str) -> None:
    page = visit(stand_in)
    start(page)
    session = page.state("page.hello.session")
    page.state("(() => { const now = Date.now; Date.now = () => now() + 3600e3; })()")
    assert page.has_said("clock") == in_page()["clock"]
    page.shoot("state-clock")
    count = len(page.frames)
    page.until(lambda: len(page.frames) > count)
    assert page.state("page.hello.session") == session


def test_decoder_that_the_browser_takes_away_is_replaced(visit: Open) -> None:
    with running(lambda: MovingPicture(size=128), codec="h264") as made:
        page = visit(f"http://localhost:{made.port}/", greeted=False)
        if not page.state("VideoDecoder.isConfigSupported({ codec: 'avc1.42e01f' }).then((one) => one.supported)"):
            pytest.skip("this Chromium cannot decode H.264")
        page.tab.add_init_script(
            "window.VideoDecoder = class extends VideoDecoder { constructor(given) {"
            " super(given); window.reclaim = () => {"
            " this.close(); given.error(new DOMException('', 'QuotaExceededError')); }; } }"
        )
        page.tab.reload()
        page.until(lambda: page.state("!!page.hello"))
        page.tab.keyboard.press("Enter")
        page.until(lambda: page.state("page.frame?.index > 10"))
        page.state("reclaim()")
        assert page.has_said("codec") == in_page()["codec"]
        index = page.state("page.frame.index")
        page.until(lambda: page.state("page.frame.index") > index + 10)
        page.shoot("state-codec")


def test_message_that_a_goodbye_is_followed_by_does_not_overwrite_it(visit: Open, stand_in: str) -> None:
    page = visit(stand_in)
    receive(page, Type.BYE, '{"reason":"rate","text":"too many messages"}')
    says(page, "ended", text="too many messages")
    page.state("page.socket.close()")
    page.tab.wait_for_timeout(1500)
    assert page.words() == in_page()["ended"].format(text="too many messages")


def test_answer_that_refuses_is_shown(visit: Open, stand_in: str) -> None:
    page = visit(stand_in)
    receive(page, Type.ERROR, '{"code":"refused","reason":"nothing","text":"there is nothing to watch"}')
    says(page, "refused", text="there is nothing to watch")


def test_one_slow_first_frame_does_not_make_the_link_slow(visit: Open) -> None:
    with running(lambda: MovingPicture(size=128)) as made:
        watch_a_slow_first_frame(visit(f"http://localhost:{made.port}/"))


def watch_a_slow_first_frame(page: Visit) -> None:
    page.state(
        "(() => { const take = page.socket.onmessage; let busy = true; page.socket.onmessage = (event) => {"
        f" if (busy && new Uint8Array(event.data)[0] === {int(Type.FRAME)}) {{ busy = false;"
        " const end = performance.now() + 1500; while (performance.now() < end); } take(event); }; })()"
    )
    start(page)
    page.until(lambda: page.state("page.frame?.index > 60"))
    page.until(lambda: as_good_as_the_first(page))
    says(page, "running")


def as_good_as_the_first(page: Visit) -> bool:
    """Whether the newest frames have the size and the quality of the first one."""
    sizes = [len(one[3]) for one in page.frames[-12:] if one[3][:2] == b"\xff\xd8"]
    return len(sizes) == 12 and bool(np.median(sizes) > 0.8 * len(page.frames[0][3]))
