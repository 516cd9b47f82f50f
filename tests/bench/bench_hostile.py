"""A gallery under attack: hostile requests from many sides while somebody looks at a page a second.

    OMP_NUM_THREADS=1 python -m tests.bench.bench_hostile --requests 1000

A second server of the same catalog is left alone and asked at the same moments: what it takes is
the machine's share. Prints how long the page took of both, and the peak memory of the attacked one
and its SQL processes together. `attack` asserts facts and no clock;
tests/catalog/gallery/test_attack.py runs a shorter one.
"""

import argparse
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import psutil

from tests.bench.bench_gallery import fill
from tests.bench.timing import told
from tests.fakes.hostile import BOMB, HUGE

SIDES = 16
CLEAN = (200, 302, 400, 403, 404, 405, 421, 503)
"""What an attacker is answered; 503: others have their turn."""
ENDLESS = "(SELECT count(*) FROM range(100000000000)) > 0"
CONDITIONS = (
    BOMB,
    ENDLESS,
    "(SELECT count(*) FROM samples a, samples b, samples c, samples d, samples e) > 0",
    "(SELECT list_sum(range(1000000000))) > 0",
    "md5(repeat('x', 1500000000)) = ''",
    "(WITH RECURSIVE t(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM t) SELECT max(x) FROM t) > 0",
    "1 = 1) UNION ALL SELECT repeat('x', 100000000), '' FROM samples --",
    "regexp_matches(repeat('a', 1000000), '(a*)*b')",
    "1 = 1",
)
LINES = (
    "GET /images?{q}\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "GET / HTTP/1.1\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    "GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "GET /images?class=%ff%fe%00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "GET /images?%77here=1 HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: cross-site\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\nx",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "GET /" + "a" * 60_000 + " HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: localhost\r\nX: " + "y" * 200_000,
)
HALVES = ("", "GET", "GET / HTTP/1.1\r\nHost: local", "GET / HTTP/1.1\r\nHost: localhost\r\n")


@dataclass(slots=True)
class Seen:
    """What was seen of a server during an attack."""

    pages: list[float] = field(default_factory=list)
    """Seconds of the normal page, one a second."""
    others: list[float] = field(default_factory=list)
    """The same of a server that nobody attacks."""
    answers: Counter[object] = field(default_factory=Counter)
    peak_bytes: int = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--images", type=int, default=2000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        uri = Path(folder) / "catalog"
        fill(uri, options.images, 64)
        seen = attack(uri, options.requests)
    load = ", ".join(f"{n:.1f}" for n in os.getloadavg())
    print(f"cores {os.cpu_count()}, load {load}, {options.requests} requests")
    for name, values in (("attacked", seen.pages), ("left alone", seen.others)):
        slow = sum(value > 1 for value in values)
        print(told(f"normal page, one a second, {name}", values, "s") + f", {slow} over 1 s")
    print(f"answers {dict(seen.answers)}")
    print(f"peak memory of all its processes {seen.peak_bytes / 2**20:.0f} MiB")


def attack(uri: Path, requests: int, *, rest_seconds: float = 1.0) -> Seen:
    """Serve `uri`, attack it, and end it.

    Raises:
        AssertionError: a normal page was not answered, an attacker got something odd, the server
            died, or it did not end on SIGTERM, or something of it is left.
    """
    seen = Seen()
    with served(uri) as (server, port), served(uri) as (_, other):
        normal(port), normal(other)
        done = threading.Event()
        with ThreadPoolExecutor(SIDES + 2) as sides:
            looks = sides.submit(look, port, other, seen, done, rest_seconds)
            watch = sides.submit(weigh, server.pid, seen, done)
            held: list[socket.socket] = []
            makers = [kind(port, n, held) for n in range(requests) for kind in (KINDS[n % 4],)]
            for answer in sides.map(lambda make: make(), makers):
                seen.answers[answer] += 1
            done.set()
            looks.result()
            watch.result()
        odd = set(seen.answers) - {*CLEAN, "half", "closed"}
        assert not odd, odd
        assert server.poll() is None
        normal(port)
        family = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
        server.send_signal(signal.SIGTERM)
        server.wait(60)
        alive = psutil.wait_procs(family[1:], timeout=60)[1]
        assert not alive, alive
        for connection in held:
            connection.close()
    return seen


def version(port: int, number: int, _: list[socket.socket]) -> Callable[[], object]:
    """Versions that there are, that there are not, and that are none."""
    wanted = (HUGE - 1, number % 7, 10**14 + number, -number, f"{number}e9", 99999999)[number % 6]
    return lambda: asked(port, f"/images?version={wanted}")


def bomb(port: int, number: int, _: list[socket.socket]) -> Callable[[], object]:
    """Conditions that take for ever, or gigabytes."""
    where = quote(CONDITIONS[number // 4 % len(CONDITIONS)])
    return lambda: asked(port, f"/images?where={where}%20AND%20{number}={number}")


def line(port: int, number: int, _: list[socket.socket]) -> Callable[[], object]:
    """Requests that are none, or odd ones."""
    text = LINES[number // 4 % len(LINES)].replace("{q}", str(number))

    def send() -> object:
        with suppress(OSError), connected(port) as connection:
            connection.sendall(text.encode("latin1"))
            head = re.match(rb"HTTP/1.1 (\d+)", connection.recv(64))
            return int(head[1]) if head else "closed"
        return "closed"

    return send


def half(port: int, number: int, held: list[socket.socket]) -> Callable[[], object]:
    """The beginning of a request, on a connection that is left open."""

    def send() -> object:
        with suppress(OSError):
            connection = socket.create_connection(("127.0.0.1", port), timeout=120)
            held.append(connection)
            connection.sendall(HALVES[number // 4 % len(HALVES)].encode())
        return "half"

    return send


KINDS = (version, bomb, line, half)


def asked(port: int, address: str) -> object:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request("GET", address)
        answer = connection.getresponse()
        answer.read()
    except (OSError, http.client.HTTPException):  # it made room for others
        return "closed"
    finally:
        connection.close()
    return answer.status


@contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=120) as connection:
        yield connection


def normal(port: int) -> float:
    """Return how long a page of images took; it must be whole."""
    begun = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("GET", "/images")
    answer = connection.getresponse()
    text = answer.read()
    took = time.perf_counter() - begun
    connection.close()
    assert answer.status == 200
    assert text.count(b'<a class="tile ') == 200
    assert text.rstrip().endswith(b"</html>")
    return took


def look(port: int, other: int, seen: Seen, done: threading.Event, rest_seconds: float) -> None:
    while not done.wait(rest_seconds):
        seen.pages.append(normal(port))
        seen.others.append(normal(other))


def weigh(pid: int, seen: Seen, done: threading.Event) -> None:
    """Note the memory of a process and of all that it started."""
    server = psutil.Process(pid)
    while not done.wait(0.2):
        with suppress(psutil.NoSuchProcess):
            family = [server, *server.children(recursive=True)]
            held = sum(process.memory_info().rss for process in family)
            seen.peak_bytes = max(seen.peak_bytes, held)


@contextmanager
def served(uri: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The command itself, at a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["gallery", "--catalog", str(uri), "--port", str(port)]
    command = [sys.executable, "-c", "from factory.cli import main; main()", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            assert "images at" in server.stdout.readline()
            yield server, port
        finally:
            server.kill()


if __name__ == "__main__":
    main()
