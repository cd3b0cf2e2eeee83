"""A local HTTP server that answers rightly, wrongly, slowly, in drops, or elsewhere."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class IntensityServer(ThreadingHTTPServer):
    """Answers every path with ``answer``, and keeps what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer: Any = {}
        self.status = 200
        self.headers_sent: dict[str, str] = {}
        self.delay_s = 0.0
        self.is_dripping = False
        self.paths: list[str] = []
        self.keys: list[str | None] = []
        self.stopped = threading.Event()

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: IntensityServer

    def do_GET(self) -> None:
        self.server.paths.append(self.path)
        self.server.keys.append(self.headers["auth-token"])
        self.server.stopped.wait(self.server.delay_s)
        answer = self.server.answer
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(self.server.status)
        for name, value in self.server.headers_sent.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.server.is_dripping:
            for byte in body:
                self.wfile.write(bytes([byte]))
                if self.server.stopped.wait(0.05):
                    return
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def intensity_server() -> Iterator[IntensityServer]:
    """Gives a server that runs until the block ends."""
    server = IntensityServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.stopped.set()
        server.shutdown()
        thread.join()
        server.server_close()
