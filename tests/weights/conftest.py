"""A real HTTP server that can misbehave on request."""

import hashlib
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for published_large_kernels


class FileServer:
    """Serves ``body`` under any path but ``/missing``; the switches make it misbehave."""

    def __init__(self) -> None:
        self.body = bytes(range(256)) * 4096 * 3  # 3 MiB
        self.cuts: list[int] = []  # of the next answers: end the connection after so many bytes
        self.ranges = True  # understand Range
        self.if_range = True  # understand If-Range
        self.validators = True  # send ETag and Last-Modified
        self.status = 0  # answer with this status
        self.requests: list[dict[str, str]] = []
        self.sent = 0
        handler = type("Handler", (_Handler,), {"files": self})
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}"

    @property
    def etag(self) -> str:
        return f'"{hashlib.md5(self.body).hexdigest()}"'

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    files: FileServer

    def do_GET(self) -> None:
        files = self.files
        files.requests.append(dict(self.headers))
        self.close_connection = True
        if files.status or self.path.startswith("/missing"):
            self.send_response(files.status or 404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body, start = files.body, 0
        wanted = self.headers.get("Range")
        same = not files.if_range or self.headers.get("If-Range") in (None, files.etag)
        if wanted and files.ranges and same:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if start >= len(body):
            self.send_response(416)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - start))
        if files.validators:
            self.send_header("ETag", files.etag)
        self.end_headers()
        end = start + files.cuts.pop(0) if files.cuts else len(body)
        files.sent += len(body[start:end])
        self.wfile.write(body[start:end])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path, monkeypatch) -> Iterator[FileServer]:
    """A running server; the cache is an empty folder."""
    monkeypatch.setenv("CONVNEXT_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("convnext.weights.download.PAUSE_S", 0.01)
    files = FileServer()
    yield files
    files.close()
