"""Exactly once on an object store: the same seeded kills, and replies to commits that are lost.

A lost reply is the worst of both: the commit is made, and its writer is told that it failed.
"""

import random
from pathlib import Path

import pytest

from cluster.local import Head
from factory.models.generator import Generator
from tests.fakes.s3 import s3_server
from tests.fault.driver import HERE, finished, written_job
from tests.fault.test_kills import (
    KINDS,
    Case,
    Place,
    exactly_once,
    kill_and_resume,
)

pytestmark = [pytest.mark.ray, pytest.mark.fault, pytest.mark.slow]
URI = "s3://bucket/cells"
EVERY = range(1, 1000)
DRIVERS = [Case(k, n) for n in range(10) for k in ("driver", "before_commit", "after_commit")]


@pytest.mark.parametrize("case", DRIVERS, ids=str)
def test_killed_runs_whose_replies_get_lost_resume_to_exactly_once(
    case: Case, tiny: Generator, tmp_path: Path
) -> None:
    """Of the first twelve commits (tables, models, runs, images) three lose their replies."""
    check(case, Head(dashboard="", address=HERE, pid=0, token={}), tiny, tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_so_do_runs_on_ray(kind: str, head: Head, tiny: Generator, tmp_path: Path) -> None:
    check(Case(kind, 0), head, tiny, tmp_path)


def check(case: Case, head: Head, tiny: Generator, tmp_path: Path) -> None:
    lose = random.Random(f"replies {case}").sample(range(1, 13), 3)
    source = written_job(tiny, tmp_path, seed=case.seed_of_run, actors=2)
    with s3_server(lose) as options:
        kill_and_resume(case, Place(URI, source, head, options), tiny)


def test_a_run_none_of_whose_commits_is_ever_confirmed_completes(
    head: Head, tiny: Generator, tmp_path: Path
) -> None:
    source = written_job(tiny, tmp_path, seed=1, actors=2)
    with s3_server(EVERY) as options:
        here = Place(URI, source, head, options)
        finished(here.start())
        exactly_once(here, tiny)


def test_two_drivers_into_one_bucket_both_complete(
    head: Head, tiny: Generator, tmp_path: Path
) -> None:
    source = written_job(tiny, tmp_path, seed=2, actors=1)
    with s3_server([4, 7, 9]) as options:
        here = Place(URI, source, head, options)
        drivers = [here.start(), here.start()]
        for driver in drivers:
            finished(driver)
        exactly_once(here, tiny)
