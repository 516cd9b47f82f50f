"""The file of a bank of training images, read without torch: is it there, and of which split."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factory.errors import ConfigError, ModelError

BANK_FILE = "bank.safetensors"
"""Of a bank's folder: vectors of training images, with thresholds and ids in its header."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resemblance:
    """How near an image comes to the nearest training image."""

    ratio: float
    """Its distance, in shares of the one below which 1 % of unseen real images lie: the least of
    all spaces."""
    space: str
    """Where that is."""
    image_id: str
    """Of the training image."""


def check_bank(folder: str | Path, split_digest: str | None) -> None:
    """Raise unless there is a bank, of the split that a generator learnt from (None: not known).

    Raises:
        ModelError: missing or damaged.
        ConfigError: of another split.
    """
    with opened_bank(Path(folder).expanduser()) as file:
        known = json.loads(file.metadata()["facts"])["split_digest"]
    if split_digest is not None and known != split_digest:
        raise ConfigError(
            f"copies.bank {str(folder)!r} is of split {known}, the generator learnt from split"
            f" {split_digest}",
            remedy="Make the bank with the split and the images of the generator's training",
        )


@contextmanager
def opened_bank(path: Path) -> Iterator[Any]:
    """Yield the file of the bank at `path`.

    Raises:
        ModelError: missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path / BANK_FILE, framework="np") as file:
            yield file
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"no bank of training images at {str(path)!r} ({error})",
            remedy="Make one with `factory prepare bank`, or leave the copy gate out",
        ) from error
