"""Laws of differences between sets of rows, and of the semantic versions that follow from them."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.manifest import (
    KINDS,
    FileDigest,
    difference,
    manifest_digest,
    parse_semver,
    raised,
    rows_digest,
    semver_text,
)
from factory.errors import CatalogError

texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=3)
rows = st.dictionaries(st.integers(0, 12), st.tuples(st.sampled_from("pq"), st.sampled_from("ab")))
versions = st.tuples(*[st.integers(0, 10**6)] * 3)


def table(held: dict[int, tuple[str, str]]) -> pa.Table:
    columns = ("image_id", "pixel_sha256", "class_name", "recipe_digest")
    named = [
        dict(zip(columns, (f"i{i:02}", pixels, name, f"r{i % 3}"), strict=True))
        for i, (pixels, name) in sorted(held.items())
    ]
    return pa.Table.from_pylist(named, schema=pa.schema([(name, pa.string()) for name in columns]))


def ids(part: pa.Table) -> set[int]:
    return {int(text[1:]) for text in part["image_id"].to_pylist()}


@given(rows, rows)
def test_a_difference_is_what_sets_say(before, after):
    found = difference(table(before), table(after))
    assert ids(found.added) == after.keys() - before.keys()
    assert ids(found.removed) == before.keys() - after.keys()
    assert ids(found.changed) == {i for i in before.keys() & after.keys() if before[i] != after[i]}


@given(rows, rows)
def test_backwards_added_is_removed_and_changed_stays(before, after):
    there = difference(table(before), table(after))
    back = difference(table(after), table(before))
    assert (ids(back.added), ids(back.removed)) == (ids(there.removed), ids(there.added))
    assert ids(back.changed) == ids(there.changed)


@given(rows, rows)
def test_counts_by_class_and_by_recipe_add_up_to_the_rows(before, after):
    found = difference(table(before), table(after))
    for counts in (found.by_class, found.by_recipe):
        for kind in KINDS:
            assert sum(group[kind] for group in counts.values()) == len(getattr(found, kind))


@given(rows, rows)
def test_only_equal_rows_are_a_patch_and_only_more_rows_are_minor(before, after):
    change = difference(table(before), table(after)).change
    kept = all(after.get(i) == row for i, row in before.items())
    assert (change == "patch") == (before == after)
    assert (change == "minor") == (kept and len(after) > len(before))
    equal = rows_digest(table(before)) == rows_digest(table(after))
    assert equal == (change == "patch")


@given(versions, st.sampled_from(["major", "minor", "patch"]))
def test_a_raised_version_is_higher_and_the_least_of_its_kind(version, change):
    higher = raised(version, change)
    assert higher > version
    place = ("major", "minor", "patch").index(change)
    assert higher[: place + 1] == (*version[:place], version[place] + 1)
    assert set(higher[place + 1 :]) <= {0}


@given(versions)
def test_versions_read_as_they_are_written(version):
    assert parse_semver(semver_text(version)) == version


@pytest.mark.parametrize(
    "text", ["", "1", "1.2", "01.0.0", "1.0.0-rc1", "v1.0.0", "1.0.0\n", "१.0.0"]
)
def test_other_texts_are_no_versions(text):
    with pytest.raises(CatalogError, match="no semantic version"):
        parse_semver(text)


@given(st.lists(texts, min_size=1, max_size=4, unique=True), st.randoms())
def test_the_manifest_does_not_depend_on_the_order_of_files(paths, random):
    files = [FileDigest(path=path, size_bytes=1, sha256="0") for path in paths]
    before = manifest_digest("rows", files)
    random.shuffle(files)
    assert manifest_digest("rows", files) == before
    assert manifest_digest("rows", files[1:]) != before
    assert manifest_digest("other", files) != before
