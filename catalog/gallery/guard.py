"""What stands before every page: who may ask, how, under which name, and what a browser may do.

The pages hold medical images, and text from other people's rows. So: only GET and HEAD; only host
names that are this machine's (a page elsewhere that has its own name point here, "DNS rebinding",
is refused); a token where other machines can reach the port; and headers under which text that
slipped through as markup could still run nothing.

Where a page takes what somebody says (`factory review`), POST is let through to it alone: with the
token, from a page of this very server by what the browser says of it, and of a few kilobytes. The
page itself asks for `form_mark`, which no other site can read.
"""

import asyncio
import hashlib
import hmac
import ipaddress
import socket
from collections.abc import (
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Mapping,
    MutableMapping,
    Sequence,
)
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE = "factory_gallery"
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self';"
        " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",  # under no-referrer a form's own origin would be "null"
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "private, no-cache",
}
"""On every response; a response may only choose another cache-control."""


COSTLY = ("where", "version", "release")
"""Parameters that make the server work, on every page; `compare` has two of each."""
AT_ONCE = 2
WAITING = 16
WAIT_SECONDS = 5.0
"""Costly requests: how many work at a time, how many may wait, and for how long."""
MOST_BYTES = 8192
"""Of what is posted."""
_BUSY = (503, "This gallery is busy: ask again in a moment.", {"retry-after": "2"})


class Guard:
    """Lets requests through to `app`, or answers them itself with one line.

    Args:
        app: the pages.
        host: the address that the server is bound to.
        token: asked of everyone, unless None.
        posts: paths that take a POST; they want a token.

    Raises:
        ValueError: `posts` without a token.
    """

    def __init__(
        self, app: App, *, host: str, token: str | None, posts: Collection[str] = ()
    ) -> None:
        if posts and token is None:
            raise ValueError("what takes a POST asks for a token")
        self.app = app
        self.host = host
        self.token = token
        self.posts = frozenset(posts)
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0
        self.names = {"localhost", host.lower()}
        if not is_loopback(host):
            self.names |= {socket.gethostname().lower(), socket.getfqdn().lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, as ASGI has it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        headers = {key.decode("latin1"): value.decode("latin1") for key, value in scope["headers"]}
        guarded = _with_headers(send)
        refusal = self._refusal(scope, headers)
        if refusal is None and _is_costly(scope):
            refusal = await self._in_turn(scope, receive, guarded)
        elif refusal is None:
            await self.app(scope, receive, guarded)
        if refusal is not None:
            await _answer(guarded, *refusal, head=scope["method"] == "HEAD")

    async def _in_turn(
        self, scope: Scope, receive: Receive, send: Send
    ) -> tuple[int, str, dict[str, str]] | None:
        """Answer a costly request when its turn comes, or return the refusal of one too many.

        Those that wait hold no thread, so that the other pages are answered meanwhile.
        """
        if self._waiting >= WAITING:
            return _BUSY
        self._waiting += 1
        try:
            await asyncio.wait_for(self._turns.acquire(), WAIT_SECONDS)
        except TimeoutError:
            return _BUSY
        finally:
            self._waiting -= 1
        try:
            await self.app(scope, receive, send)
        finally:
            self._turns.release()
        return None

    def _refusal(
        self, scope: Scope, headers: Mapping[str, str]
    ) -> tuple[int, str, dict[str, str]] | None:
        """Return status, text and headers of the answer that stops here; None lets it through."""
        posted = scope["method"] == "POST" and scope["path"] in self.posts
        if not posted and scope["method"] not in ("GET", "HEAD"):
            return 405, "This gallery only shows: use GET.", {"allow": "GET, HEAD"}
        host = headers.get("host", "")
        if not self._is_ours(host):
            where = "127.0.0.1" if is_loopback(self.host) else self.host
            return 421, f"This gallery is not called {host[:200]!r}: open it as {where}.", {}
        pairs = _parameters(scope)
        if _costly(pairs) and headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            return 403, "Another site asked this gallery to work: type it here instead.", {}
        return self._token_refusal(scope, headers, pairs) or (
            _post_refusal(headers) if posted else None
        )

    def _token_refusal(
        self, scope: Scope, headers: Mapping[str, str], pairs: Sequence[tuple[str, str]]
    ) -> tuple[int, str, dict[str, str]] | None:
        if self.token is None:
            return None
        given = next((value for name, value in pairs if name == "token"), None)
        if given is not None and equal(given, self.token):
            rest = urlencode([pair for pair in pairs if pair[0] != "token"])
            place = quote("/" + scope["path"].lstrip("/\\")) + (f"?{rest}" if rest else "")
            cookie = f"{COOKIE}={_mark(self.token)}; HttpOnly; SameSite=Strict; Path=/"
            return 303, "Come in.", {"location": place, "set-cookie": cookie}
        if equal(_cookie(headers.get("cookie", "")), _mark(self.token)):
            return None
        return 401, "This gallery asks for its token: open it as /?token=TOKEN.", {}

    def _is_ours(self, host: str) -> bool:
        """Whether a Host header names this server; rebinding needs a name, never a bare address."""
        name = _without_port(host)
        address = _address(name)
        if address is None:
            return name in self.names
        return address.is_loopback or not is_loopback(self.host)


def _post_refusal(headers: Mapping[str, str]) -> tuple[int, str, dict[str, str]] | None:
    """Refuse what is posted from elsewhere, is large, or is no form.

    Every browser says where a POST comes from, as Origin, Sec-Fetch-Site or both.
    """
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    host = headers.get("host", "").lower()  # a proxy may speak TLS in front
    own = origin is None or origin.lower() in (f"http://{host}", f"https://{host}")
    if (site is None and origin is None) or site not in (None, "same-origin") or not own:
        return 403, "This did not come from a page of this gallery: say it there.", {}
    length = headers.get("content-length", "")
    if not (length.isascii() and length.isdecimal()):
        return 411, "How long is it? Send content-length.", {}
    if len(length) > 9 or int(length) > MOST_BYTES:
        return 413, f"At most {MOST_BYTES} bytes are taken.", {}
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        return 415, "Only a form is taken.", {}
    return None


def _parameters(scope: Scope) -> list[tuple[str, str]]:
    """Return the parameters as the pages will see them: decoded."""
    return parse_qsl(scope["query_string"].decode("latin1"), keep_blank_values=True)


def _costly(pairs: Iterable[tuple[str, str]]) -> bool:
    return any(name.removeprefix("a.").removeprefix("b.") in COSTLY for name, _ in pairs)


def _is_costly(scope: Scope) -> bool:
    slow = scope["path"].startswith(("/real/", "/compare", "/map"))
    return slow or _costly(_parameters(scope))


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server bound to `host`."""
    address = _address(host)
    return host.lower() == "localhost" if address is None else address.is_loopback


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.rpartition(":")[0].lower() if ":" in host else host.lower()


def _cookie(header: str) -> str:
    try:
        morsel = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return ""
    return "" if morsel is None else morsel.value


def _mark(token: str) -> str:
    """Return what the cookie holds: not the token, so that a stolen cookie does not tell it."""
    return hmac.new(token.encode(), b"factory gallery cookie", hashlib.sha256).hexdigest()


def form_mark(token: str) -> str:
    """Return what the forms of a server's own pages hold, which pages elsewhere cannot read."""
    return hmac.new(token.encode(), b"factory gallery form", hashlib.sha256).hexdigest()


def equal(given: str, wanted: str) -> bool:
    """Whether two secrets are the same, in a time that does not tell where they differ."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), wanted.encode())


def _with_headers(send: Send) -> Send:
    async def guarded(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            own = {key.lower(): value for key, value in message.get("headers", [])}
            fixed = {key.encode(): value.encode() for key, value in HEADERS.items()}
            kept = {b"cache-control": own[b"cache-control"]} if b"cache-control" in own else {}
            message["headers"] = [
                *((key, value) for key, value in message.get("headers", []) if key not in fixed),
                *(fixed | kept).items(),
            ]
        await send(message)

    return guarded


async def _answer(
    send: Send, status: int, text: str, headers: Mapping[str, str], *, head: bool
) -> None:
    body = f"{text}\n".encode()
    own = {"content-type": "text/plain; charset=utf-8", "content-length": str(len(body))}
    pairs = [(k.encode("latin1"), v.encode("latin1")) for k, v in (own | dict(headers)).items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": b"" if head else body})
