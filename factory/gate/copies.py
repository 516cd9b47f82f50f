"""The copy gate: no drawn image nearer to a training image than unseen real images are."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from factory.errors import ConfigError, ModelError
from factory.gate.verdict import Verdict

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


Compare = Callable[[NDArray[np.uint8]], Sequence[Resemblance]]
"""Images (B, H, W, 3) RGB to what they resemble most."""


class CopyGate(BaseModel):
    """Which bank of training images is looked up, and the least ratio; null: scores only."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    bank: str = Field(min_length=1)
    """Folder, see `factory.evaluate.copy_bank`."""
    min_ratio: Annotated[float, Field(ge=0)] | None = 1.0

    def judge(self, images: NDArray[np.uint8], compare: Compare) -> list[Verdict]:
        """Return the verdict of the gate 'copy' on every image (B, H, W, 3)."""
        return [self._verdict(found) for found in compare(images)]

    def _verdict(self, found: Resemblance) -> Verdict:
        near = self.min_ratio is not None and found.ratio < self.min_ratio
        reason = (
            f"{found.ratio:.2f} of the distance that unseen real images keep in {found.space},"
            f" to {found.image_id}"
            if near
            else ""
        )
        return Verdict(gate="copy", score=found.ratio, reason=reason)


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
