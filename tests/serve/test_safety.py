"""What must not happen to a server that anybody may talk to."""

from __future__ import annotations

import contextlib
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from ms_infer.errors import ConfigError
from ms_infer.serve.app import create_app
from ms_infer.serve.cli import with_token
from ms_infer.serve.protocol import Type
from ms_infer.serve.settings import Limits, ServeConfig
from tests.serve.live import Page, Running, running
from tests.serve.moving_picture import MovingPicture
from tests.serve.test_uploads import SMALL, png, post


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(fps=48.0, max_sessions=64, min_fps=0.01, limits=SMALL) as made:
        yield made


# ---- who may talk to it


def test_other_hosts_need_a_token() -> None:
    with pytest.raises(ConfigError, match="token"):
        ServeConfig(host="0.0.0.0")
    assert ServeConfig(host="0.0.0.0", token="x" * 16).loopback is False
    for host in ("127.0.0.1", "localhost", "::1", "127.8.8.8"):
        assert ServeConfig(host=host).loopback


def test_command_line_makes_up_a_token_for_other_hosts() -> None:
    assert with_token(["demo", "--host", "127.0.0.1"]) == ["demo", "--host", "127.0.0.1"]
    made = with_token(["--host", "0.0.0.0"])
    option, token = made[2].split("=", 1)
    assert option == "--token"
    assert len(token) >= 20
    assert with_token(["--host=0.0.0.0"])[1].startswith("--token=")
    assert with_token(["--host", "0.0.0.0", "--token", "mine"])[3] == "mine"


def test_token_is_required_everywhere_but_for_the_page() -> None:
    token = "correct horse battery"
    with running(fps=48.0, token=token) as made, made.http() as http:
        for path in ("/metrics", "/api/sessions", "/api/openapi.json", "/examples/balloon"):
            assert http.get(path).status_code == 403
            assert http.get(path, params={"token": "wrong"}).status_code == 403
            assert http.get(path, headers={"x-token": token}).status_code == 200
        assert http.get("/").status_code == 200
        with pytest.raises(InvalidStatus):
            Page(made)
        with Page(made, token=token.replace(" ", "%20")) as page:
            assert page.hello["owner"]


def test_foreign_origin_is_refused(server: Running) -> None:
    with pytest.raises(InvalidStatus):
        Page(server, origin="http://evil.example")
    with pytest.raises(InvalidStatus):
        Page(server, origin=f"http://127.0.0.1:{server.port + 1}")
    with Page(server, origin=f"http://{server.host}") as page:
        assert page.hello["owner"]
        assert post(server, page, "image", png(9, 9), origin="http://evil.example").status_code == 403


def test_foreign_host_name_is_refused(server: Running) -> None:
    """A name that an attacker points at 127.0.0.1 must not reach the server."""
    with server.http() as http:
        for host in ("evil.example", f"evil.example:{server.port}", "127.0.0.1.evil.example", ""):
            assert http.get("/healthz", headers={"host": host}).status_code in (400, 403)
        assert http.get("/healthz", headers={"host": f"localhost:{server.port}"}).status_code == 200


def test_only_the_owner_uploads_and_downloads(server: Running) -> None:
    with Page(server) as page, server.http() as http:
        path = f"/api/sessions/{page.hello['session']}"
        for key in ("", "guess", "é"):
            headers = {"x-session-key": key.encode()}
            assert http.post(f"{path}/image", content=png(8, 8), headers=headers).status_code == 404
            assert http.get(f"{path}/recording", headers=headers).status_code == 404


def test_answers_carry_the_security_headers(server: Running) -> None:
    with server.http() as http:
        for path in ("/", "/app.js", "/style.css", "/nothing", "/healthz"):
            headers = http.get(path).headers
            assert "frame-ancestors 'self'" in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
            assert "server" not in headers


# ---- files


def test_no_path_of_a_client_is_opened(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    original = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *a, **k: (opened.append(str(self)), original(self, *a, **k))[1])
    with server.http() as http:
        for path in ("/../pyproject.toml", "/%2e%2e/%2e%2e/etc/passwd", "/examples/..%2f..%2fapp", "/static/app.js"):
            answer = http.get(path)
            assert answer.status_code == 404
            assert "root:" not in answer.text
        with Page(server) as page:
            page.send("start", example="../../../etc/passwd")
            page.until(lambda: page.errors)
            assert "no example" in page.errors[0]["text"]
    assert not any("passwd" in path or "pyproject" in path for path in opened)


# ---- messages


def test_message_too_large_ends_the_connection_alone(server: Running) -> None:
    with Page(server) as other, Page(server) as page:
        other.send("start")
        page.socket.send(bytes(Limits().message_bytes + 1))
        with pytest.raises(ConnectionClosed):
            page.quiet(5)
        count = len(other.frames)
        other.until(lambda: len(other.frames) > count + 5)


def test_too_many_messages_end_the_connection() -> None:
    limits = Limits(messages_per_second=50, message_burst=100)
    with running(fps=48.0, limits=limits) as made, Page(made) as page:
        with contextlib.suppress(ConnectionClosed):
            for _ in range(300):
                page.send("clear")
        page.until(lambda: page.byes)
        assert page.byes[0]["reason"] == "rate"


def test_garbage_is_refused_and_then_ends_the_connection(server: Running) -> None:
    with Page(server) as page:
        with contextlib.suppress(ConnectionClosed):
            for _ in range(60):
                page.socket.send(b"\x02{")
        page.until(lambda: page.byes)
        assert page.byes[0]["reason"] == "garbage"
        assert len(page.errors) >= 1


def test_silent_connection_is_sent_away() -> None:
    with running(fps=48.0, limits=Limits(join_seconds=0.3)) as made, Page(made, join=False) as page:
        page.until(lambda: page.byes)
        assert page.byes[0]["reason"] == "silent"


def test_controls_before_joining_are_refused(server: Running) -> None:
    with Page(server, join=False) as page:
        page.send("start")
        page.until(lambda: page.errors)
        assert "join" in page.errors[0]["text"]


def test_other_version_is_told_to_reload(server: Running) -> None:
    with Page(server, join=False) as page:
        page.socket.send(bytes([Type.CONTROL]) + b'{"do":"join","version":99}')
        page.until(lambda: page.byes)
        assert page.byes[0]["reason"] == "version"


def test_unknown_types_are_ignored(server: Running) -> None:
    with Page(server) as page:
        for kind in (0, 1, 3, 99, 255):
            page.socket.send(bytes([kind]) + b"whatever")
        page.send("start")
        page.until(lambda: page.frames)
        assert not page.errors


def test_unexpected_errors_reach_no_client(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr("ms_infer.serve.web.files.read_picture", broken)
    with running(fps=48.0) as made, Page(made) as page:
        answer = post(made, page, "image", png(8, 8))
        assert answer.status_code == 500
        assert answer.json() == {"error": "the server failed to answer"}


# ---- clients that misbehave


def test_too_many_connections_are_refused() -> None:
    with running(fps=48.0, limits=Limits(clients=3)) as made:
        pages = [Page(made, join=False) for _ in range(3)]
        with pytest.raises(InvalidStatus):
            Page(made, join=False)
        for page in pages:
            page.socket.close()
        end = time.monotonic() + 60
        while "ms_infer_clients 0.0" not in httpx.get(f"http://{made.host}/metrics").text:
            assert time.monotonic() < end, "connections that were closed are kept"
            time.sleep(0.05)
        Page(made).socket.close()


def test_fifty_clients_that_never_read_slow_nobody_down() -> None:
    limits = Limits(ping_seconds=2.0)
    with running(lambda: MovingPicture(size=128), fps=48.0, limits=limits) as made, Page(made) as page:
        page.send("start", example="balloon")
        page.until(lambda: len(page.frames) > 10)
        deaf = [_deaf_watcher(made, page.hello["session"]) for _ in range(50)]
        time.sleep(1.0)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        count = len(page.frames)
        page.until(lambda: len(page.frames) > count + 150)
        assert page.frames[-1].index - page.frames[count].index <= len(page.frames) - count + 40  # few were dropped
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000  # KiB
        with made.http() as http:
            for _ in range(150):  # they answer no ping: all are gone in the end
                if "ms_infer_clients 1.0" in http.get("/metrics").text:
                    break
                page.quiet(0.2)
            else:
                raise AssertionError("dead connections are kept")
        for raw in deaf:
            raw.close()


def _deaf_watcher(made: Running, session: str) -> socket.socket:
    """A WebSocket that joins and then never reads again."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.connect(("127.0.0.1", made.port))
    raw.sendall(
        f"GET /ws HTTP/1.1\r\nHost: {made.host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    content = b'\x02{"do":"join","version":2,"watch":true,"session":"%s"}' % session.encode()
    raw.sendall(bytes([0x82, 0x80 | len(content)]) + bytes(4) + content)
    return raw


def test_client_killed_in_the_middle_of_a_frame(server: Running) -> None:
    with Page(server) as other:
        other.send("start")
        for _ in range(5):
            page = Page(server)
            page.send("start")
            page.until(lambda page=page: page.frames)
            raw = page.socket.socket
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # reset, no goodbye
            raw.sendall(b"\x82\xff\0\0")  # half of a message's head
            raw.close()
        count = len(other.frames)
        other.until(lambda: len(other.frames) > count + 20)


def test_app_is_made_without_loading_the_model() -> None:
    def never() -> Any:
        raise AssertionError("opened")

    create_app(ServeConfig(), never)
