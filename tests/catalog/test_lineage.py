"""Lineage both ways, and what a forgotten real image had a part in."""

import shutil
from datetime import UTC, datetime

import pytest

from catalog import Catalog, record_evaluation, record_model
from catalog.forget import forget, reach_of
from catalog.lineage import Lineage, Model
from catalog.releases import diff_releases, open_release, verify_release
from catalog.releasing import create_release, retract_release
from catalog.selection import Selection
from catalog.tombstones import Mark, forgotten, record_tombstones, subject_of
from factory.errors import CatalogError
from factory.real.splits import Split
from tests.catalog.test_table import publish
from tests.fakes.rows import STARTED, model_row, sample_row

MADE = {"now": datetime(2026, 11, 22, tzinfo=UTC), "code_version": "0.1.0"}
MINE = Split(dataset="real", seed=0, train=("t/1", "t/2"), val=("v/1",), test=("x/1",))
OTHER = Split(dataset="other", seed=0, train=("o/1",), val=(), test=("t/1",))

TUNED = {
    "model_id": "tuned",
    "base_model_id": "base",
    "split_digest": MINE.digest,
    "dataset_fingerprint": "real",
}


def study(evaluation_id, model_ids, split):
    """A row of `evaluations` and a score."""
    row = {
        "evaluation_id": evaluation_id,
        "name": "does it help",
        "task": "classify",
        "config": "",
        "config_digest": "c",
        "dataset_fingerprint": split.dataset,
        "split_digests": [split.digest],
        "catalog_version": 2,
        "model_ids": model_ids,
        "arms": ["real"],
        "baseline": "real",
        "metric": "macro_f1",
        "verdicts": '{"mixed": "helps"}',
        "comparisons": "{}",
        "code_version": "0.1.0",
        "finished_at": STARTED,
    }
    score = {
        "evaluation_id": evaluation_id,
        "unit_id": "u",
        "arm": "real",
        "fold": 0,
        "seed": 0,
        "part": "test",
        "metric": "macro_f1",
        "value": 0.5,
        "num_images": 1,
        "num_real": 1,
        "num_synthetic": 0,
        "manifest_digest": "m",
        "split_digest": split.digest,
        "best_step": 1,
    }
    return row, [score]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A base, a generator made from it, one of another split, one that was shown a real image."""
    tmp_path = tmp_path_factory.mktemp("lineage")
    publish(tmp_path, [0], **TUNED)
    publish(
        tmp_path,
        [0],
        "run-2",
        recipe="b",
        model_id="elsewhere",
        split_digest=OTHER.digest,
        dataset_fingerprint="other",
        reference_ids=["t/2"],
    )
    record_model(
        tmp_path, model_row("base", split_digest="public", dataset_fingerprint="far", name="base")
    )
    create_release(tmp_path, "all", **MADE)
    create_release(tmp_path, "theirs", where="model_id = 'elsewhere'", **MADE)
    record_evaluation(tmp_path, *study("study-1", ["tuned"], MINE))
    return tmp_path


@pytest.fixture
def uri(made, tmp_path):
    """A copy of `made`, which a test may change."""
    return shutil.copytree(made, tmp_path / "catalog")


def lineage(uri, *splits, **more):
    return Lineage(catalog=Catalog(uri), splits=splits, **more)


def walk(node, along):
    """Yield (kind, id) of everything below a node, along 'sources' or 'results'."""
    for inner in getattr(node, along):
        yield (inner.kind, inner.id)
        yield from walk(inner, along)


def test_an_image_leads_back_to_bases_and_splits_and_forward_to_studies(uri):
    node = lineage(uri).node(sample_row(1)["image_id"])
    assert set(walk(node, "sources")) == {
        ("run", "run-1"),
        ("generator", "tuned"),
        ("split", MINE.digest),
        ("generator", "base"),
        ("split", "public"),
    }
    assert list(walk(node, "results")) == [("release", "all@1.0.0"), ("study", "study-1")]
    shown = lineage(uri).node(sample_row(1, recipe="b")["image_id"])
    assert ("real image", "t/2") in walk(shown, "sources")
    assert ("release", "theirs@1.0.0") in walk(shown, "results")


def test_a_generator_leads_to_what_was_made_from_it(uri):
    node = lineage(uri).node("base")
    assert list(walk(node, "sources")) == [("split", "public")]
    assert list(walk(node, "results")) == [
        ("generator", "tuned"),
        ("images", "model_id = 'tuned'"),
        ("release", "all@1.0.0"),
        ("study", "study-1"),
    ]
    (images,) = [n for n in node.results[0].results if n.kind == "images"]
    assert images.facts == {"accepted": 4}
    assert images.results[0].facts == {"status": "created", "images": 4}


def test_a_real_image_leads_through_its_split_to_everything(uri):
    node = lineage(uri, MINE).node("t/2")
    assert node.kind == "real image"
    reached = list(walk(node, "results"))
    assert reached[:2] == [("split", MINE.digest), ("generator", "tuned")]
    assert ("images", "list_contains(reference_ids, 't/2')") in reached
    assert ("release", "theirs@1.0.0") in reached
    held_out = lineage(uri, MINE).node("x/1")
    assert list(walk(held_out, "results")) == [("split", MINE.digest), ("study", "study-1")]
    assert node.to_dict()["results"][0]["facts"]["part"] == "train"


def test_what_nobody_knows_is_refused_with_the_way_to_find_it(uri):
    with pytest.raises(CatalogError, match=r"no image or generator.*--split FILE"):
        lineage(uri).node("v/1")
    with pytest.raises(CatalogError, match=rf"in none of 0 splits.*wanted:.*{MINE.digest}"):
        reach_of(lineage(uri), "v/1")


def test_bases_of_the_package_count_only_where_a_generator_names_them(uri):
    bases = [
        Model(model_id="base", name="not mine", split_digest="x"),
        Model(model_id="unused", split_digest="y"),
    ]
    models = lineage(uri, bases=bases).models
    assert set(models) == {"base", "tuned", "elsewhere"}
    assert models["base"].split_digest == "public"


def test_a_bridge_goes_back_to_all_that_it_binds(tmp_path):
    for model in ("here", "there"):
        split = MINE if model == "here" else OTHER
        record_model(tmp_path, model_row(model, split_digest=split.digest, dataset_fingerprint="d"))
    lone = {"split_digest": None, "dataset_fingerprint": None}
    record_model(tmp_path, model_row("bridge", member_ids=["here", "there"], **lone))
    publish(tmp_path, [0], model_id="bridge", **lone)
    lineage = Lineage(catalog=Catalog(tmp_path), splits=[MINE, OTHER])
    assert [node.id for node in lineage.node("bridge").sources] == ["here", "there"]
    assert [node.id for node in lineage.node("here").results] == ["bridge"]
    assert lineage.descendants("there") == ["bridge"]


def test_generators_in_a_circle_end(tmp_path):
    for one, other in (("a", "b"), ("b", "a")):
        record_model(tmp_path, model_row(one, base_model_id=other))
    found = lineage(tmp_path)
    assert found.descendants("a") == ["b"]
    assert [kind for kind, _ in walk(found.node("a"), "sources")].count("generator") == 1


@pytest.mark.parametrize(
    ("real_id", "splits", "models", "images"),
    [
        ("t/2", [MINE, OTHER], {"tuned": "train"}, 8),
        ("v/1", [MINE, OTHER], {"tuned": "val"}, 4),
        ("x/1", [MINE, OTHER], {}, 0),
        ("o/1", [MINE, OTHER], {"elsewhere": "train"}, 4),
        ("t/2", [], {}, 4),
    ],
)
def test_the_reach_of_a_real_image(uri, real_id, splits, models, images):
    reach = reach_of(lineage(uri, *splits), real_id)
    assert reach.models == models
    assert len(reach.images) == images
    assert {m.model_id for m in reach.unresolved} == {
        *(["base"]),
        *([] if MINE in splits else ["tuned"]),
        *([] if OTHER in splits else ["elsewhere"]),
    }
    held = {release.name: n for release, n in reach.releases}
    assert held.get("all@1.0.0", 0) == images


def test_what_was_made_from_a_marked_base_is_marked(uri):
    base = Split(dataset="far", seed=0, train=("p/1",), val=(), test=())
    record_model(
        uri, model_row("root", split_digest=base.digest, dataset_fingerprint="far", name="root")
    )
    record_model(uri, model_row("leaf", base_model_id="root", split_digest=None, name="leaf"))
    assert reach_of(lineage(uri, base), "p/1").models == {"root": "train", "leaf": "base"}


def test_forgotten_images_are_handed_out_no_more_whatever_version_is_read(uri):
    found = lineage(uri, MINE, OTHER)
    reach = reach_of(found, "v/1")
    assert forget(found, reach, **MADE) == 5
    assert forget(found, reach, **MADE) == 0
    assert forgotten(uri).models == {"tuned"}
    with pytest.raises(CatalogError, match=r"all@1.0.0 holds 4 images.*release create all"):
        open_release(uri, "all")
    with pytest.raises(CatalogError, match="holds 4"):
        open_release(uri, "all", allow_retracted=True)
    assert len(open_release(uri, "theirs")) == 4
    for version in (None, 2):
        selection = Selection(catalog=Catalog(uri, version=version))
        assert (len(selection), selection.num_forgotten) == (4, 4)
    publish(uri, [9], "run-3", **TUNED)  # drawn later by the marked generator
    assert len(Selection(catalog=Catalog(uri))) == 4
    made = create_release(uri, "all", **MADE)
    assert (made.name, made.num_images) == ("all@2.0.0", 4)
    assert (open_release(uri, "all").name, len(open_release(uri, "all"))) == ("all@2.0.0", 4)
    assert verify_release(uri, "all@2.0.0").holds
    assert verify_release(uri, "all@1.0.0").holds
    assert len(diff_releases(uri, "all@1.0.0", "all@2.0.0").removed) == 4
    reach = reach_of(lineage(uri, MINE, OTHER), "v/1")
    assert [(release.name, n) for release, n in reach.releases] == [("all@1.0.0", 4)]


def test_a_second_request_adds_only_what_came_since(uri):
    found = lineage(uri, MINE, OTHER)
    assert forget(found, reach_of(found, "v/1"), **MADE) == 5
    publish(uri, [9], "run-3", **TUNED)
    later = lineage(uri, MINE, OTHER)
    assert forget(later, reach_of(later, "v/1"), **MADE) == 4
    events = Catalog(uri).dataset("tombstones").to_table()
    assert sorted(set(events["event"].to_pylist())) == [0, 1]
    assert set(events["subject"].to_pylist()) == {subject_of("v/1")}
    assert "v/1" not in str(events.to_pylist())


def test_marks_of_two_subjects_stand_beside_each_other(tmp_path):
    publish(tmp_path, [0])
    mark = Mark(kind="model", target_id="model-a", because="train")
    assert record_tombstones(tmp_path, "p", [mark], **MADE) == 1
    assert record_tombstones(tmp_path, "q", [mark], **MADE) == 1
    assert record_tombstones(tmp_path, "q", [mark, mark], **MADE) == 0
    with pytest.raises(CatalogError, match="4 are left out by tombstones"):
        len(Selection(catalog=Catalog(tmp_path)))


def test_a_retracted_release_is_listed_too(uri):
    retract_release(uri, "all@1.0.0", "why", **MADE)
    reach = reach_of(lineage(uri, MINE), "v/1")
    assert [(release.name, n) for release, n in reach.releases] == [("all@1.0.0", 4)]
