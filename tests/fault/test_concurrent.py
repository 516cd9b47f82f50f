"""Several drivers at once on one catalog."""

from pathlib import Path

import pytest

from catalog.query import sql
from catalog.table import Catalog
from cluster.local import Head
from factory.models.generator import Generator
from tests.fault.driver import finished, run_driver, written_job

pytestmark = [pytest.mark.ray, pytest.mark.fault]


@pytest.mark.parametrize(
    ("seeds", "images"), [((1, 2), 90), pytest.param((3, 3), 45, marks=pytest.mark.slow)]
)
def test_two_drivers_into_one_table_both_complete(
    seeds: tuple[int, int],
    images: int,
    head: Head,
    tiny: Generator,
    tmp_path: Path,
) -> None:
    """Two runs, or twice the same run: every image once, and both drivers succeed."""
    uri = str(tmp_path / "catalog")
    drivers = []
    for seed in seeds:
        source = written_job(tiny, tmp_path, seed=seed, actors=1)
        drivers.append(run_driver(uri, source, head))
    for driver in drivers:
        finished(driver)
    counts = sql(Catalog(uri), "SELECT count(*) AS n, count(DISTINCT image_id) AS ids FROM samples")
    assert counts.to_pylist() == [{"n": images, "ids": images}]
    runs = sql(Catalog(uri), "SELECT status FROM runs").to_pylist()
    assert runs == [{"status": "complete"}] * len(set(seeds))
