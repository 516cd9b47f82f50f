"""Which code drew an image: its commit, also where a job has a copy without `.git`."""

import shutil
import subprocess
from pathlib import Path

import pytest

from cluster.local import runtime_env as packed_here
from factory import __version__
from factory.code_version import VARIABLE, version_of
from factory.submit.package import runtime_env
from factory.submit.secret import Watch


def git(folder: Path, *arguments: str, said: str | None = None) -> str:
    told = ["-c", "user.name=a", "-c", "user.email=a@b.example", *arguments]
    done = subprocess.run(
        ["git", *told], cwd=folder, check=True, capture_output=True, text=True, input=said
    )
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A small project of the factory's shape, committed."""
    folder = tmp_path / "project"
    for name in ("factory", "factory/presets", "factory.old", "catalog", "catalog/a"):
        (folder / name).mkdir(parents=True)
    for name in ("factory/__init__.py", "catalog/__init__.py", "catalog/a/b.py", "catalog/a.py"):
        (folder / name).write_text(f"# {name}\n")
    (folder / "factory" / "presets" / "x.yaml").write_text("a: 1\n")
    (folder / "catalog" / "a-b.bin").write_bytes(bytes(range(256)))
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "first")
    return folder


def test_a_checkout_names_its_commit_and_whether_it_was_changed(checkout: Path) -> None:
    commit = git(checkout, "rev-parse", "--short=8", "HEAD")
    assert version_of(checkout, {VARIABLE: "old"}) == f"{__version__}+g{commit}"
    (checkout / "factory" / "__init__.py").write_text("changed\n")
    assert version_of(checkout, {}) == f"{__version__}+g{commit}.dirty"


@pytest.mark.parametrize("how", ["submit", "local"])
def test_the_commit_travels_with_what_is_packed(checkout: Path, how: str, tmp_path: Path) -> None:
    commit = git(checkout, "rev-parse", "--short=8", "HEAD")
    packed = packed_here(checkout) if how == "local" else runtime_env(
        checkout, watch=Watch.over({}), environ={}
    )  # fmt: skip
    copy = Path(shutil.copytree(checkout, tmp_path / "node", ignore=lambda *_: {".git"}))
    assert version_of(copy, packed["env_vars"]) == f"{__version__}+g{commit}"


def test_a_folder_without_the_factory_says_nothing_of_its_code(tmp_path: Path) -> None:
    assert VARIABLE not in runtime_env(tmp_path, watch=Watch.over({}), environ={})["env_vars"]
    assert VARIABLE not in packed_here(tmp_path)["env_vars"]


@pytest.mark.parametrize("told", ["", "0.1.0\n\x1b[31m", "x" * 65])
def test_a_copy_of_which_nothing_is_told_names_itself_as_git_does(
    checkout: Path, told: str, tmp_path: Path
) -> None:
    listed = git(checkout, "ls-tree", "HEAD", "catalog", "factory")
    tree = git(checkout, "mktree", said=f"{listed}\n")
    copy = Path(shutil.copytree(checkout, tmp_path / "node", ignore=lambda *_: {".git"}))
    (copy / "factory" / "gone" / "__pycache__").mkdir(parents=True)
    (copy / "factory" / "gone" / "__pycache__" / "x.pyc").write_bytes(b"1")
    (copy / "catalog" / "empty").mkdir()
    assert version_of(copy, {VARIABLE: told}) == f"{__version__}+tree.{tree[:8]}"
    (copy / "catalog" / "a.py").write_text("other\n")
    assert version_of(copy, {}) != f"{__version__}+tree.{tree[:8]}"
