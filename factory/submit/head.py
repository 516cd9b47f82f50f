"""The head that a job goes to: where it is, which Ray it runs, whether it asks for a token."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from factory.errors import ClusterError

OLDEST = (2, 60)
"""The oldest Ray (major, minor) that the jobs are tested with."""
KNOCK_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A head that answers, and what whoever talks to it must say."""

    address: str
    ray_version: str
    token_auth: bool
    token: str | None = field(default=None, repr=False)

    @property
    def headers(self) -> dict[str, str]:
        """HTTP headers of a request. A head that asks for no token is told none."""
        return {"Authorization": f"Bearer {self.token}"} if self.token_auth else {}

    @property
    def local(self) -> bool:
        """Whether the address is of this machine alone: a head here, or the end of a tunnel."""
        return is_loopback(urlsplit(self.address).hostname or "")

    @property
    def readable_on_the_way(self) -> bool:
        """Whether the token would travel unencrypted over a network."""
        return self.token_auth and not self.local and self.address.startswith("http://")


def find_head(
    address: str,
    *,
    environ: Mapping[str, str],
    home: Path,
    insecure: bool = False,
) -> Head:
    """Return the head at a dashboard's address, after all that can be checked from outside.

    Args:
        address: 'http://host:8265' or https.
        environ, home: where the token is looked for, as Ray does: RAY_AUTH_TOKEN,
            RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token.
        insecure: take a head that asks nobody for a token, though others may reach it.

    Raises:
        ClusterError: no address of a dashboard, nothing answers, Ray is too old, the token is
            missing or wrong, or the head is open to whoever reaches it.
    """
    place = checked_address(address)
    mode = _get(f"{place}/api/authentication_mode", {})
    asks = mode.get("authentication_mode") == "token"
    head = Head(address=place, ray_version="", token_auth=asks)
    if not (asks or head.local or insecure):
        raise ClusterError(
            f"the head at {place} asks nobody for a token: whoever reaches it can run code there",
            remedy="Start it with RAY_AUTH_MODE=token (docs/cluster.md), or tunnel to it, or say"
            " --insecure if nobody else can reach it",
        )
    token = find_token(environ, home) if asks else None
    if asks and token is None:
        raise ClusterError(
            f"the head at {place} asks for a token and there is none here",
            remedy="Set RAY_AUTH_TOKEN_PATH to the file that holds it (or RAY_AUTH_TOKEN)",
        )
    head = Head(address=place, ray_version="", token_auth=asks, token=token)
    version = str(_get(f"{place}/api/version", head.headers).get("ray_version", "unknown"))
    check_version(version, place)
    return Head(address=place, ray_version=version, token_auth=asks, token=token)


def checked_address(address: str) -> str:
    """Return the address without a trailing slash.

    Raises:
        ClusterError: not http(s)://host:port, or with a password in it.
    """
    parts = urlsplit(address)
    if parts.username or parts.password:
        raise ClusterError(
            f"the address of {parts.hostname} holds a user or password, which logs would repeat",
            remedy="Leave it out; a head's token is read from RAY_AUTH_TOKEN_PATH",
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
        raise ClusterError(
            f"{address!r} is no dashboard's address",
            remedy="Give http://HOST:8265: jobs go to the dashboard, not to the head's port 6379",
        )
    return f"{parts.scheme}://{parts.netloc}"


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches `host`. Names other than localhost are not asked."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def find_token(environ: Mapping[str, str], home: Path) -> str | None:
    """Return the token as Ray finds it: variable, file that a variable names, ~/.ray/auth_token.

    Raises:
        ClusterError: RAY_AUTH_TOKEN_PATH names a file that cannot be read, or an empty one.
    """
    if environ.get("RAY_AUTH_TOKEN"):
        return environ["RAY_AUTH_TOKEN"].strip()
    named = environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else home / ".ray" / "auth_token"
    try:
        token = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        if named is None:
            return None
        raise ClusterError(
            f"RAY_AUTH_TOKEN_PATH names {named!r}, which cannot be read ({error})",
            remedy="Correct the path",
        ) from error
    if named and not token:
        raise ClusterError(f"{named!r}, the token's file, is empty", remedy="Write the token to it")
    return token or None


def check_version(version: str, place: str) -> None:
    """Refuse a Ray that is older than the jobs need.

    Raises:
        ClusterError: older than `OLDEST`, or no version at all.
    """
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    if numbers < OLDEST:
        needed = ".".join(map(str, OLDEST))
        raise ClusterError(
            f"the head at {place} runs Ray {version}",
            remedy=f"Start the cluster with Ray {needed} or newer, as constraints.txt pins it",
        )


def _get(url: str, headers: Mapping[str, str]) -> dict[str, Any]:
    """Return the JSON object at `url`. Redirects are not followed: they would take the token along.

    Raises:
        ClusterError: nothing answers, or something that is no head.
    """
    import requests

    place = url.partition("/api/")[0]
    try:
        reply = requests.get(
            url, headers=dict(headers), timeout=KNOCK_SECONDS, allow_redirects=False
        )
    except requests.RequestException as error:
        raise ClusterError(
            f"no head answers at {place} ({type(error).__name__})",
            remedy="Start one with `ray start --head`, or open the tunnel to it (docs/cluster.md)",
        ) from error
    if reply.status_code in (401, 403):
        raise ClusterError(
            f"the head at {place} refuses the token",
            remedy="Take the token of this cluster: RAY_AUTH_TOKEN_PATH or RAY_AUTH_TOKEN",
        )
    try:
        found = reply.json() if reply.ok else None
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ClusterError(
            f"what answers at {place} is no head of Ray ({reply.status_code} at {url})",
            remedy=f"Give the dashboard of Ray {'.'.join(map(str, OLDEST))} or newer, by default"
            " port 8265",
        )
    return found
