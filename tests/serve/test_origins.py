"""Where a page may come from: the address itself, public ones behind a proxy, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from ms_infer.errors import ConfigError
from ms_infer.serve.settings import Origin, ServeConfig
from tests.serve.live import Page, Running, running

PUBLIC, BELOW = "https://public.name", "https://studio.example:8443/live"
FOREIGN = [
    "null",
    "",
    "https://evil.example",
    "https://public.name.evil.example",
    "https://evil.example/?https://public.name",
    "https://public.name@evil.example",
    "http://public.name",  # not the scheme that was given
    "https://public.name:8443",
    "https://studio.example",
    "file://",
    "https://public.name:99999",
    "https://[::1",
]


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(fps=48.0, max_sessions=64, min_fps=0.01, origin=(PUBLIC, BELOW)) as made:
        yield made


def joins(server: Running, origin: str | None, host: str | None = None, path: str = "/ws") -> bool:
    """Whether a page from there gets a session."""
    headers = {} if host is None else {"Host": host}
    try:
        with Page(server, origin=origin, additional_headers=headers, path=path) as page:
            return bool(page.hello["owner"])
    except InvalidStatus as refusal:
        return refusal.response.status_code != 403


@pytest.mark.parametrize("host", [None, "public.name", "public.name:443"])
def test_public_origin_is_let_in_whatever_host_the_proxy_names(server: Running, host: str | None) -> None:
    assert joins(server, PUBLIC, host)
    assert joins(server, "https://public.name:443", host)


@pytest.mark.parametrize("origin", FOREIGN)
@pytest.mark.parametrize("host", [None, "public.name"])
def test_foreign_origin_is_refused(server: Running, origin: str, host: str | None) -> None:
    with server.http() as http:
        headers = {"origin": origin} | ({} if host is None else {"host": host})
        if (origin, host) == ("http://public.name", "public.name"):  # its own address, as the proxy passes it on
            return
        assert http.get("/api/sessions", headers=headers).status_code == 403


def test_foreign_origin_gets_no_socket(server: Running) -> None:
    assert not joins(server, "https://evil.example")
    assert not joins(server, "null")


@pytest.mark.parametrize(
    ("origin", "host", "let_in"),
    [
        ("http://localhost", "localhost:80", True),
        ("http://localhost:80", "localhost", True),
        ("https://localhost", "localhost:443", True),
        ("https://localhost", "localhost", True),  # TLS ends at a proxy
        ("http://localhost:81", "localhost", False),
        ("http://localhost", "localhost:443", False),
        ("http://LOCALHOST", "localhost", True),
    ],
)
def test_default_ports_are_equal_to_none(server: Running, origin: str, host: str, let_in: bool) -> None:
    with server.http() as http:
        answer = http.get("/healthz", headers={"origin": origin, "host": host})
    assert answer.status_code == (200 if let_in else 403)


def test_server_without_public_names_says_what_to_do() -> None:
    with running(fps=48.0) as made, made.http() as http:
        answer = http.get("/api/sessions", headers={"origin": PUBLIC})
        assert answer.status_code == 403
        assert "--origin" in answer.json()["error"]
        assert http.get("/healthz", headers={"host": "public.name"}).status_code == 403


def test_it_works_under_a_sub_path_whether_or_not_the_proxy_takes_it_away(server: Running) -> None:
    origin = "https://studio.example:8443"
    with server.http() as http:
        for path in ("/", "/live/", "/app.js", "/live/app.js", "/live/examples/kite", "/live/api/openapi.json"):
            answer = http.get(path, headers={"origin": origin, "host": "studio.example:8443"})
            assert answer.status_code == 200, path
        moved = http.get("/live?token=x", headers={"host": "studio.example:8443"})
        assert (moved.status_code, moved.headers["location"]) == (307, "/live/?token=x")
        assert http.get("/liver/").status_code == 404
    assert joins(server, origin, path="/live/ws")
    assert joins(server, origin, path="/ws")


def test_page_asks_for_everything_relative_to_itself(server: Running) -> None:
    with server.http() as http:
        names = [name for name in server.app.state.pages if name.endswith((".js", ".html")) or name == "/"]
        assert len(names) > 5
        for name in names:
            text = http.get(name).text
            assert not any(word in text for word in ('"/api', '"/ws', '"/examples', 'src="/', 'href="/')), name
            assert "location.host" not in text


def test_token_is_asked_for_below_the_path_too() -> None:
    with running(fps=48.0, token="t" * 20, origin=(BELOW,)) as made, made.http() as http:
        assert http.get("/live/").status_code == 200
        assert http.get("/live/api/sessions").status_code == 403
        assert http.get("/live/api/sessions", params={"token": "t" * 20}).status_code == 200


@pytest.mark.parametrize("text", ["public.name", "ftp://public.name", "https://", "https://a/b?c", "https://a:b", ""])
def test_what_is_no_origin_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ConfigError, match=r"https://public\.name"):
        ServeConfig(origin=(text,))


def test_origin_is_read() -> None:
    assert Origin.read("https://Public.Name/") == ("https", "public.name", 443, "")
    assert Origin.read("http://[::1]:8600/a/b/") == ("http", "::1", 8600, "/a/b")


def test_answer_of_a_guard_carries_its_headers() -> None:
    with running(fps=48.0) as made, httpx.Client(base_url=f"http://{made.host}") as http:
        assert http.get("/").headers["x-content-type-options"] == "nosniff"
