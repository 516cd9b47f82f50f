"""File names that lead nowhere else, folders in which nothing is lost, nothing half-written."""

import csv
import errno
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.boundary import file_names
from catalog.export import layout
from catalog.export.formats import FORMATS
from catalog.export.write import export
from factory.errors import CatalogError, OutputError
from tests.catalog.export.conftest import published, row_of

HOSTILE = (
    *("../up", "/etc/passwd", "a/b", "a\\b", "nul\0byte", "..", ".", "", " ", ".hidden", "-rf"),
    *("CON", "nul", "COM1", "Cell", "cell", "CELL", "x" * 300, "x" * 301, "é" * 200, "a:b", "a."),
    *("a ", "test", "my val set", "images", "~", "$(reboot)", "a\nb", "C:\\x", "aux.png", "日本"),
)


def check(names):
    made = list(names.values())
    assert len({name.casefold() for name in made}) == len(names)
    for name in made:
        assert 0 < len(name.encode()) <= 100
        assert os.path.basename(name) == name
        assert not set(name) & set('/\\:*?"<>|.$\0\n')
        assert name[0] not in "-~ "
        assert name[-1] != " "
        assert name.split("~")[0].lower() not in {"con", "nul", "aux", "com1", "test", "train"}


def test_hostile_names_become_safe_ones_of_their_own():
    names = file_names(HOSTILE)
    check(names)
    assert file_names([*HOSTILE, "more"])["../up"] == names["../up"]


@given(st.sets(st.text(max_size=80), max_size=12))
def test_any_names_become_safe_ones_of_their_own(texts):
    check(file_names(texts))


def test_plain_names_stay():
    plain = ["monocyte", "Band (early)", "0ed3925ca40871c2", "a_b-c", "HSIL+"]
    assert file_names(plain) == {name: name for name in plain}


@pytest.mark.parametrize("form", list(FORMATS))
def test_hostile_ids_and_classes_stay_inside_and_are_told_in_the_manifest(tmp_path, form):
    texts = [text for text in HOSTILE if text]
    rows = [
        row_of(i, names=tuple(texts), image_id=text, values=(1,)) for i, text in enumerate(texts)
    ]
    selection = published(tmp_path / "c", rows)
    export(selection, tmp_path / "deep" / "out", form)
    assert {path.name for path in tmp_path.iterdir()} == {"c", "deep"}
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]
    with (tmp_path / "deep" / "out" / "manifest.csv").open(newline="", encoding="utf-8") as file:
        told = list(csv.DictReader(file))
    bare = {row["image_id"].removeprefix("'") for row in told}
    assert bare == set(texts)
    assert {row["class_name"].removeprefix("'") for row in told} == set(texts)
    if form in ("csv", "imagefolder", "coco", "yolo"):
        files = {row["file"] for row in told}
        assert len(files) == len(texts)
        assert all((tmp_path / "deep" / "out" / name).is_file() for name in files)


def test_the_same_export_is_replaced_and_anything_else_is_left_alone(tmp_path, masked):
    out = tmp_path / "out"
    out.mkdir()
    export(masked, out, "csv")
    (out / "README.md").write_text("changed")
    export(masked, out, "csv")
    assert "not real patients" in (out / "README.md").read_text()
    with pytest.raises(OutputError, match="holds another export"):
        export(masked, out, "coco")
    (out / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"notes.txt' is not of this export"):
        export(masked, out, "csv")
    assert (out / "notes.txt").read_text() == "mine"


def test_folders_of_others_files_and_links_are_refused(tmp_path, masked):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("mine")
    with pytest.raises(OutputError, match="holds files that are no export"):
        export(masked, tmp_path / "full", "csv")
    with pytest.raises(OutputError, match="is a file"):
        export(masked, tmp_path / "full" / "x", "csv")
    (tmp_path / "link").symlink_to(tmp_path / "full")
    with pytest.raises(OutputError, match="is a symbolic link"):
        export(masked, tmp_path / "link", "csv")
    assert (tmp_path / "full" / "x").read_text() == "mine"


def test_a_link_inside_an_export_is_refused(tmp_path, masked):
    out = tmp_path / "out"
    export(masked, out, "csv")
    (tmp_path / "victim").write_text("mine")
    (out / "README.md").unlink()
    (out / "README.md").symlink_to(tmp_path / "victim")
    with pytest.raises(OutputError, match=r"README.md' is not of this export"):
        export(masked, out, "csv")
    assert (tmp_path / "victim").read_text() == "mine"


def test_a_full_disk_leaves_what_was_there_and_nothing_beside(tmp_path, masked, monkeypatch):
    out = tmp_path / "out"
    export(masked, out, "csv")
    before = sorted(path.name for path in out.rglob("*"))
    whole, written = layout.put, []

    def full(folder, name, data):
        written.append(name)
        if len(written) > 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return whole(folder, name, data)

    monkeypatch.setattr(layout, "put", full)
    with pytest.raises(OutputError, match="No space left"):
        export(masked, out, "csv")
    assert sorted(path.name for path in out.rglob("*")) == before
    assert {path.name for path in tmp_path.iterdir()} == {"catalog", "out"}


def test_an_unknown_format_is_named(tmp_path, masked):
    with pytest.raises(CatalogError, match="no format 'zip'"):
        export(masked, tmp_path / "out", "zip")
