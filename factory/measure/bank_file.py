"""What a bank of training images says without torch: whose it is, and how bright its images are."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.errors import ConfigError, ModelError
from factory.models.generator import RINGS_FILE

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of red, green and blue in luminance (ITU-R BT.601)."""
BRIGHTNESS = "brightness"
"""Of a bank's facts: class -> mean and standard deviation over its real images."""
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

    One that lies in a generator's folder came with it.

    Raises:
        ModelError: missing or damaged.
        ConfigError: of another split.
    """
    path = Path(folder).expanduser()
    if (path / RINGS_FILE).is_file():
        return  # it came with the generator
    with opened_bank(path) as file:
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
            remedy="Make one with `factory bank`, or leave the copy gate out",
        ) from error


def brightness(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the mean luminance (B,), 0..1, of images (B, H, W, 3)."""
    found: NDArray[np.float32] = (images.mean(axis=(1, 2)) @ LUMA / 255).astype(np.float32)
    return found


def brightness_by_class(
    images: NDArray[np.uint8], labels: Sequence[str]
) -> dict[str, tuple[float, float]]:
    """Return mean and standard deviation of the brightness of the images of each class."""
    scores, own = brightness(images), np.array(labels)
    return {
        name: (float(scores[own == name].mean()), float(scores[own == name].std()))
        for name in sorted(set(labels))
    }


def read_brightness(folder: str | Path) -> dict[str, tuple[float, float]]:
    """Return what a bank knows of the brightness of real images, by class.

    Raises:
        ModelError: no bank, or one of before brightness was measured.
    """
    with opened_bank(Path(folder).expanduser()) as file:
        facts = json.loads(file.metadata()["facts"])
    if BRIGHTNESS not in facts:
        raise ModelError(
            f"the bank at {str(folder)!r} knows nothing of brightness", remedy="Make it again"
        )
    return {name: (float(mean), float(sd)) for name, (mean, sd) in facts[BRIGHTNESS].items()}
