"""Starts the gallery's server: loopback unless asked, a token wherever others can reach it.

It waits for nobody for ever, neither for a request nor for a reader of its answer: uvicorn gives a
visitor who sends half a request all the time in the world, and a socket with it.
"""

import asyncio
import os
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from catalog.gallery.guard import App, is_loopback
from factory.errors import CatalogError

TOKEN_VARIABLE = "FACTORY_GALLERY_TOKEN"  # noqa: S105 -- its name, not a token
SHORTEST_TOKEN = 16
LAST_SECONDS = 5.0
"""After a signal, what has not ended by itself is ended."""
REQUEST_SECONDS = 10.0
"""Between the beginning of a connection, or the last answer, and the next whole request."""
ANSWER_SECONDS = 60.0
"""Until an answer is computed and taken."""
CONNECTIONS = 200
"""At a time; then the one that has been waited for longest makes room."""
_LOOK_SECONDS = 1.0
_MAKE_ONE = (
    "Make one with `python -c 'import secrets; print(secrets.token_urlsafe(32))'`,"
    f" in a file for --token-file or in {TOKEN_VARIABLE}"
)


def token_for(
    host: str, token_file: Path | None, environment: Mapping[str, str] | None = None
) -> str | None:
    """Return the token that visitors must know, from a file or the environment; None: nobody asks.

    Raises:
        CatalogError: other machines can reach `host` and there is no token, or it is too short.
    """
    held = os.environ if environment is None else environment
    where, token = TOKEN_VARIABLE, held.get(TOKEN_VARIABLE, "").strip()
    if token_file is not None:
        where, token = str(token_file), _read(token_file)
    if token and len(token) < SHORTEST_TOKEN:
        raise CatalogError(
            f"the token in {where!r} has {len(token)} characters",
            remedy=f"Use at least {SHORTEST_TOKEN}. {_MAKE_ONE}",
        )
    if not token and not is_loopback(host):
        raise CatalogError(
            f"others can reach {host!r}, and there is no token to ask them for",
            remedy=f"{_MAKE_ONE}; or leave --host at 127.0.0.1",
        )
    return token or None


def token_to_write(
    host: str, token_file: Path | None, environment: Mapping[str, str] | None = None
) -> str:
    """Return the token of a server that takes what visitors say; see `token_for`.

    Raises:
        CatalogError: there is none, also on loopback, or it is too short.
    """
    token = token_for(host, token_file, environment)
    if token is None:
        raise CatalogError(
            "what reviewers say is written down, and there is no token to ask them for",
            remedy=_MAKE_ONE,
        )
    return token


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that takes visitors at an address, before there is anything to show them.

    Raises:
        CatalogError: the address cannot be listened at.
    """
    try:
        taken = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((host, port))
        taken.listen()
    except OSError as error:
        raise CatalogError(
            f"nothing can listen at {host}:{port} ({error.strerror or error})",
            remedy="Choose another --port or --host",
        ) from error
    return taken


def serve(app: App, taken: socket.socket) -> None:
    """Serve until SIGINT, SIGTERM or the end of the terminal, which always end it.

    Raises:
        KeyboardInterrupt: on SIGINT.
        SystemExit: with 143 on the others.
    """
    config = uvicorn.Config(
        app,
        http=_Connection,
        access_log=False,  # addresses may hold the token
        log_level="error",
        server_header=False,
        proxy_headers=False,
        ws="none",
        timeout_graceful_shutdown=2,
    )
    server = _Server(config)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # uvicorn passes it on at the end
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: server.handle_exit(signal.SIGTERM, None))
    server.run(sockets=[taken])


class _Server(uvicorn.Server):
    """A server that ends when it is told to, whatever a thread of it hangs in."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end; what is left after a while is cut off."""
        last = threading.Timer(LAST_SECONDS, os._exit, (128 + sig,))
        last.daemon = True
        last.start()
        super().handle_exit(sig, frame)


class _Connection(H11Protocol):
    """A connection that ends when nothing comes of it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait, in the place of another one if there are too many."""
        if len(self.connections) >= CONNECTIONS:
            held = [each for each in self.connections if isinstance(each, _Connection)]
            min(held, key=lambda each: (each.answering, each.since)).end()
        super().connection_made(transport)  # type: ignore[arg-type]
        self.since = self.loop.time()
        self._served: Any = None
        self._look()

    @property
    def answering(self) -> bool:
        """Whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def end(self) -> None:
        """End at once, without a word."""
        self.connections.discard(self)
        self.transport.abort()

    def on_response_complete(self) -> None:
        """Begin to wait for the next request."""
        self.since = self.loop.time()
        super().on_response_complete()

    def _look(self) -> None:
        if self.transport.is_closing():
            return
        now = self.loop.time()
        if self.cycle is not self._served:  # another request has come since
            self._served, self.since = self.cycle, now
        if now - self.since > (ANSWER_SECONDS if self.answering else REQUEST_SECONDS):
            self.end()
        else:
            self.loop.call_later(_LOOK_SECONDS, self._look)


def _read(path: Path) -> str:
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CatalogError(
            f"the token file {str(path)!r} cannot be read", remedy=_MAKE_ONE
        ) from error
    if not token:
        raise CatalogError(f"the token file {str(path)!r} is empty", remedy=_MAKE_ONE)
    return token
