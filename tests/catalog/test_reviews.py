"""Verdicts of people: appended, never overwritten, read by SQL, pinned by releases."""

import threading
from datetime import UTC, datetime, timedelta

import pytest

from catalog import Catalog, sql
from catalog.bounded import BoundedSql
from catalog.export.facts import facts_of
from catalog.gallery.index import Index
from catalog.query import files_scanned
from catalog.releases import find_release, open_release, verify_release
from catalog.releasing import create_release
from catalog.reviews import Review, agreements, fresh_events, record_review
from catalog.selection import accepted
from catalog.upkeep import optimize
from factory.errors import CatalogError
from tests.catalog.test_table import publish
from tests.fakes.rows import sample_row

NOW = datetime(2026, 11, 24, tzinfo=UTC)
MADE = {"now": NOW, "code_version": "0.1.0"}
IDS = [sample_row(n)["image_id"] for n in range(8)]


def said(image, verdict, reviewer="Ada", reason=None, **changes):
    fields = {"run_id": "run-1", "pixel_sha256": "00", "is_blind": False} | changes
    return Review(image_id=IDS[image], verdict=verdict, reviewer=reviewer, reason=reason, **fields)


def record(uri, *args, minutes=0, **changes):
    at = NOW + timedelta(minutes=minutes)
    return record_review(uri, said(*args, **changes), now=at, code_version="0.1.0")


@pytest.fixture
def uri(tmp_path):
    publish(tmp_path, range(2))
    return tmp_path


def asked(uri, text):
    return [tuple(row.values()) for row in sql(Catalog(uri), text).to_pylist()]


def test_a_later_verdict_of_one_reviewer_stands_and_both_stay(uri):
    assert record(uri, 0, "accepted")
    files = {path: path.read_bytes() for path in (uri / "reviews").rglob("*.*")}
    assert record(uri, 0, "rejected", reason="no nucleus", minutes=1)
    assert record(uri, 0, "accepted", "Ben")
    stands = "SELECT reviewer, verdict, reason FROM reviews ORDER BY 1"
    assert asked(uri, stands) == [("Ada", "rejected", "no nucleus"), ("Ben", "accepted", None)]
    events = "SELECT event, verdict FROM review_events WHERE reviewer = 'Ada' ORDER BY 1"
    assert asked(uri, events) == [(0, "accepted"), (1, "rejected")]
    assert {path: path.read_bytes() for path in files} == files  # nothing is ever rewritten


def test_an_equal_verdict_is_written_once_and_a_withdrawn_one_leaves_none(uri):
    assert record(uri, 0, "accepted", reason="round")
    assert not record(uri, 0, "accepted", reason="round", minutes=5)
    assert record(uri, 0, "accepted", reason="round, granular")
    assert record(uri, 0, "withdrawn")
    assert not record(uri, 0, "withdrawn")
    assert asked(uri, "SELECT * FROM reviews") == []
    assert asked(uri, "SELECT count(*) FROM review_events") == [(3,)]
    assert not record(uri, 1, "withdrawn")  # nothing to take back
    assert record(uri, 0, "accepted", reason="round")
    assert asked(uri, "SELECT event FROM reviews") == [(3,)]


def test_samples_have_a_column_that_says_what_reviewers_say_together(uri):
    for image, verdict, name in (
        *((0, "accepted", "Ada"), (0, "accepted", "Ben")),
        *((1, "rejected", "Ada"), (2, "accepted", "Ada"), (2, "rejected", "Ben")),
    ):
        record(uri, image, verdict, name)
    found = dict(asked(uri, "SELECT image_id, review FROM samples"))
    told = [found[image_id] for image_id in IDS]
    assert told == ["accepted", "rejected", "disputed", *[None] * 5]
    assert "review" not in sql(Catalog(uri), "SELECT * FROM samples").column_names
    assert accepted(Catalog(uri), "review = 'accepted'").image_ids == [IDS[0]]
    chosen = accepted(Catalog(uri), "REVIEW IS DISTINCT FROM 'rejected'")
    assert len(chosen) == facts_of(chosen).num_images == 7
    query = "SELECT image_id FROM samples WHERE review IS NULL AND run_id = 'run-9'"
    assert files_scanned(Catalog(uri), query) == (0, 2)  # the join hides no bounds


def test_a_catalog_without_verdicts_answers_and_is_not_written_to(uri):
    assert asked(uri, "SELECT * FROM reviews") == asked(uri, "SELECT * FROM review_events") == []
    assert asked(uri, "SELECT DISTINCT review FROM samples") == [(None,)]
    names = sql(Catalog(uri), "SHOW TABLES")["name"].to_pylist()
    assert {"reviews", "review_events"} < set(names)
    assert fresh_events(uri)[1] == frozenset()
    assert not (uri / "reviews").exists()


def test_two_reviewers_and_one_reviewer_twice_at_once_all_land(uri):
    turns = [(name, image) for name in ("Ada", "Ben", "Cem") for image in range(4)]
    lined_up = threading.Barrier(4)
    failed = []

    def write(name, verdict, images):
        lined_up.wait()
        try:
            for image in images:
                record(uri, image, verdict, name)
        except Exception as error:  # told by the test, not by a thread
            failed.append(error)

    threads = [
        threading.Thread(target=write, args=(name, verdict, range(4)))
        for name, verdict in (("Ada", "accepted"), ("Ben", "accepted"), ("Cem", "accepted"),
                              ("Cem", "rejected"))
    ]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    found = asked(uri, "SELECT reviewer, count(*) FROM reviews GROUP BY 1 ORDER BY 1")
    assert found == [(name, 4) for name in ("Ada", "Ben", "Cem")]
    assert len(turns) == 12
    cem = asked(uri, "SELECT image_id, list(event ORDER BY event) FROM review_events"
                     " WHERE reviewer = 'Cem' GROUP BY 1")  # fmt: skip
    assert [events for _, events in cem] == [[0, 1]] * 4


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"verdict": "maybe"}, "'maybe' is no verdict"),
        ({"verdict": "<script>\x1b[31m"}, r"'<script>\\x1b\[31m' is no verdict"),
        ({"reviewer": "  "}, "no name"),
        ({"reviewer": "\u3000.-"}, "no name"),
        ({"reviewer": "A" * 81}, "80"),
        ({"reviewer": "Ada\nBen"}, r"characters that show nothing: 'Ada\\nBen'"),
        ({"reviewer": "Ada\u202e"}, "characters that show nothing"),
        ({"reason": "x" * 501}, "has 501 characters"),
        ({"reason": "\x1b[2J"}, "the reason holds characters"),
        ({"reason": "\ud800"}, "the reason holds characters"),
    ],
)
def test_what_is_no_verdict_no_name_and_no_reason_is_refused(changes, what):
    with pytest.raises(CatalogError, match=what):
        said(0, **{"verdict": "accepted"} | changes)


def test_one_name_however_it_is_typed():
    typed = {said(0, "accepted", name).reviewer for name in ("Zo\u00eb  K ", " Zoe\u0308 K")}
    assert typed == {"Zo\u00eb K"}


def test_a_release_stays_what_it_was_when_people_change_their_minds(uri):
    with pytest.raises(CatalogError, match=r"nobody said anything yet.*factory review"):
        create_release(uri, "seen", where="review = 'accepted'", **MADE)
    record(uri, 0, "accepted")
    record(uri, 1, "accepted")
    made = create_release(uri, "seen", where="review = 'accepted'", **MADE)
    assert (made.num_images, made.review_version) == (2, 2)
    record(uri, 1, "rejected")
    record(uri, 2, "accepted")
    assert open_release(uri, "seen@1.0.0").image_ids == sorted(IDS[:2])
    assert verify_release(uri, "seen@1.0.0").problems == []
    later = create_release(uri, "seen", where="review = 'accepted'", **MADE)
    assert open_release(uri, later.name).image_ids == sorted([IDS[0], IDS[2]])
    assert create_release(uri, "all", **MADE).review_version is None
    assert find_release(uri, "seen@1.0.0") == made


def test_typed_sql_sees_the_verdicts_of_now_and_those_that_are_pinned(uri):
    record(uri, 0, "accepted")
    bounded = BoundedSql(uri)
    text = "SELECT count(*) AS n FROM samples WHERE Review = 'accepted'"
    try:
        version = Catalog(uri).version
        assert bounded.ask(text, seconds=60, version=version)["n"].to_pylist() == [1]
        record(uri, 1, "accepted")
        assert bounded.ask(text, seconds=60, version=version)["n"].to_pylist() == [2]
        assert bounded.ask(text, seconds=60, version=version, reviews=1)["n"].to_pylist() == [1]
    finally:
        bounded.close()


def test_fresh_events_are_those_of_files_that_are_not_known(uri):
    record(uri, 0, "accepted")
    rows, paths = fresh_events(uri)
    assert len(rows) == len(paths) == 1
    record(uri, 0, "rejected", is_blind=True)
    rows, both = fresh_events(uri, paths)
    assert rows["verdict"].to_pylist() == ["rejected"]
    assert rows["is_blind"].to_pylist() == [True]
    assert paths < both


def test_joined_files_hold_the_same_verdicts_and_each_reviewer_goes_on(uri, monkeypatch):
    monkeypatch.setattr("catalog.upkeep.MANY_VERDICTS", 3)
    record(uri, 0, "accepted")
    made = create_release(uri, "seen", where="review = 'accepted'", **MADE)
    optimize(uri)
    record(uri, 0, "rejected", minutes=1)
    record(uri, 1, "accepted", "Ben")
    index = Index(str(uri))
    try:
        assert index.listen(at_once=True) == 3
        before = sorted(asked(uri, "FROM review_events"))
        optimize(uri)
        optimize(uri)
        assert len(Catalog(uri).files("reviews")) == 1
        assert sorted(asked(uri, "FROM review_events")) == before
        assert not record(uri, 0, "rejected", minutes=2)
        assert record(uri, 0, "accepted", minutes=3)
        assert index.listen(at_once=True) == 4
        stands = "SELECT image_id, reviewer, verdict, event FROM reviews ORDER BY reviewer"
        assert [tuple(row.values()) for row in index.ask(stands)] == asked(uri, stands) == [
            (IDS[0], "Ada", "accepted", 2), (IDS[1], "Ben", "accepted", 0)]  # fmt: skip
    finally:
        index.close()
    assert len(open_release(uri, made.name)) == 1


def test_agreement_of_two_is_that_of_cohen():
    """Cohen 1960: 20 and 15 said together, 5 and 10 apart, of 50: kappa 0.4."""
    pairs = [("accepted",) * 2] * 20 + [("accepted", "rejected")] * 5
    pairs += [("rejected", "accepted")] * 10 + [("rejected",) * 2] * 15
    told = [
        (str(n), name, v)
        for n, pair in enumerate(pairs)
        for name, v in zip("ab", pair, strict=True)
    ]
    (found,) = agreements([*told, ("99", "a", "accepted"), ("98", "c", "accepted")])
    assert (found.reviewers, found.images, found.agreed) == (("a", "b"), 50, 35)
    assert found.kappa == pytest.approx(0.4)
    (one_sided,) = agreements([("1", "a", "accepted"), ("1", "b", "accepted")])
    assert one_sided.kappa is None
