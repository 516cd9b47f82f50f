"""The output folder of a training: one training at a time in it, and stages used only as made.

A finished stage (latents, autoencoder, base, pixels) is found again by its name, which says what it
was made of, and its SHA-256 sums, which say what it is: one that was changed since is refused, not
trained on. `sha256sum --check` reads the sums as well.
"""

import fcntl
import hashlib
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from factory.atomic import new_folder, write_text, writing
from factory.errors import ConfigError, ModelError, OutputError
from factory.tree import files_below

SUMS = "SHA256SUMS"
"""Sums of a folder, in it; those of a lone file stand in `<file>.sha256` beside it."""
PLAN, LOCK = "plan.json", ".training"


@contextmanager
def new_stage(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes the finished stage `folder`, sealed."""
    with new_folder(folder) as work:
        yield work
        seal(work)


def seal(stage: Path) -> None:
    """Write the sums of a finished stage, a folder or a file."""
    names = _names(stage)
    sums = "".join(f"{_sha256(path)}  {name}\n" for name, path in names.items())
    write_text(_sums_of(stage), sums)


def check_seal(stage: Path) -> None:
    """Raise unless a stage is, to the byte, what was sealed; one without sums is of an older code.

    Raises:
        ModelError: naming the file that was changed or lost.
    """
    path = _sums_of(stage)
    if not path.exists():
        return
    pairs = (line.partition("  ") for line in path.read_text(errors="replace").splitlines())
    sealed = {name: sha256 for sha256, _, name in pairs}
    found = _names(stage)
    for name, sha256 in sealed.items():  # what was added since is nobody's result
        if name not in found or _sha256(found[name]) != sha256:
            what = "was changed" if name in found else "is gone"
            raise ModelError(
                f"{found.get(name, stage / name)} {what} after it was finished",
                remedy=f"Delete {stage} and give the command again: it is made anew",
            )


@contextmanager
def claimed(output: Path, method: str) -> Iterator[None]:
    """Keep `output` for one training of `method` while it runs; a killed one lets go of it.

    Raises:
        ConfigError: `output` holds a training of another method.
        OutputError: another training is writing into it, or nothing can be written there.
    """
    with writing(output):
        output.mkdir(parents=True, exist_ok=True)
        lock = (output / LOCK).open("a+")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise OutputError(
                f"another training writes into {output} ({lock.read().strip()})",
                remedy="Wait until it has ended, or choose another --output",
            ) from error
        except OSError:  # a file system without locks: nothing can be said
            pass
        _check_method(output, method)
        lock.truncate(0)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        lock.write(f"process {os.getpid()} on {socket.gethostname()}, since {now}\n")
        lock.flush()
        yield


def _check_method(output: Path, method: str) -> None:
    stored: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        stored = json.loads((output / PLAN).read_text())
    known = stored.get("method") or stored.get("config", {}).get("method", method)
    if known != method:
        raise ConfigError(
            f"{output} holds a training of method {known!r}, this one is {method!r}",
            remedy="Choose another --output",
        )


def _sums_of(stage: Path) -> Path:
    return stage / SUMS if stage.is_dir() else stage.with_name(f"{stage.name}.sha256")


def _names(stage: Path) -> dict[str, Path]:
    if not stage.is_dir():
        return {stage.name: stage}
    files = {str(path.relative_to(stage)): path for path in files_below(stage)}
    return {name: path for name, path in sorted(files.items()) if name != SUMS}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
