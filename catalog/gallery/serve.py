"""Starts the gallery's server: loopback unless asked, a token wherever others can reach it."""

import os
import socket
from collections.abc import Mapping
from pathlib import Path

from catalog.gallery.guard import App, is_loopback
from factory.errors import CatalogError

TOKEN_VARIABLE = "FACTORY_GALLERY_TOKEN"  # noqa: S105 -- its name, not a token
SHORTEST_TOKEN = 16
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
    """Serve a socket's visitors until interrupted."""
    import uvicorn

    config = uvicorn.Config(
        app,
        access_log=False,  # addresses may hold the token
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        ws="none",
    )
    uvicorn.Server(config).run(sockets=[taken])


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
