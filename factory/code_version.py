"""Which code ran: the package version and its commit, or where no git is, what git calls its files.

A job's nodes have the code without its `.git`: whoever packs it sends `VARIABLE` along. Where
nobody did (a bare `ray job submit`, an installed package), the files name themselves: `git ls-tree
COMMIT catalog factory | git mktree` gives the same name for the commit that they are of.
"""

import hashlib
import os
import re
import subprocess
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

import factory

VARIABLE = "FACTORY_CODE_VERSION"
"""Of a job: the version that was packed."""
PACKAGES = ("catalog", "factory")
NOTHING = bytes.fromhex("4b825dc642cb6eb9a060e54bf8d69288fbee4904")
"""Git's name of an empty folder."""


@cache
def code_version() -> str:
    """Return e.g. '0.1.0+g1a2b3c4d', with '.dirty' for uncommitted changes.

    Without git: what the job was packed with, or '0.1.0+tree.1a2b3c4d'.
    """
    return version_of(Path(factory.__file__).parent.parent, os.environ)


def version_of(root: Path, environ: Mapping[str, str]) -> str:
    """Return the version of the code in the folder `root`, a checkout or a copy of one."""
    if (root / ".git").exists():
        try:
            commit = _git(root, "rev-parse", "--short=8", "HEAD")
            dirty = ".dirty" if _git(root, "status", "--porcelain", "--", *PACKAGES) else ""
            return f"{factory.__version__}+g{commit}{dirty}"
        except (OSError, subprocess.SubprocessError):  # no git here
            pass
    told = environ.get(VARIABLE, "")
    if re.fullmatch(r"[0-9A-Za-z.+-]{1,64}", told):
        return told
    return f"{factory.__version__}+tree.{_tree([root / name for name in PACKAGES]).hex()[:8]}"


def holds_factory(root: Path) -> bool:
    """Return whether the folder has the factory's own code, which a job in it then runs."""
    return all((root / name / "__init__.py").is_file() for name in PACKAGES)


def _tree(paths: Iterable[Path]) -> bytes:
    """Return git's name (20 bytes) of a folder of these paths; caches and empty folders are none.

    Files count as not executable, which none of these packages is.
    """
    lines = {}
    for path in paths:
        if path.is_dir():
            inner = _tree(path.iterdir())
            if path.name != "__pycache__" and inner != NOTHING:
                lines[f"{path.name}/"] = b"40000 %s\0" % path.name.encode() + inner
        elif path.suffix != ".pyc":
            blob = _named("blob", path.read_bytes())
            lines[path.name] = b"100644 %s\0" % path.name.encode() + blob
    return _named("tree", b"".join(lines[name] for name in sorted(lines)))


def _named(kind: str, content: bytes) -> bytes:
    head = f"{kind} {len(content)}\0".encode()
    return hashlib.sha1(head + content, usedforsecurity=False).digest()


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=root, capture_output=True, text=True, check=True, timeout=10
    )
    return done.stdout.strip()
