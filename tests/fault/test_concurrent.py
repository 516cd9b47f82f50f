"""Several drivers at once on one catalog: they meet in its commits, wherever they draw."""

from pathlib import Path

import pytest

from catalog.query import sql
from catalog.table import Catalog
from cluster.local import Head
from factory.models.generator import Generator
from tests.fault.driver import HERE, finished, run_driver, written_job

pytestmark = pytest.mark.fault

TWO_RUNS, TWICE_ONE = ((1, 2), 90), ((3, 3), 45)
"""Seeds of two drivers, and the images that they have drawn in the end."""
HERE_ALONE = Head(dashboard="", address=HERE, pid=0, token={})
"""No head: each driver draws in its own process."""


@pytest.mark.parametrize(("seeds", "images"), [TWO_RUNS, TWICE_ONE])
def test_two_drivers_into_one_table_both_complete(
    seeds: tuple[int, int], images: int, tiny: Generator, tmp_path: Path
) -> None:
    """Two runs, or twice the same run: every image once, and both drivers succeed."""
    both_complete(seeds, images, HERE_ALONE, tiny, tmp_path)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "images"), [TWO_RUNS, TWICE_ONE])
def test_two_drivers_on_one_head_both_complete(
    seeds: tuple[int, int], images: int, head: Head, tiny: Generator, tmp_path: Path
) -> None:
    both_complete(seeds, images, head, tiny, tmp_path)


def both_complete(
    seeds: tuple[int, int], images: int, head: Head, tiny: Generator, folder: Path
) -> None:
    uri = str(folder / "catalog")
    drivers = []
    for seed in seeds:
        source = written_job(tiny, folder, seed=seed, actors=1)
        drivers.append(run_driver(uri, source, head))
    for driver in drivers:
        finished(driver)
    counts = sql(Catalog(uri), "SELECT count(*) AS n, count(DISTINCT image_id) AS ids FROM samples")
    assert counts.to_pylist() == [{"n": images, "ids": images}]
    runs = sql(Catalog(uri), "SELECT status FROM runs").to_pylist()
    assert runs == [{"status": "complete"}] * len(set(seeds))
