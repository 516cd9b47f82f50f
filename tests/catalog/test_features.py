"""Features of a catalog: once an image, whoever computes them; their map; who covers the rest."""

import dataclasses
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from catalog import Catalog, SampleSink, sql, write_batch
from catalog.embed import PIECE, _Store, embed
from catalog.features import diverse, fit_map, maps_of, vectors_of
from catalog.schema import FEATURES
from catalog.selection import Selection, accepted, most_diverse
from catalog.store import open_table
from catalog.tombstones import Mark, record_tombstones
from factory.errors import CatalogError
from factory.measure.rings import RingSpace
from tests.fakes.discs import disc_rows, publish_discs
from tests.fakes.rows import CLASSES, rows_table

MADE = {"now": datetime(2026, 11, 22, tzinfo=UTC), "code_version": "0.1.0"}


@dataclasses.dataclass
class Counting:
    """A space of two numbers, mean and spread, that counts what it is asked for."""

    name: str = "means"
    digest: str = "means-1"
    asked: int = 0

    def extract(self, images):
        self.asked += len(images)
        flat = images.reshape(len(images), -1).astype(np.float32)
        return np.stack([flat.mean(axis=1), flat.std(axis=1)], axis=1)


def stored(uri, digest="means-1"):
    """Return image_id -> vector; an image stored twice fails."""
    found = {}
    for ids, vectors in vectors_of(Catalog(uri), digest):
        for image_id, vector in zip(ids.to_pylist(), vectors, strict=True):
            assert image_id not in found
            found[image_id] = vector
    return found


def test_only_new_images_are_computed_and_rejected_ones_are_too(tmp_path):
    space = Counting()
    ids = publish_discs(tmp_path, 30)
    done = embed(tmp_path, space, **MADE)
    assert (done.added, done.held, done.broken, done.fitted) == (30, 0, (), True)
    assert set(stored(tmp_path)) == set(ids)
    assert embed(tmp_path, space, **MADE).added == 0
    more = publish_discs(tmp_path, 20, run_id="run-2", recipe="more", size_px=48)
    done = embed(tmp_path, space, **MADE)
    assert (done.added, done.held, done.fitted) == (20, 30, False)
    assert space.asked == 50
    assert set(stored(tmp_path)) == {*ids, *more}
    other = Counting(digest="means-2")
    assert embed(tmp_path, other, **MADE).added == 50  # another network, another vector
    assert len(maps_of(Catalog(tmp_path))) == 2


def test_two_at_a_time_store_an_image_once(tmp_path):
    ids = publish_discs(tmp_path, 20)
    vectors = np.ones((20, 2), np.float32)
    one, other = _Store(tmp_path, Counting()), _Store(tmp_path, Counting())
    assert one.held == other.held == set()
    one.add(ids[:12], vectors[:12])
    other.add(ids[5:], vectors[5:])
    other.add(ids[5:], vectors[5:])
    one.add(ids, vectors)
    assert one.held == set(ids)
    assert set(stored(tmp_path)) == set(ids)
    assert open_table(tmp_path, "features").version() == 2  # nothing new, no commit


def test_a_stopped_command_keeps_whole_pieces(tmp_path, monkeypatch):
    publish_discs(tmp_path, 60)
    monkeypatch.setattr("catalog.embed.PIECE", 20)
    monkeypatch.setattr("catalog.embed.AT_ONCE", 10)
    space = Counting()

    def stop(done, whole):
        if done == 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed(tmp_path, space, **MADE, tell=stop)
    assert len(stored(tmp_path)) == 40
    assert embed(tmp_path, space, **MADE).added == 20
    assert len(stored(tmp_path)) == space.asked == 60
    assert PIECE > 1000


def test_a_broken_picture_is_named_and_a_forgotten_one_passed_over(tmp_path):
    rows = disc_rows(0, 8).to_pylist()
    rows[3]["image"]["bytes"] = b"no picture"
    SampleSink(tmp_path, "run-1").commit(
        [write_batch(tmp_path, run_id="run-1", batch_index=0, rows=rows_table(rows))]
    )
    mark = Mark(kind="image", target_id=rows[5]["image_id"], because="train")
    record_tombstones(tmp_path, "somebody", [mark], **MADE)
    done = embed(tmp_path, Counting(), **MADE)
    assert (done.added, done.broken) == (6, (rows[3]["image_id"],))
    assert set(stored(tmp_path)) == {row["image_id"] for row in rows} - {
        rows[3]["image_id"], rows[5]["image_id"]
    }  # fmt: skip


def test_sql_tells_places_on_the_map_and_neighbours(tmp_path):
    publish_discs(tmp_path, 40)
    embed(tmp_path, RingSpace(), **MADE)
    catalog = Catalog(tmp_path)
    found = maps_of(catalog)[RingSpace.digest]
    expected = {
        i: found.axes(v[None])[0, :2] for i, v in stored(tmp_path, RingSpace.digest).items()
    }
    rows = sql(catalog, "SELECT image_id, space, x, y FROM features").to_pylist()
    assert len(rows) == 40
    for row in rows:
        assert row["space"] == "rings"
        assert [row["x"], row["y"]] == pytest.approx(expected[row["image_id"]], abs=1e-4)
    near = sql(
        catalog,
        "WITH own AS (SELECT image_id, features, class_name FROM features JOIN samples USING"
        " (image_id)) SELECT a.class_name AS a, arg_min(b.class_name, array_distance("
        "a.features::FLOAT[240], b.features::FLOAT[240])) AS b FROM own a JOIN own b"
        " ON a.image_id <> b.image_id GROUP BY a.image_id, a.class_name",
    ).to_pylist()
    assert sum(row["a"] == row["b"] for row in near) >= 36
    assert sql(catalog, "SELECT space, num_images FROM maps").to_pylist() == [
        {"space": "rings", "num_images": 40}
    ]
    with pytest.raises(CatalogError, match="only reads"):
        sql(catalog, "DELETE FROM features")


def test_the_map_stays_until_twice_as_many_images_have_come(tmp_path):
    publish_discs(tmp_path, 20)
    embed(tmp_path, Counting(), **MADE)
    first = maps_of(Catalog(tmp_path))["means-1"]
    publish_discs(tmp_path, 10, run_id="run-2", recipe="b")
    assert not embed(tmp_path, Counting(), **MADE).fitted
    publish_discs(tmp_path, 10, run_id="run-3", recipe="c")
    assert embed(tmp_path, Counting(), **MADE).fitted
    later = maps_of(Catalog(tmp_path))["means-1"]
    assert (later.event, later.num_images) == (first.event + 1, 40)
    assert fit_map(tmp_path, "nothing of this", **MADE) is None
    assert (first.axes.axes[0].sum() > 0) == (later.axes.axes[0].sum() > 0)


@pytest.mark.parametrize(
    "vector", [[1.0], [1.0, float("nan")], [], [1.0, None], [1.0, 2.0, 3.0]], ids=str
)
def test_vectors_of_others_that_are_none_are_refused(tmp_path, vector):
    publish_discs(tmp_path, 4)
    embed(tmp_path, Counting(), **MADE)
    row = {"image_id": "x", "space": "means", "space_digest": "means-1", "features": vector}
    from catalog.sink import append_once

    append_once(
        tmp_path, "features", pa.Table.from_pylist([row], schema=FEATURES),
        key={"space_digest": "means-1"}, app_id="others", app_version=1,
    )  # fmt: skip
    with pytest.raises(CatalogError, match="Move the folder 'features' away"):
        list(vectors_of(Catalog(tmp_path), "means-1", width=2))
    sql(Catalog(tmp_path), "SELECT x, y FROM features")  # and SQL goes on


def test_diverse_images_cover_every_class_and_are_the_same_ones_again(tmp_path):
    publish_discs(tmp_path, 100)
    selection = accepted(Catalog(tmp_path))
    with pytest.raises(CatalogError, match=r"of 88 images have no features.*catalog embed"):
        diverse(selection, 5)
    embed(tmp_path, RingSpace(), **MADE)
    chosen, radius = diverse(selection, 10)
    assert len(set(chosen)) == 10
    assert set(chosen) <= set(selection.image_ids)
    assert diverse(selection, 4)[0] == chosen[:4]
    assert diverse(selection, 88)[1] == 0 < radius
    picked = most_diverse(selection, 10)
    assert picked.image_ids == sorted(chosen)
    assert picked.told == "gate_status = 'accepted', the 10 most diverse"
    rows = [row for batch in picked.batches(["class_name"]) for row in batch.to_pylist()]
    assert {row["class_name"] for row in rows} == set(CLASSES)
    text = f"SELECT count(*) AS n FROM samples WHERE {picked.condition}"
    assert sql(Catalog(tmp_path), text)["n"].to_pylist() == [10]
    with pytest.raises(CatalogError, match="89 images are asked of 88"):
        diverse(selection, 89)
    few = Selection(catalog=Catalog(tmp_path), where="class_name = 'monocyte'")
    assert len(most_diverse(few, 3)) == 3
