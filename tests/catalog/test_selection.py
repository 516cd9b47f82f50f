"""Which rows a selection holds, in which order, and what it refuses."""

from datetime import timedelta

import pytest

from catalog import Catalog
from catalog.selection import Selection
from factory.errors import CatalogError
from tests.catalog.test_table import publish
from tests.fakes.rows import STARTED


def ids_of(selection, **how):
    return [
        i for part in selection.batches(["image_id"], **how) for i in part["image_id"].to_pylist()
    ]


def test_only_accepted_images_that_satisfy_the_condition_are_held(tmp_path):
    publish(tmp_path, range(3))
    publish(
        tmp_path,
        [5],
        "run-2",
        recipe="other",
        gate_status="rejected",
        gate_reasons=["blur: 0.1 < 0.2"],
    )
    every = Selection(catalog=Catalog(tmp_path))
    assert len(every) == 12
    assert sorted(ids_of(every)) == every.image_ids
    monocytes = Selection(
        catalog=Catalog(tmp_path), where="class_name = 'monocyte' OR gate_status = 'rejected'"
    )
    held = {r["class_name"] for p in monocytes.batches(["class_name"]) for r in p.to_pylist()}
    assert len(monocytes) == 6
    assert "monocyte" in held


def test_the_order_does_not_depend_on_the_size_of_batches(tmp_path):
    publish(tmp_path, [2, 0, 1])
    selection = Selection(catalog=Catalog(tmp_path))
    assert ids_of(selection, batch_size=1) == ids_of(selection, batch_size=100)
    assert all(len(part) <= 3 for part in selection.batches(batch_size=3))


def test_an_image_of_two_runs_counts_once_for_the_earlier(tmp_path):
    publish(tmp_path, [0], "later", created_at=STARTED + timedelta(days=1))
    publish(tmp_path, [0], "earlier")
    selection = Selection(catalog=Catalog(tmp_path))
    runs = {r["run_id"] for part in selection.batches(["run_id"]) for r in part.to_pylist()}
    assert (len(selection), len(ids_of(selection)), runs) == (4, 4, {"earlier"})


@pytest.mark.parametrize(
    ("where", "message"), [("class_name = 'none'", "no sample in"), ("nothing = 1", "nothing")]
)
def test_conditions_that_hold_nothing_or_mean_nothing_are_refused(tmp_path, where, message):
    publish(tmp_path, [0])
    with pytest.raises(CatalogError, match=message):
        len(Selection(catalog=Catalog(tmp_path), where=where))
