"""SQL of others in a process of its own: what takes too long, or too much memory, ends with it.

DuckDB stops a query between two pieces of work, and one expression can be a single piece that takes
minutes and gigabytes: `len(repeat('x', 2000000000))`. So time is kept from outside, by ending the
process, and memory by the system, which refuses more. The process is nice to its neighbours, ends
with the one that started it, and is started again for the next query.
"""

import contextlib
import json
import multiprocessing as mp
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

import pyarrow as pa

from catalog.place import Place, Where, place_of
from factory.errors import CatalogError

MEMORY_BYTES = 2 << 30
"""What a query may hold, with the libraries and the result."""
GRACE_SECONDS = 0.5
"""An interrupted query may take so long to stop before its process is ended."""
START_SECONDS = 60.0
"""Starting takes about a second; on a crowded machine, more."""
MOST_BYTES = 256 << 20
"""Of an answer: what asks has to hold it too."""
_KEPT = 4
"""Views of which the lists of files are kept."""


class BoundedSql:
    """Answers one query at a time within limits; safe to use from many threads.

    Args:
        place: of the catalog.
        memory_bytes: what the process may hold.
        hidden: columns of `samples` that no statement sees.
    """

    def __init__(
        self,
        place: Where,
        *,
        memory_bytes: int = MEMORY_BYTES,
        hidden: Sequence[str] = (),
    ) -> None:
        self._start = (place_of(place), memory_bytes, tuple(hidden))
        self._process: mp.process.BaseProcess | None = None
        self._pipe: Connection | None = None
        self._turn = threading.Lock()
        self._closed = False

    def ask(
        self,
        text: str,
        *,
        seconds: float | None,
        limit: int | None = None,
        version: int | None = None,
        as_of: str | None = None,
        reviews: int | None = None,
    ) -> pa.Table:
        """Return the result of one reading statement, see `catalog.query.sql`.

        Args:
            text: the statement.
            seconds: it may take so long; None: any time.
            limit: at most so many rows.
            version, as_of, reviews: of the view, see `Catalog`.

        Raises:
            CatalogError: see `sql`; or it took longer, or more memory.
        """
        question = {"text": text, "limit": limit, "seconds": seconds}
        question |= {"version": version, "as_of": as_of, "reviews": reviews}
        with self._turn:
            pipe = self._running()
            try:
                pipe.send_bytes(json.dumps(question).encode())
                if not pipe.poll(None if seconds is None else seconds + GRACE_SECONDS):
                    raise _too_long(seconds)
                kind, answer = pipe.recv_bytes(), pipe.recv_bytes(MOST_BYTES)
            except (EOFError, OSError) as error:  # it was ended, or ended itself
                self._end()
                raise _too_much() from error
            except BaseException:
                self._end()
                raise
        if kind == b"table":
            with pa.ipc.open_stream(pa.py_buffer(answer)) as stream:
                return stream.read_all()
        what, remedy = json.loads(answer)
        raise CatalogError(what, remedy=remedy)

    def close(self) -> None:
        """End the process, and whatever it works at; afterwards nothing is answered."""
        self._closed = True
        self._end()

    def _running(self) -> Connection:
        if self._closed:
            raise CatalogError("the server is closing", remedy="Start it again")
        if self._process is None or not self._process.is_alive() or self._pipe is None:
            spawning = mp.get_context("spawn")  # a fork would copy locks that threads hold
            self._pipe, theirs = spawning.Pipe()
            self._process = spawning.Process(
                target=_serve, args=(theirs, os.getpid(), *self._start), daemon=True
            )
            self._process.start()
            theirs.close()
            if not self._pipe.poll(START_SECONDS):
                self._end()
                raise _too_long(START_SECONDS)
            self._pipe.recv_bytes()
        return self._pipe

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.join()


def _too_long(seconds: float | None) -> CatalogError:
    return CatalogError(
        f"the query took longer than {seconds:g} s",
        remedy="Ask for less, or give `factory catalog sql` more time (--timeout)",
    )


def _too_much() -> CatalogError:
    return CatalogError(
        f"the query took more than {MEMORY_BYTES >> 20} MiB of memory",
        remedy="Ask for less at a time: fewer columns, a LIMIT, shorter texts",
    )


def _serve(
    pipe: Connection, parent: int, place: Place, memory_bytes: int, hidden: Sequence[str]
) -> None:
    """Answer questions until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all: the other one decides
    _bound(memory_bytes)
    threading.Thread(target=_outlive_nobody, args=(parent,), daemon=True).start()
    import duckdb  # noqa: F401 -- before the first question's time runs

    from catalog.table import Catalog

    views: dict[str, Catalog] = {}
    pipe.send_bytes(b"ready")
    with contextlib.suppress(EOFError, OSError):
        while True:
            question = json.loads(pipe.recv_bytes())
            try:
                kind, answer = b"table", _answer(place, views, question, hidden)
            except CatalogError as error:
                kind, answer = b"error", json.dumps([error.what, error.remedy]).encode()
            except Exception as error:  # MemoryError above all; the process goes on
                what = f"the query failed ({type(error).__name__}: {error})"[:500]
                kind, answer = b"error", json.dumps([what, "Ask for less at a time"]).encode()
            pipe.send_bytes(kind)
            pipe.send_bytes(answer)


def _answer(
    place: Place, views: dict[str, Any], question: dict[str, Any], hidden: Sequence[str]
) -> bytes:
    from catalog.query import sql
    from catalog.reviews import names_reviews
    from catalog.table import Catalog

    asked = {name: question[name] for name in ("version", "as_of", "reviews")}
    key = json.dumps(asked)
    view = views.pop(key, None)
    named = question["text"].lower()  # features and verdicts come later than images
    if view is None or asked["version"] is None or "features" in named or names_reviews(named):
        view = Catalog(place, **asked)
    views[key] = view
    for old in list(views)[:-_KEPT]:
        del views[old]
    seconds = question["seconds"]
    table = sql(view, question["text"], question["limit"], timeout_seconds=seconds, hidden=hidden)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return bytes(sink.getvalue())


def _bound(memory_bytes: int) -> None:
    """Take less of the processor than others, and no more memory than allowed."""
    if sys.platform == "win32":
        return
    import resource

    os.nice(10)
    limit = resource.RLIMIT_DATA if sys.platform == "linux" else resource.RLIMIT_AS
    with contextlib.suppress(ValueError, OSError):  # a lower limit stands already
        resource.setrlimit(limit, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _outlive_nobody(parent: int) -> None:
    """End with the process that asks, whatever is being computed."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
