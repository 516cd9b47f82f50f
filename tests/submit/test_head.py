"""A head is checked from outside before anything is sent to it."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from factory.errors import ClusterError
from factory.submit.head import checked_address, find_head, find_token, is_loopback

TOKEN = "token-of-this-cluster"
Seen = list[str | None]


@contextmanager
def served(*, mode: str, version: str = "2.60.0") -> Iterator[tuple[int, Seen]]:
    """A server that answers as a dashboard does; yields its port and what tokens it was told."""
    told: Seen = []

    class Dashboard(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told.append(self.headers.get("Authorization"))
            public = self.path == "/api/authentication_mode"
            right = public or mode != "token" or told[-1] == f"Bearer {TOKEN}"
            body = {"authentication_mode": mode} if public else {"ray_version": version}
            self.send_response(200 if right else 403)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Dashboard)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port, told
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def find(tmp_path: Path) -> Callable[..., object]:
    def found(address: str, *, insecure: bool = False, **environ: str) -> object:
        return find_head(address, environ=environ, home=tmp_path, insecure=insecure)

    return found


def test_an_open_head_that_others_reach_is_refused_unless_one_insists(
    find: Callable[..., object],
) -> None:
    with served(mode="disabled") as (port, _):
        remote = f"http://0.0.0.0:{port}"  # reaches the server, and is no loopback address
        with pytest.raises(ClusterError, match=r"asks nobody for a token.*--insecure"):
            find(remote)
        assert find(remote, insecure=True)
        assert find(f"http://127.0.0.1:{port}")


def test_a_token_is_told_only_to_a_head_that_asks_for_one(find: Callable[..., object]) -> None:
    with served(mode="disabled") as (port, told):
        find(f"http://127.0.0.1:{port}", RAY_AUTH_TOKEN=TOKEN)
    assert told == [None, None]
    with served(mode="token") as (port, told):
        head = find(f"http://127.0.0.1:{port}", RAY_AUTH_TOKEN=TOKEN)
    assert told == [None, f"Bearer {TOKEN}"]
    assert TOKEN not in repr(head)


def test_a_missing_and_a_wrong_token_are_told_apart(find: Callable[..., object]) -> None:
    with served(mode="token") as (port, _):
        with pytest.raises(ClusterError, match="there is none here"):
            find(f"http://127.0.0.1:{port}")
        with pytest.raises(ClusterError, match="refuses the token") as refused:
            find(f"http://127.0.0.1:{port}", RAY_AUTH_TOKEN="another")
    assert "another" not in str(refused.value)


def test_an_old_ray_is_refused(find: Callable[..., object]) -> None:
    with (
        served(mode="disabled", version="2.52.1") as (port, _),
        pytest.raises(ClusterError, match=r"runs Ray 2\.52\.1.*2\.60"),
    ):
        find(f"http://127.0.0.1:{port}")


def test_where_nothing_answers_the_remedy_says_how_to_start(find: Callable[..., object]) -> None:
    with pytest.raises(ClusterError, match="ray start --head"):
        find("http://127.0.0.1:1")


@pytest.mark.parametrize("address", ["head:6379", "ray://head:10001", "http://", "http://h/x"])
def test_what_is_no_dashboard_is_refused(address: str) -> None:
    with pytest.raises(ClusterError, match="no dashboard's address"):
        checked_address(address)


def test_a_password_in_the_address_is_not_repeated() -> None:
    with pytest.raises(ClusterError) as refused:
        checked_address("http://ada:" + "pa55@host:8265")
    assert "pa55" not in str(refused.value)


def test_loopback_is_told_from_the_rest() -> None:
    assert all(map(is_loopback, ["127.0.0.1", "127.8.8.8", "::1", "localhost"]))
    assert not any(map(is_loopback, ["10.0.0.7", "0.0.0.0", "localhost.example", "", "::"]))


def test_the_token_is_found_where_ray_finds_it(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("from-file\n")
    (tmp_path / ".ray").mkdir()
    assert find_token({}, tmp_path) is None
    (tmp_path / ".ray" / "auth_token").write_text("from-home\n")
    assert find_token({}, tmp_path) == "from-home"
    assert find_token({"RAY_AUTH_TOKEN_PATH": str(file)}, tmp_path) == "from-file"
    both = {"RAY_AUTH_TOKEN_PATH": str(file), "RAY_AUTH_TOKEN": "from-variable"}
    assert find_token(both, tmp_path) == "from-variable"
    with pytest.raises(ClusterError, match="cannot be read"):
        find_token({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "none")}, tmp_path)
