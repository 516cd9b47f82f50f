"""An S3 server on loopback, in memory: moto's, which also loses replies where it is told to.

    python -m tests.fakes.s3 [NUMBER ...]

moto looks whether a key is there and then puts it, so that of two conditional puts at once both
could win. Real stores promise that one does: here requests are served one at a time. The replies to
the commits with these numbers (1 is the first that a Delta log takes) are lost after the commit was
made: the connection ends, as when a network fails at the worst moment.
"""

import logging
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.request import Request, urlopen

Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class OneAtATime:
    """A WSGI application that serves `app` serially and drops some replies."""

    def __init__(self, app: Wsgi, lose: frozenset[int]) -> None:
        self.app, self.lose = app, lose
        self.commits = 0
        self.lock = Lock()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        """Answer a request."""
        status = ""

        def noted(line: str, *rest: Any) -> Any:
            nonlocal status
            status = line
            return start_response(line, *rest)

        with self.lock:
            body = list(self.app(environ, noted))
            made = is_commit(environ) and status.startswith("200")
            self.commits += made
            lost = made and self.commits in self.lose
        if lost:
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        return body


def is_commit(environ: dict[str, Any]) -> bool:
    """Whether a request is the conditional put of an entry of a Delta log."""
    path = environ["PATH_INFO"]
    conditional = environ.get("HTTP_IF_NONE_MATCH") == "*"
    put = environ["REQUEST_METHOD"] == "PUT" and conditional
    return put and "/_delta_log/" in path and path.endswith(".json")


@contextmanager
def s3_server(lose: Iterable[int] = ()) -> Iterator[dict[str, str]]:
    """Yield storage options for delta-rs; the bucket is named 'bucket'.

    The server is a process of its own: delta-rs holds the GIL while it uploads, and would wait for
    a thread that waits for it.
    """
    command = [sys.executable, "-m", "tests.fakes.s3", *map(str, sorted(lose))]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as server:
        try:
            assert server.stdout is not None
            url = f"http://127.0.0.1:{int(server.stdout.readline())}"
            urlopen(Request(f"{url}/bucket", method="PUT")).close()
            yield {
                "AWS_ENDPOINT_URL": url,
                "AWS_ALLOW_HTTP": "true",
                "AWS_ACCESS_KEY_ID": "test",
                "AWS_SECRET_ACCESS_KEY": "test",
                "AWS_REGION": "us-east-1",
            }
        finally:
            server.terminate()


def main() -> None:
    """Serve on a free port, print it, and run until terminated."""
    from moto.moto_server.werkzeug_app import MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    app = OneAtATime(create_backend_app("s3"), frozenset(map(int, sys.argv[1:])))
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=MotoRequestHandler)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
