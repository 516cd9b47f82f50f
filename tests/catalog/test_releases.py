"""What a release pins, how versions follow from rows, and what a killed creation leaves."""

import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from catalog import Catalog, sql
from catalog.releases import (
    diff_releases,
    find_release,
    list_releases,
    open_release,
    verify_release,
)
from catalog.releasing import create_release, retract_release
from catalog.upkeep import optimize
from factory.errors import CatalogError
from tests.catalog.test_table import publish

ROOT = Path(__file__).parents[2]
NOW = datetime(2026, 11, 22, tzinfo=UTC)
MADE = {"now": NOW, "code_version": "0.1.0"}


def test_a_release_pins_version_rows_and_files(tmp_path):
    publish(tmp_path, range(2))
    made = create_release(tmp_path, "wbc", **MADE)
    publish(tmp_path, [2])
    assert (made.name, made.semver, made.version) == ("wbc@1.0.0", "1.0.0", 1)
    assert (made.num_images, made.num_files, made.previous) == (8, 2, None)
    assert sum(made.class_counts.values()) == 8
    assert (made.model_ids, made.split_digests) == (("model-a",), ("split-a",))
    assert made.created_at == made.updated_at == NOW
    selection = open_release(tmp_path, "wbc@1.0.0")
    assert (len(selection), selection.name, selection.catalog.version) == (8, "wbc@1.0.0", 1)
    assert list_releases(tmp_path) == [made]


def test_the_first_version_is_the_one_that_is_asked_for(tmp_path):
    """As `factory release create --help` says."""
    publish(tmp_path, [0])
    assert create_release(tmp_path, "wbc@0.0.1", **MADE).name == "wbc@0.0.1"
    with pytest.raises(CatalogError, match="too low"):
        create_release(tmp_path, "wbc@0.0.0", **MADE)


def test_versions_follow_from_the_rows(tmp_path):
    publish(tmp_path, range(2))
    names = [create_release(tmp_path, "wbc", **MADE).name]
    optimize(tmp_path)
    names.append(create_release(tmp_path, "wbc", **MADE).name)
    publish(tmp_path, [2])
    names.append(create_release(tmp_path, "wbc", **MADE).name)
    names.append(create_release(tmp_path, "wbc", where="class_id > 0", **MADE).name)
    assert names == ["wbc@1.0.0", "wbc@1.0.1", "wbc@1.1.0", "wbc@2.0.0"]
    assert [r.previous for r in list_releases(tmp_path)] == [None, *names[:3]]
    assert diff_releases(tmp_path, names[0], names[1]).change == "patch"
    removed = diff_releases(tmp_path, names[2], names[3])
    assert set(removed.by_class) == {"basophil"}
    assert removed.by_class["basophil"]["removed"] == len(removed.removed) == 3
    assert create_release(tmp_path, "other", **MADE).name == "other@1.0.0"


def test_asking_twice_makes_one_release(tmp_path):
    publish(tmp_path, [0])
    first = create_release(tmp_path, "wbc", **MADE)
    publish(tmp_path, [9], "run-2", gate_status="rejected", gate_reasons=["blur: low"])
    later = {"now": datetime(2027, 1, 1, tzinfo=UTC), "code_version": "0.2.0"}
    assert create_release(tmp_path, "wbc", **later) == first
    assert create_release(tmp_path, "wbc@1.0.0", **later) == first
    assert len(list_releases(tmp_path)) == 1


def test_a_base_name_means_the_highest_version_that_was_not_retracted(tmp_path):
    publish(tmp_path, [0])
    create_release(tmp_path, "wbc", **MADE)
    publish(tmp_path, [1])
    create_release(tmp_path, "wbc@10.0.0", **MADE)
    publish(tmp_path, [2])
    assert create_release(tmp_path, "wbc", **MADE).name == "wbc@10.1.0"
    assert open_release(tmp_path, "wbc").name == "wbc@10.1.0"
    retract_release(tmp_path, "wbc@10.1.0", "wrong stain", **MADE)
    assert open_release(tmp_path, "wbc").name == "wbc@10.0.0"


def test_readers_of_a_retracted_release_are_told_the_reason(tmp_path):
    publish(tmp_path, [0])
    made = create_release(tmp_path, "wbc", **MADE)
    gone = retract_release(tmp_path, "wbc@1.0.0", " wrong stain ", **MADE)
    assert (gone.status, gone.reason, gone.retracted) == ("retracted", "wrong stain", True)
    assert (gone.manifest_digest, gone.created_at) == (made.manifest_digest, made.created_at)
    assert retract_release(tmp_path, "wbc@1.0.0", "again", **MADE).reason == "wrong stain"
    for name in ("wbc", "wbc@1.0.0"):
        with pytest.raises(CatalogError, match=r"was retracted: wrong stain.*another release"):
            open_release(tmp_path, name)
    assert len(open_release(tmp_path, "wbc", allow_retracted=True)) == 4
    assert create_release(tmp_path, "wbc", **MADE).name == "wbc@1.0.1"  # numbers are used once


def test_sql_shows_the_latest_state_of_every_release_and_its_files(tmp_path):
    publish(tmp_path, range(2))
    create_release(tmp_path, "wbc", **MADE)
    retract_release(tmp_path, "wbc@1.0.0", "wrong stain", **MADE)
    catalog = Catalog(tmp_path)
    text = "SELECT name, status, reason, num_images FROM releases"
    assert sql(catalog, text).to_pylist() == [
        {"name": "wbc@1.0.0", "status": "retracted", "reason": "wrong stain", "num_images": 8}
    ]
    joined = "SELECT count(*) AS n FROM release_files JOIN releases USING (name, manifest_digest)"
    assert sql(catalog, joined)["n"].to_pylist() == [2]
    assert sql(catalog, "SELECT * FROM tombstones").num_rows == 0


@pytest.mark.parametrize(
    ("name", "how", "message"),
    [
        ("", {}, "no name of a release"),
        ("a b", {}, "no name of a release"),
        ("wbc@1", {}, "no semantic version"),
        ("wbc@1.0.5", {"where": "class_id > 0"}, r"too low after wbc@1.0.0.*2\.0\.0 or a higher"),
        ("wbc", {"where": "class_id > 99"}, "no sample in"),
        ("wbc", {"where": "nothing > 99"}, "nothing"),
        ("wbc", {"where": "TRUE) OR (TRUE"}, "syntax error"),
        ("wbc", {"where": "random() < 0.5"}, r"other rows every time.*hash"),
        ("wbc", {"version": 99}, "at version 99"),
        ("wbc", {"version": 0}, "no sample in"),
    ],
)
def test_what_cannot_be_released_is_refused_and_leaves_nothing(tmp_path, name, how, message):
    publish(tmp_path, range(3))
    create_release(tmp_path, "wbc", **MADE)
    with pytest.raises(CatalogError, match=message):
        create_release(tmp_path, name, **how, **MADE)
    assert len(list_releases(tmp_path)) == 1


def test_rejected_images_are_never_released(tmp_path):
    publish(tmp_path, [0])
    publish(tmp_path, [5], "run-2", gate_status="rejected", gate_reasons=["copies: 0.1"])
    made = create_release(tmp_path, "wbc", where="class_id >= 0 OR TRUE", **MADE)
    assert made.num_images == 4


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda uri: open_release(uri, "nobody"), r"no release 'nobody'.*release list"),
        (lambda uri: find_release(uri, "wbc@9.0.0"), "no release 'wbc@9.0.0'"),
        (lambda uri: retract_release(uri, "wbc", "why", **MADE), "which version.*wbc@1.0.0"),
        (lambda uri: retract_release(uri, "wbc@1.0.0", " ", **MADE), "--reason TEXT"),
    ],
)
def test_names_that_mean_nothing_are_refused(tmp_path, use, message):
    publish(tmp_path, [0])
    create_release(tmp_path, "wbc", **MADE)
    with pytest.raises(CatalogError, match=message):
        use(tmp_path)


KILLED = """
import os, signal, sys
from datetime import UTC, datetime
import catalog.transaction as transaction
from catalog.releasing import create_release
uri, wanted, when = sys.argv[1], int(sys.argv[2]), sys.argv[3]
commit, count = transaction._commit, 0
def dying(*arguments):
    global count
    count += 1
    if count == wanted and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    commit(*arguments)
    if count == wanted:
        os.kill(os.getpid(), signal.SIGKILL)
transaction._commit = dying
create_release(uri, "wbc", now=datetime(2026, 1, 1, tzinfo=UTC), code_version="killed")
"""


@pytest.mark.fault
@pytest.mark.parametrize(
    ("commit", "when", "exists"),
    [
        (1, "after", False),
        (2, "after", True),
        pytest.param(1, "before", False, marks=pytest.mark.slow),
        pytest.param(2, "before", False, marks=pytest.mark.slow),
    ],
)
def test_a_killed_creation_leaves_nothing_half_made(tmp_path, commit, when, exists):
    publish(tmp_path, [0])
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(commit), when]
    assert subprocess.run(command, cwd=ROOT).returncode == -signal.SIGKILL
    assert len(list_releases(tmp_path)) == int(exists)
    assert len(Catalog(tmp_path).release_files()) == int(exists)
    publish(tmp_path, [1])
    made = create_release(tmp_path, "wbc", **MADE)
    assert made.name == ("wbc@1.1.0" if exists else "wbc@1.0.0")
    assert verify_release(tmp_path, made.name).problems == []
    shown = Catalog(tmp_path).release_files()
    assert shown["name"].to_pylist().count(made.name) == made.num_files == 2
