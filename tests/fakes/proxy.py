"""A proxy before a real server that a test can make slow, refuse, or be away."""

import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


class Proxy:
    """Forwards every request to a server, as the test wants it.

    Attributes:
        uri: of the proxy.
        delay_s: what each request waits first.
        status: what is answered in the server's place; ``None`` lets it answer.
        is_away: whether connections break off without an answer.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.delay_s = 0.0
        self.status: int | None = None
        self.is_away = False


@contextmanager
def proxy_before(server_uri: str) -> Iterator[Proxy]:
    """Gives a proxy on a free port of this machine, ended with the block."""
    address = urlsplit(server_uri).netloc

    class Handler(BaseHTTPRequestHandler):
        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            time.sleep(proxy.delay_s)
            if proxy.is_away:
                self.close_connection = True
                self.connection.close()
                return
            if proxy.status is not None:
                self.send_error(proxy.status)
                return
            connection = http.client.HTTPConnection(address, timeout=30)
            headers = {key: value for key, value in self.headers.items() if key != "Host"}
            connection.request(self.command, self.path, body, {**headers, "Host": address})
            answer = connection.getresponse()
            content = answer.read()
            connection.close()
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.headers.get("Content-Type", ""))
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PATCH = do_DELETE = do_PUT = forward  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            """Prints nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """Prints nothing of connections that broke off."""

    server = Server(("127.0.0.1", 0), Handler)
    proxy = Proxy(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
