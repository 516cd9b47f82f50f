"""Which code ran: the package version, and the commit where the code lies in a git checkout."""

import subprocess
from functools import cache
from pathlib import Path

import factory


@cache
def code_version() -> str:
    """Return e.g. '0.1.0+g1a2b3c4d', with '.dirty' for uncommitted changes; no git, no suffix."""
    root = Path(factory.__file__).parent.parent
    if not (root / ".git").exists():
        return factory.__version__
    try:
        commit = _git(root, "rev-parse", "--short=8", "HEAD")
        dirty = ".dirty" if _git(root, "status", "--porcelain", "--", "factory", "catalog") else ""
    except (OSError, subprocess.CalledProcessError):
        return factory.__version__
    return f"{factory.__version__}+g{commit}{dirty}"


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=root, capture_output=True, text=True, check=True, timeout=10
    )
    return done.stdout.strip()
