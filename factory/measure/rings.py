"""Ring spectra: by them a picture is known again, however turned, and none can be drawn from them.

A picture lies on rings around its middle. Of every ring the strengths of its first waves are kept,
not where they begin: turns and flips change nothing, and without the phases there is no picture.
A bank of them (`RingBank`) goes where the generator goes, 240 bytes for each image it learnt from.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from factory.arrays import Features, Images
from factory.digest import digest
from factory.errors import DataError, ModelError
from factory.measure.bank_file import Resemblance
from factory.measure.copies import PERCENTILE, THUMBNAIL_PX, thumbnails

RINGS, ANGLES, WAVES = 16, 32, 5
"""Rings a pixel of the thumbnail apart, points on each, waves kept of each: none at all, then one
to four around the ring."""
LEAST_IMAGES = 100
"""Fewer say nothing about the 1 % that come nearest."""
_BLOCK = 1024
_UNIT = 1 / 64
"""What one step of a stored code means."""


def ring_spectra(images: Images) -> Features:
    """Return what is kept of images (N, H, W, 3): (N, 240), equal under flips and quarter turns.

    Of optical density, so that stain counts and the lamp does not: a factor on a channel changes
    its mean alone, which is taken away. Rings count by their length, waves more the shorter they
    are: large ones say how large a cell is, and that many are.
    """
    channels_first = thumbnails(images).reshape(-1, 3, THUMBNAIL_PX**2)
    light = channels_first * np.float32(np.sqrt(channels_first[0].size))
    density = -np.log(np.maximum(light, 1 / 255))
    density -= density.mean(axis=2, keepdims=True)
    rings = (density @ _ON_RINGS).reshape(-1, 3, RINGS, ANGLES)
    waves = np.fft.rfft(rings, axis=3)[..., :WAVES]
    strengths = np.abs(waves)
    strengths[..., 0] = waves[..., 0].real  # the ring's mean, which may lie below the picture's
    found = strengths * np.sqrt(_RADII)[:, None] * np.sqrt(1 + np.arange(WAVES))
    found /= ANGLES * np.sqrt(RINGS)
    return np.asarray(found.reshape(len(images), -1), np.float32)


class RingSpace:
    """The feature space that needs no weights: ring spectra, in the steps that a bank keeps.

    It tells shapes and stain, however an image is turned, and knows nothing of what they mean.
    """

    name: ClassVar[str] = "rings"
    digest: ClassVar[str] = digest(["rings", RINGS, ANGLES, WAVES, THUMBNAIL_PX, _UNIT])

    def extract(self, images: Images) -> Features:
        """Return features (N, 240) of RGB images (N, H, W, 3)."""
        return _codes(ring_spectra(images)) * np.float32(_UNIT)


@dataclass(frozen=True, kw_only=True)
class RingBank:
    """Ring spectra of training images, in no order; call it with drawn images (B, H, W, 3)."""

    codes: NDArray[np.int8]
    """(M, 240)."""
    threshold: float
    """Below it lie 1 % of the distances of a training image to the nearest other one."""
    split_digest: str
    """Of the split whose train part these images are."""

    @classmethod
    def of(cls, chunks: Iterable[Images], split_digest: str) -> "RingBank":
        """Return the bank of images, given in chunks (N, H, W, 3).

        How near is near, the images tell of each other: none is held out for it, and a threshold
        that unseen images set is theirs as well.

        Raises:
            DataError: fewer than 100 images, or so many copies among them that nothing is near.
        """
        codes = np.concatenate([_codes(ring_spectra(chunk)) for chunk in chunks])
        if len(codes) < LEAST_IMAGES:
            raise DataError(
                f"{len(codes)} images do not tell how near two of them come",
                remedy=f"Learn from {LEAST_IMAGES} or more, or make a bank with `factory bank`",
            )
        apart = np.concatenate(
            [
                _nearest(codes[start : start + _BLOCK], codes, but=start)
                for start in range(0, len(codes), _BLOCK)
            ]
        )
        threshold = float(np.percentile(apart, PERCENTILE))
        if threshold == 0:
            raise DataError(
                f"{PERCENTILE:g} % or more of the images equal another one",
                remedy="Remove copies: `factory real describe` names them",
            )
        order = np.lexsort(codes.T)  # as they lay, they would tell which is which
        return cls(codes=codes[order], threshold=threshold, split_digest=split_digest)

    def __call__(self, images: Images) -> list[Resemblance]:
        """Return how near every image comes to a training image, under any flip or turn."""
        near = _nearest(_codes(ring_spectra(images)), self.codes)
        return [
            Resemblance(ratio=float(ratio), space="rings", image_id="a training image")
            for ratio in near / self.threshold
        ]

    def to_bytes(self) -> bytes:
        """Return the content of `copies.parquet`."""
        facts = {"threshold": self.threshold, "split_digest": self.split_digest}
        width = self.codes.shape[1]
        rows = np.ascontiguousarray(self.codes).view(f"V{width}")[:, 0]
        table = pa.table({_COLUMN: pa.array([bytes(row) for row in rows], pa.binary(width))})
        sink = pa.BufferOutputStream()
        kept = table.replace_schema_metadata({"facts": json.dumps(facts)})
        pq.write_table(kept, sink, compression="zstd", use_dictionary=False)
        return bytes(sink.getvalue().to_pybytes())

    @classmethod
    def load(cls, path: Path) -> "RingBank":
        """Return what `to_bytes` gave, from its file.

        Raises:
            ModelError: missing or damaged.
        """
        try:
            table = pq.read_table(path)
            facts = json.loads(table.schema.metadata[b"facts"])
            codes = np.array([list(row) for row in table[_COLUMN].to_pylist()], np.uint8)
            return cls(codes=codes.view(np.int8), **facts)
        except (OSError, ValueError, TypeError, KeyError, pa.ArrowException) as error:
            raise ModelError(
                f"{path} holds no marks of training images ({error})",
                remedy="Restore the generator's folder, or leave the gate out: --set copies=null",
            ) from error


def _codes(spectra: Features) -> NDArray[np.int8]:
    return np.asarray(np.clip(np.rint(spectra / _UNIT), -127, 127), np.int8)


def _nearest(
    queries: NDArray[np.int8], stored: NDArray[np.int8], *, but: int | None = None
) -> NDArray[np.float64]:
    """Return the distance (N,) of each query to the nearest stored code.

    `but`: the queries are stored themselves, from this row on, and none counts for itself. Whole
    numbers below 2^24, so float32 is exact.
    """
    asked, known = queries.astype(np.float32), stored.astype(np.float32)
    squares = np.einsum("md,md->m", known, known) - 2 * (asked @ known.T)
    squares += np.einsum("nd,nd->n", asked, asked)[:, None]
    if but is not None:
        squares[np.arange(len(asked)), but + np.arange(len(asked))] = np.inf
    return np.asarray(np.sqrt(np.maximum(squares.min(axis=1), 0)), np.float64)


def _on_rings() -> Features:
    """Return the matrix (1024, RINGS * ANGLES) that reads a thumbnail on its rings, bilinearly."""
    middle = (THUMBNAIL_PX - 1) / 2
    angles = 2 * np.pi * (np.arange(ANGLES) + 0.5) / ANGLES
    down = middle + _RADII[:, None] * np.sin(angles)
    right = middle + _RADII[:, None] * np.cos(angles)
    pixels = np.arange(THUMBNAIL_PX)
    rows, columns = (
        np.maximum(0, 1 - np.abs(place.reshape(-1, 1) - pixels)) for place in (down, right)
    )
    weights = np.einsum("pr,pc->rcp", rows, columns)
    return np.ascontiguousarray(weights.reshape(THUMBNAIL_PX**2, -1), np.float32)


_COLUMN = "mark"
_RADII = np.arange(RINGS) + 0.5
_ON_RINGS = _on_rings()
