"""What travels with a job: the project's folder without data and secrets, and named variables."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from factory.code_version import VARIABLE, holds_factory, version_of
from factory.command_line import PROGRAM, program
from factory.errors import ClusterError
from factory.submit.secret import Watch

EXCLUDES = (
    *("/.git", "/.venv", "/venv", "/.ci", "__pycache__", "*.egg-info", "/build", "/dist"),
    *("/data", "/runs", "/tests", "*-catalog", "*.parquet"),
    *(".env", ".env.*", "*.pem", "*.key", "*.p12", "id_rsa*", "id_ed25519*", ".netrc"),
    *(".aws", ".ssh", ".kube", ".gcloud", "*credentials*.json", "*service-account*.json"),
)
"""What never travels, in the manner of .gitignore, which is heeded beside it."""
PASSED_ON = ("FACTORY_LOG_FORMAT", "FACTORY_PRICE_PER_HOUR", "OPENLINEAGE_URL")
"""Variables that travel without being named: they say how a run reports."""
DEPTH = 3
"""Folders below the project in which catalogs are looked for."""


def runtime_env(
    folder: Path,
    *,
    watch: Watch,
    environ: Mapping[str, str],
    env: Sequence[str] = (),
    pip: Path | None = None,
    excludes: Sequence[str] = (),
) -> dict[str, Any]:
    """Return Ray's `runtime_env` of a job.

    Args:
        folder: the project; it becomes the job's working folder on every node.
        watch: knows this machine's secrets.
        environ: this process's environment, of which only named variables travel.
        env: 'NAME' (its value here) or 'NAME=VALUE'.
        pip: a requirements file that every node installs before the job starts.
        excludes: further patterns of what stays here.

    Raises:
        ClusterError: no such folder or file, a variable without a value, or a secret.
    """
    if not folder.is_dir():
        raise ClusterError(f"{str(folder)!r} is no folder", remedy="Give the project's folder")
    chosen = {"PYTHONUNBUFFERED": "1", PROGRAM: program()}
    if holds_factory(folder):  # its .git stays here
        chosen[VARIABLE] = version_of(folder.resolve(), environ)
    chosen |= {name: environ[name] for name in PASSED_ON if environ.get(name)}
    chosen |= dict(_pair(text, environ) for text in env)
    for name, value in chosen.items():
        watch.check_pair(name, value, where="the variable")
    catalogs = [f"/{path.relative_to(folder).as_posix()}" for path in find_catalogs(folder)]
    packed: dict[str, Any] = {
        "working_dir": str(folder.resolve()),
        "excludes": [*EXCLUDES, *catalogs, *excludes],
        "env_vars": chosen,
    }
    return packed if pip is None else packed | {"pip": requirements(pip, watch)}


def requirements(path: Path, watch: Watch) -> list[str]:
    """Return the lines of a requirements file.

    Raises:
        ClusterError: not readable, or an index with a password in it.
    """
    try:
        lines = [line.split(" #")[0].strip() for line in path.read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ClusterError(
            f"{str(path)!r} cannot be read ({error})", remedy="Give a requirements file"
        ) from error
    kept = [line for line in lines if line and not line.startswith("#")]
    watch.check_words(kept, where=f"a line of {str(path)!r}")
    return kept


def find_catalogs(folder: Path) -> Iterator[Path]:
    """Yield the catalogs in a project, whatever they are called: their images stay where they are.

    Neither hidden folders nor links are followed.
    """
    stack = [(folder, 0)]
    while stack:
        place, depth = stack.pop()
        if (place / "samples" / "_delta_log").is_dir():
            if place == folder:
                raise ClusterError(
                    f"{str(folder)!r} is a catalog", remedy="Give the project's folder instead"
                )
            yield place
        elif depth < DEPTH:
            inner = (p for p in place.iterdir() if not p.name.startswith("."))
            stack += [(p, depth + 1) for p in sorted(inner) if p.is_dir() and not p.is_symlink()]


def _pair(text: str, environ: Mapping[str, str]) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or (not equals and name not in environ):
        raise ClusterError(
            f"--env {name!r} has no value here", remedy="Write --env NAME=VALUE, or set it first"
        )
    return name, value if equals else environ[name]
