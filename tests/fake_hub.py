"""A Hugging Face hub on this machine: folders as repositories, and a list of what was fetched."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

REVISION = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """Answers what `snapshot_download` asks for."""

    repositories: ClassVar[Mapping[str, Path]] = {}
    fetched: ClassVar[list[str]] = []

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        path = self.path.split("?")[0]
        for name, folder in self.repositories.items():
            if path.startswith(f"/api/models/{name}"):
                self.list_files(name, folder, tree="/tree/" in path)
                return
            if path.startswith(f"/{name}/resolve/"):
                self.send_file(folder, path.split("/resolve/")[1].split("/", 1)[1], body=body)
                return
        self.reply(404, b"", body=body)

    def list_files(self, name: str, folder: Path, *, tree: bool) -> None:
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        names = [str(path.relative_to(folder)) for path in files]
        entries = [
            {"type": "file", "path": name, "size": path.stat().st_size, "oid": hashlib.sha1(name.encode()).hexdigest()}
            for name, path in zip(names, files, strict=True)
        ]
        known = {"id": name, "modelId": name, "sha": REVISION, "siblings": [{"rfilename": file} for file in names]}
        self.reply(200, json.dumps(entries if tree else known).encode(), {"Content-Type": "application/json"})

    def send_file(self, folder: Path, file: str, *, body: bool) -> None:
        content = (folder / file).read_bytes()
        if body:
            self.fetched.append(file)
        tag = hashlib.sha256(content).hexdigest()
        self.reply(200, content, {"ETag": f'"{tag}"', "X-Repo-Commit": REVISION}, body=body)

    def reply(self, status: int, content: bytes, more: Mapping[str, str] | None = None, *, body: bool = True) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **(more or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Nothing on stderr."""


@contextmanager
def fake_hub(repositories: Mapping[str, Path]) -> Iterator[tuple[str, list[str]]]:
    """OWNER/NAME -> folder; gives the hub's address and the files whose content was fetched."""
    fetched: list[str] = []
    handler = type("OneHub", (Hub,), {"repositories": repositories, "fetched": fetched})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", fetched
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
