"""SQL of others: time and memory hold within one expression too, and the process goes on."""

import os
import subprocess
import sys
import threading
import time
from contextlib import closing

import psutil
import pytest

from catalog import SampleSink, write_batch
from catalog.bounded import BoundedSql
from factory.errors import CatalogError
from tests.fakes.hostile import BOMB, HUGE
from tests.fakes.rows import batch_rows

ENDLESS = "SELECT count(*) FROM range(100000000000)"
COUNT = "SELECT count(*) AS n FROM samples"


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    place = tmp_path_factory.mktemp("bounded") / "catalog"
    for index in range(2):
        file = write_batch(place, run_id="run-1", batch_index=index, rows=batch_rows(index))
        SampleSink(place, "run-1").commit([file])
    return str(place)


@pytest.fixture
def bounded(uri):
    with closing(BoundedSql(uri, memory_bytes=1 << 30)) as asks:
        yield asks


def test_answers_and_errors_are_those_of_sql(bounded):
    assert bounded.ask(COUNT, seconds=60).to_pylist() == [{"n": 8}]
    assert bounded.ask(COUNT, seconds=60, version=1).to_pylist() == [{"n": 4}]
    assert len(bounded.ask("FROM samples", seconds=60, limit=3)) == 3
    for text, words in (
        ("SELEC 1", "Correct the SQL"),
        ("COPY samples TO 'x'", "COPY is not allowed"),
        ("SELECT nothing FROM samples", "DESCRIBE samples"),
    ):
        with pytest.raises(CatalogError, match=words):
            bounded.ask(text, seconds=60)
    with pytest.raises(CatalogError, match="the newest is 2"):
        bounded.ask(COUNT, seconds=60, version=HUGE)


@pytest.mark.parametrize(
    "text",
    [f"SELECT {BOMB}", "SELECT list_sum(range(1000000000))", "SELECT md5(repeat('x', 1500000000))",
     "SELECT string_agg(repeat('x', 1000000), '') FROM range(100000)"],
)  # fmt: skip
def test_one_expression_that_takes_gigabytes_is_refused_and_the_next_is_answered(bounded, text):
    with pytest.raises(CatalogError, match="memory"):
        bounded.ask(text, seconds=60)
    assert bounded.ask(COUNT, seconds=60).to_pylist() == [{"n": 8}]


def test_what_takes_too_long_ends_with_its_process(bounded):
    """The interrupt is for pieces of work; whatever does not heed it is ended from outside."""
    assert bounded.ask(COUNT, seconds=60).num_rows == 1
    with pytest.raises(CatalogError, match=r"longer than 0\.5 s"):
        bounded.ask(ENDLESS, seconds=0.5)
    assert bounded.ask(COUNT, seconds=60).to_pylist() == [{"n": 8}]


def test_a_process_that_dies_is_told_and_replaced(bounded):
    assert bounded.ask(COUNT, seconds=60).num_rows == 1
    victim = bounded._process.pid

    def kill():
        time.sleep(0.5)
        os.kill(victim, 9)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(CatalogError, match="MiB of memory"):
        bounded.ask(ENDLESS, seconds=60)
    killer.join()
    assert bounded.ask(COUNT, seconds=60).to_pylist() == [{"n": 8}]


def test_nothing_is_left_of_it(uri):
    asks = BoundedSql(uri)
    asks.ask(COUNT, seconds=60)
    process = psutil.Process(asks._process.pid)
    asks.close()
    assert not process.is_running()
    with pytest.raises(CatalogError, match="closing"):
        asks.ask(COUNT, seconds=60)


@pytest.mark.slow
def test_it_ends_with_the_one_that_asks_even_when_that_one_is_killed(uri):
    code = f"""
import sys
from catalog.bounded import BoundedSql
asks = BoundedSql({uri!r})
asks.ask("SELECT 1", seconds=60)
print(asks._process.pid, flush=True)
asks.ask({ENDLESS!r}, seconds=600)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as asker:
        child = psutil.Process(int(asker.stdout.readline()))
        asker.kill()
    gone, alive = psutil.wait_procs([child], timeout=900)
    assert (len(gone), alive) == (1, [])
