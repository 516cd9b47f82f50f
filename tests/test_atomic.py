"""Files and folders appear whole or not at all, with the rights a user expects."""

import os
from pathlib import Path

import pytest

from factory.atomic import new_folder, write_text, writing
from factory.errors import DataError, OutputError


def test_a_written_file_replaces_the_old_one_and_leaves_nothing_beside(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "old")
    write_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "new"
    assert os.listdir(tmp_path) == ["a"]


def test_rights_follow_the_umask(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "x")
    (tmp_path / "b").write_text("x")
    with new_folder(tmp_path / "c"):
        pass
    (tmp_path / "d").mkdir()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode
    assert (tmp_path / "c").stat().st_mode == (tmp_path / "d").stat().st_mode


def test_a_folder_that_fails_half_way_leaves_the_old_one(tmp_path: Path) -> None:
    with new_folder(tmp_path / "m") as work:
        (work / "x").write_text("old")

    def fail() -> None:
        with new_folder(tmp_path / "m") as work:
            (work / "x").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (tmp_path / "m" / "x").read_text() == "old"
    assert os.listdir(tmp_path) == ["m"]


def test_who_may_read_the_folder_may_read_its_files(tmp_path: Path) -> None:
    with new_folder(tmp_path / "m") as work:
        (work / "weights").write_bytes(b"x")
        (work / "weights").chmod(0o600)
    folder, file = (
        path.stat().st_mode & 0o777 for path in (tmp_path / "m", tmp_path / "m/weights")
    )
    assert file == folder & 0o666


@pytest.mark.parametrize("place", [".", "/", "file/x", "folder"])
def test_a_place_that_takes_no_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    Path("folder").mkdir()
    with pytest.raises(OutputError, match=f"'{place}' cannot be written"), writing(Path(place)):
        write_text(Path(place), "x")
    assert sorted(os.listdir()) == ["file", "folder"]


@pytest.mark.parametrize(
    ("what", "remedy", "line"),
    [
        ("gone", "Give it", "gone. Give it."),
        ("gone. ", "Give it.", "gone. Give it."),
        ("other than 0, 1, ...", "Give 0, 1, ...", "other than 0, 1, ... Give 0, 1, ..."),
    ],
)
def test_an_error_reads_as_two_sentences(what: str, remedy: str, line: str) -> None:
    assert str(DataError(what, remedy=remedy)) == line
