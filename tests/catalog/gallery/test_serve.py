"""The server itself: it waits for nobody for ever, and ends when it is told to."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest

from catalog.gallery import serve
from tests.fakes.hostile import BOMB, HUGE

START = """
import signal, sys, threading
from catalog.gallery import app, serve
from catalog.gallery.index import Index
taken = serve.listening("127.0.0.1", 0)
index = Index(sys.argv[1])
serve.REQUEST_SECONDS, serve.ANSWER_SECONDS = 1.0, 2.0
serve.CONNECTIONS, serve.LAST_SECONDS = 20, 2.0
hold = threading.Event()
app.Gallery.runs = lambda *_: hold.wait()  # a page that hangs in a library
application = app.application(index)
print(taken.getsockname()[1], flush=True)
try:
    serve.serve(application, taken)
finally:
    index.close()
"""


def heeding():
    """Let a server heed signals that a test run in the background or under nohup ignores."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@contextmanager
def served(uri):
    """A server of its own; '/runs' hangs for ever."""
    with subprocess.Popen([sys.executable, "-c", START, str(uri)], stdout=subprocess.PIPE,
                          text=True, preexec_fn=heeding) as server:  # fmt: skip
        try:
            yield server, int(server.stdout.readline())
        finally:
            server.kill()


def get(port, address="/", **headers):
    """Ask for a page; again where a busy machine took longer than the second that we give it."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{address}", headers=headers)
    for _ in range(30):
        try:
            with urllib.request.urlopen(request, timeout=900) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code
        except (ConnectionError, http.client.RemoteDisconnected):
            time.sleep(1)
    return None


def begun(port, text=b"GET / HTTP/1.1\r\nHost: 127"):
    """A connection on which half a request was sent."""
    connection = socket.create_connection(("127.0.0.1", port))
    connection.sendall(text)
    connection.settimeout(60)
    return connection


def closed(connection):
    """Whether the server ended the connection, sooner or later."""
    try:
        while connection.recv(65536):
            pass
    except ConnectionError:
        pass
    return True


def test_half_requests_and_silent_readers_are_not_waited_for(uri):
    with served(uri) as (_, port):
        assert get(port) == 200
        halves = [begun(port), begun(port, b""), begun(port, b"GET / HTTP/1.1\r\n")]
        body = b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nhalf"
        halves += [begun(port, body), begun(port, b"GET /runs HTTP/1.1\r\nHost: localhost\r\n\r\n")]
        assert all(map(closed, halves))
        assert get(port) == 200


def test_a_crowd_of_half_requests_makes_room_for_a_whole_one(uri):
    with served(uri) as (_, port):
        assert get(port) == 200
        crowd = [begun(port) for _ in range(60)]
        assert get(port) == 200
        assert all(map(closed, crowd))


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGTERM, 143),
        (signal.SIGINT, 130),
        pytest.param(signal.SIGHUP, 143, marks=pytest.mark.slow),
    ],
)
def test_a_signal_always_ends_it(uri, number, code):
    """Also while a page hangs, one is typed SQL, and visitors have sent half a request."""
    with served(uri) as (server, port):
        assert get(port) == 200
        crowd = [begun(port), begun(port, b"GET /runs HTTP/1.1\r\nHost: localhost\r\n\r\n")]
        query = urllib.request.quote("(SELECT count(*) FROM range(100000000000)) > 0")
        asking = threading.Thread(target=lambda: begun(port, (
            f"GET /images?where={query} HTTP/1.1\r\n"
            "Host: localhost\r\n\r\n").encode()))  # fmt: skip
        asking.start()
        time.sleep(1)
        os.kill(server.pid, number)
        assert server.wait(900) in (code, -number)
        asking.join()
        assert len(crowd) == 2


def test_it_keeps_its_bounds_without_a_test():
    assert serve.REQUEST_SECONDS <= 10
    assert serve.LAST_SECONDS <= 5


def test_a_version_or_an_expression_that_freezes_is_refused(client, monkeypatch):
    monkeypatch.setattr("catalog.gallery.listing.CONDITION_SECONDS", 10.0)
    for version in (HUGE - 1, 10**14, 99999999):
        answer = client.get(f"/images?version={version}")
        assert (answer.status_code, "the newest is" in answer.text) == (400, True)
    assert client.get("/images", params={"where": BOMB}).status_code == 400
    assert client.get("/").status_code == 200


ENCODED = ["where", "%77here", "wh%65re", "a.where", "a.whe%72e", "%61%2Ewhere", "version",
           "%76ersion", "b.%76ersion", "release", "a.rele%61se"]  # fmt: skip


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
@pytest.mark.parametrize("name", ENCODED)
def test_another_site_asks_for_no_work_however_it_writes_the_name(client, name, site):
    for address in (f"/images?{name}=1", f"/images?class=x&{name}=1", f"/compare?{name}"):
        assert client.get(address, headers={"sec-fetch-site": site}).status_code == 403
    for own in ("same-origin", "none"):
        assert client.get("/images?where=1=1", headers={"sec-fetch-site": own}).status_code == 200
