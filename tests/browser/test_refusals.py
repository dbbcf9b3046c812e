"""Files that are not sent or not taken, and proxies that answer in the server's place."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

import pytest

from tests.browser.conftest import Visit
from tests.browser.test_states import SOCKET, in_page, says

Open = Callable[..., Visit]


def posts(page: Visit) -> list[str]:
    """Addresses that something is sent to, from now on."""
    sent: list[str] = []
    page.tab.on("request", lambda request: sent.append(request.url) if request.method == "POST" else None)
    return sent


def choose(page: Visit, name: str, data: bytes, kind: str = "picture") -> None:
    page.tab.set_input_files(f"#{kind}", {"name": name, "mimeType": "application/octet-stream", "buffer": data})


def test_upload_that_is_too_big_is_not_sent(visit: Open, stand_in: str) -> None:
    page = visit(stand_in)
    sent = posts(page)
    choose(page, "large.png", b"\x89PNG\r\n\x1a\n" + bytes(17 * 2**20))
    assert page.has_said("too-big") == in_page()["too-big"].format(name="large.png", size=17.1, limit=16)
    page.shoot("state-too-big")
    assert sent == []


@pytest.mark.parametrize(("kind", "name"), [("picture", "no-picture"), ("video", "no-video")])
def test_file_that_is_none_is_not_sent(visit: Open, stand_in: str, kind: str, name: str) -> None:
    page = visit(stand_in)
    sent = posts(page)
    choose(page, "notes.txt", b"these are notes, nothing to see", kind)
    assert page.has_said(name) == in_page()[name].format(name="notes.txt")
    page.shoot(f"state-{name}")
    assert sent == []


PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)


def test_proxy_that_answers_in_html(visit: Open, stand_in: str) -> None:
    page = visit(stand_in, expected=SOCKET)
    page.tab.route("**/image", lambda route: route.fulfill(status=413, content_type="text/html", body="<h1>413</h1>"))
    choose(page, "a.png", PNG)
    assert page.has_said("answer") == in_page()["answer"].format(code=413, name="a.png")
    page.shoot("state-answer")


def test_upload_whose_connection_breaks(visit: Open, stand_in: str) -> None:
    page = visit(stand_in, expected=SOCKET)
    page.tab.route("**/image", lambda route: route.abort())
    choose(page, "a.png", PNG)
    assert page.has_said("failed") == in_page()["failed"].format(name="a.png")
    page.shoot("state-failed")


class _Proxy(http.server.SimpleHTTPRequestHandler):
    """The page's files, and HTML for all else, as a proxy answers whose server is gone."""

    def do_GET(self) -> None:
        if self.path.split("?")[0].endswith(("/", ".js", ".css")):
            super().do_GET()
            return
        self.send_response(502)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(b"<h1>502 Bad Gateway</h1>")

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def proxy() -> Iterator[str]:
    handler = functools.partial(_Proxy, directory=str(files("ms_infer.serve") / "static"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://localhost:{server.server_address[1]}/"
        server.shutdown()


def test_proxy_without_a_server_behind_it(visit: Open) -> None:
    with proxy() as address:
        page = visit(address, greeted=False, expected=SOCKET)
        says(page, "proxy", code="HTTP 502")
