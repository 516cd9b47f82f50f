"""`factory release`, `lineage`, `forget`, `catalog optimize` and `vacuum` from the shell."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from catalog import Catalog, record_run
from catalog.releases import list_releases
from factory.cli import cli
from factory.errors import CatalogError, DataError
from factory.real.splits import Split
from tests.catalog.test_table import publish
from tests.fakes.rows import run_row, sample_row

SPLIT = Split(dataset="real-a", seed=0, train=("t/1",), val=(), test=("x/1",))


def run(*arguments, code=0):
    result = CliRunner().invoke(cli, [str(part) for part in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def uri(tmp_path, monkeypatch):
    place = tmp_path / "catalog"
    publish(place, range(2), split_digest=SPLIT.digest)
    monkeypatch.setenv("FACTORY_CATALOG", str(place))
    monkeypatch.chdir(tmp_path)
    SPLIT.save(Path("split.json"))
    return place


def test_any_two_versions_are_compared(uri):
    publish(uri, [2], "run-2", class_name="monocyte")
    told = run("catalog", "diff", 1, 2)
    assert told.startswith("minor: 4 added, 0 removed, 0 changed\n")
    assert "  class monocyte: 4 added\n" in told
    assert run("catalog", "diff", 2, 1).startswith("major: 0 added, 4 removed, 0 changed\n")
    assert run("catalog", "diff", 0, 2).startswith("minor: 12 added, 0 removed")
    nothing = run("catalog", "diff", 1, 2, "--where", "class_name = 'basophil'", "--json")
    assert json.loads(nothing)["added"] == []
    with pytest.raises(CatalogError, match="cannot be opened at version 9"):
        run("catalog", "diff", 1, 9)


def test_a_release_is_made_listed_shown_compared_verified_and_retracted(uri):
    output = run("release", "create", "wbc")
    assert output.startswith("wbc@1.0.0: 8 images in 2 files of version 1, manifest ")
    publish(uri, [2], split_digest=SPLIT.digest)
    run("release", "create", "wbc", "--where", "class_name <> 'basophil'")
    listed = json.loads(run("release", "list", "--json"))
    assert [(row["name"], row["num_images"]) for row in listed] == [
        ("wbc@1.0.0", 8),
        ("wbc@2.0.0", 9),
    ]
    shown = json.loads(run("release", "show", "wbc@1.0.0", "--json"))
    assert shown["manifest_digest"] == list_releases(uri)[0].manifest_digest
    assert shown["model_ids"] == ["model-a"]
    assert "semver           2.0.0" in run("release", "show", "wbc")
    told = run("release", "diff", "wbc@1.0.0", "wbc@2.0.0")
    assert told.startswith("major: 3 added, 2 removed, 0 changed\n")
    assert "  class basophil: 2 removed\n" in told
    assert f"  recipe {sample_row(0)['recipe_digest']}: 3 added, 2 removed\n" in told
    ids = json.loads(run("release", "diff", "wbc@1.0.0", "wbc@2.0.0", "--json"))
    assert sample_row(0)["image_id"] in ids["removed"]
    assert "wbc@2.0.0 (created) holds; 3 files, 9 images" in run("release", "verify", "wbc")
    assert run("release", "retract", "wbc@2.0.0", "--reason", "wrong stain") == (
        "wbc@2.0.0 is retracted: wrong stain\n"
    )
    assert "wrong stain" in run("release", "list")


def test_verify_exits_with_one_and_names_the_file(uri):
    run("release", "create", "wbc")
    (broken, *_) = (uri / "samples").rglob("batch-00000001-*.parquet")
    content = bytearray(broken.read_bytes())
    content[100] ^= 1
    broken.write_bytes(bytes(content))
    output = run("release", "verify", "wbc", code=1)
    assert broken.name in output
    assert "does not hold" in output


def test_lineage_is_a_tree_and_json(uri):
    run("release", "create", "wbc")
    tree = run("lineage", sample_row(0)["image_id"])
    assert tree.startswith(f"image {sample_row(0)['image_id']}  (class_name basophil")
    assert f"split {SPLIT.digest}  (dataset real-a)" in tree
    assert "release wbc@1.0.0  (status created, images 1)" in tree
    node = json.loads(run("lineage", "t/1", "--split", "split.json", "--json"))
    assert node["results"][0]["results"][0]["id"] == "model-a"
    assert "held" not in run("lineage", "model-a", "--split", "split.json")
    assert "train 1" in run("lineage", "model-a", "--split", "split.json")


def test_forget_changes_nothing_until_it_is_confirmed(uri):
    run("release", "create", "wbc")
    told = run("forget", "t/1", "--split", "split.json")
    for words in (
        "train part of split",
        "generator model-a (train): train it again without this image",
        "8 images, 0 of them only by being shown it",
        "release wbc@1.0.0 (created): holds 8 of them",
        "Nothing was changed",
        "no legal advice",
    ):
        assert words in told
    assert run("release", "create", "wbc").startswith("wbc@1.0.0")
    assert "9 new tombstones" in run("forget", "t/1", "--split", "split.json", "--confirm")
    with pytest.raises(CatalogError, match="8 are left out by tombstones"):
        run("release", "create", "wbc")
    again = run("forget", "t/1", "--split", "split.json", "--confirm", "--json")
    assert json.loads(again)["new_tombstones"] == 0


def test_forget_says_which_split_is_lacking_and_exits_with_one(uri):
    publish(uri, [0], "run-2", recipe="b", split_digest="unknown", model_id="model-b")
    told = run("forget", "t/1", "--split", "split.json", code=1)
    assert "cannot be told: generator model-b was trained under split unknown" in told
    assert "train it again" in told


def test_nothing_reaches_from_a_test_part(uri):
    told = run("forget", "x/1", "--split", "split.json")
    assert "test part of split" in told
    assert "  0 images" in told


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (["release", "show", "nobody"], CatalogError, "no release 'nobody'"),
        (["release", "verify", "nobody"], CatalogError, "no release 'nobody'"),
        (["lineage", "nobody"], CatalogError, "--split FILE"),
        (["forget", "nobody"], CatalogError, "wanted"),
        (["forget", "t/1", "--split", "nowhere.json"], DataError, "nowhere.json"),
        (["catalog", "optimize", "--catalog", "nowhere"], CatalogError, "no catalog at"),
        (["catalog", "vacuum", "--catalog", "nowhere"], CatalogError, "no catalog at"),
    ],
)
def test_mistakes_are_one_clear_error_and_make_nothing(uri, arguments, kind, message):
    with pytest.raises(kind, match=message):
        run(*arguments)
    assert sorted(path.name for path in Path().iterdir()) == ["catalog", "split.json"]


def test_remove_says_what_would_go_and_what_went(uri):
    record_run(uri, run_row("run-1"))
    record_run(uri, run_row("run-1", 1))
    run("release", "create", "wbc")
    told = run("catalog", "remove", "run-1")
    assert "would leave the newest version" in told
    assert "keeps them: wbc@1.0.0" in told
    assert "left with version" in run("catalog", "remove", "run-1", "--confirm")
    assert Catalog(uri).samples().count_rows() == 0
    assert "holds" in run("release", "verify", "wbc")


def test_optimize_and_vacuum_say_what_they_did(uri):
    run("release", "create", "wbc", "--where", "batch_index = 0")
    publish(uri, [2])
    assert run("catalog", "optimize") == "version 3: 1 files, 3 before\n"
    assert run("catalog", "vacuum").endswith("kept whole: wbc@1.0.0\n")
    listed = run("catalog", "vacuum", "--retain-days", "0")
    assert "batch-00000002" in listed
    assert "1 files would be deleted" in listed
    assert "1 files deleted" in run("catalog", "vacuum", "--retain-days", "0", "--delete")
    assert run("catalog", "vacuum", "--retain-days", "0").startswith("0 files")
    assert "holds" in run("release", "verify", "wbc")
