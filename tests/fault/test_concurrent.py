"""Several drivers at once on one catalog."""

from pathlib import Path

import pytest

from catalog.query import sql
from catalog.table import Catalog
from cluster.local import Head
from factory.models.generator import Generator
from tests.fault.driver import run_driver
from tests.fault.test_kills import CONFIG

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
    for number, seed in enumerate(seeds):
        source = tmp_path / f"job-{number}.yaml"
        source.write_text(CONFIG.format(model=tiny.folder, seed=seed, actors=1))
        drivers.append(run_driver(uri, source, head))
    for driver in drivers:
        output, _ = driver.communicate(timeout=240)
        assert driver.returncode == 0, output
    counts = sql(Catalog(uri), "SELECT count(*) AS n, count(DISTINCT image_id) AS ids FROM samples")
    assert counts.to_pylist() == [{"n": images, "ids": images}]
    runs = sql(Catalog(uri), "SELECT status FROM runs").to_pylist()
    assert runs == [{"status": "complete"}] * len(set(seeds))
