"""Pictures that look alike, however turned: near-duplicates of a set, and digests of what was seen.

A perceptual hash proposes pairs, a thumbnail confirms them. Training shows a picture under all
eight turns, so a flipped or turned copy is the same picture here. `Digests` find a picture again
where only digests of others may be kept: inside a generator that was trained on them.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from factory.atomic import write_bytes
from factory.errors import ModelError

if TYPE_CHECKING:
    from factory.real.dataset import RealDataset

TURNS = 8
"""Flips and quarter turns of a square: what a training with `turns` shows of every picture."""
HASH_DISTANCE_BITS = 10
"""Pairs further apart than this in Hamming distance are never compared further."""
THUMBNAIL_PX = 16
THUMBNAIL_ERROR = 0.28
"""Difference of two RGB thumbnails over their contrast (both root mean square) up to which a pair
is one picture.

Relative to contrast, since small objects on an even ground make all thumbnails alike. Looked at in
pairs of real sets: one white cell in two crops 0.11 .. 0.27, other cells from 0.29 on; adjacent
frames of one endoscopy 0.05 .. 0.3 (none of other sequences below 0.27); in PBC two pairs of 16,755
images, at 0.11 and 0.24. A pair joined wrongly costs a little freedom of the split, a missed one a
leak.
"""
TURNED_ERROR = 0.2
"""The same where one of the two is turned: seven more chances to be alike by accident.

Copies of colorectal tiles that hospitals published flipped: 0.000 and 0.006. Two monocytes of one
slide, each a round cell with a notch, are at 0.26 when turned: other cells. In PBC nothing is below
0.29."""
DIGEST_BITS = 192
DIGEST_SHARE = 0.8
"""A digest describes this share of the side of the central square: narrower crops of a picture hold
it as well."""
DIGEST_DISTANCE_BITS = 28
"""Digests up to this Hamming distance are of one picture, see `Digests`."""
_QUERY_SHARES = tuple(DIGEST_SHARE ** (k / 4) for k in range(12))
"""Central shares under which a picture is looked for: 1 .. 0.54, of a wider or narrower field."""
_FLAT = 1 / 255
"""Least contrast assumed: below one grey level a picture is blank, and blanks are alike."""


@dataclass(frozen=True, kw_only=True)
class Looks:
    """What pictures look like: hashes (N, 8) uint64 under all turns, thumbnails (N, 16, 16, 3)."""

    names: tuple[str, ...]
    hashes: NDArray[np.uint64]
    thumbnails: NDArray[np.uint8]

    @classmethod
    def of(cls, pictures: Iterable[tuple[str, Image.Image]]) -> "Looks":
        """Return the looks of named pictures."""
        seen = [(name, turned_hashes(p), thumbnail(p)) for name, p in pictures]
        return cls(
            names=tuple(name for name, _, _ in seen),
            hashes=np.array([own for _, own, _ in seen], np.uint64).reshape(-1, TURNS),
            thumbnails=np.array([own for _, _, own in seen], np.uint8).reshape(
                -1, THUMBNAIL_PX, THUMBNAIL_PX, 3
            ),
        )

    def select(self, rows: Sequence[int]) -> "Looks":
        """Return the looks of the pictures at `rows`."""
        chosen = np.array(rows, np.int64)
        return Looks(
            names=tuple(self.names[row] for row in rows),
            hashes=self.hashes[chosen],
            thumbnails=self.thumbnails[chosen],
        )

    def pairs(self) -> list[tuple[int, int]]:
        """Return index pairs (i < j) that show the same picture.

        Quadratic in N (16,755 pictures: half a minute); memory stays at one row of distances.
        """
        return [(i, j) for i in range(len(self.names) - 1) for j in self._like(i, self, i + 1)]

    def near(self, others: "Looks") -> Iterator[tuple[str, str]]:
        """Yield (own name, other's name) of pictures that are the same."""
        for i, name in enumerate(self.names):
            yield from ((name, others.names[j]) for j in self._like(i, others, 0))

    def _like(self, i: int, others: "Looks", first: int) -> list[int]:
        """Return which of `others`, from `first` on, show the picture `i` under some turn."""
        apart = np.bitwise_count(others.hashes[None, first:, 0] ^ self.hashes[i, :, None])
        turns, rows = np.nonzero(apart <= HASH_DISTANCE_BITS)
        found: set[int] = set()
        for turn in np.unique(turns):
            near = rows[turns == turn] + first
            own = turned(self.thumbnails[i], int(turn)).astype(np.float32)
            error = np.sqrt(np.square(others.thumbnails[near] - own).mean(axis=(1, 2, 3))) / 255
            contrast = np.sqrt((others._variance[near] + self._variance[i]) / 2)
            limit = TURNED_ERROR if turn else THUMBNAIL_ERROR
            found.update(near[error <= limit * contrast].tolist())
        return sorted(found)

    @cached_property
    def _variance(self) -> NDArray[np.float32]:
        scaled = self.thumbnails.astype(np.float32) / np.float32(255)
        centred = scaled - scaled.mean(axis=(1, 2), keepdims=True)
        return np.asarray(np.maximum(np.square(centred).mean(axis=(1, 2, 3)), np.float32(_FLAT**2)))


def turned(pixels: NDArray[np.uint8], turn: int) -> NDArray[np.uint8]:
    """Return a square (S, S, ...) under turn 0 (as it is) .. 7."""
    out = pixels.swapaxes(0, 1) if turn & 4 else pixels
    out = out[::-1] if turn & 2 else out
    return out[:, ::-1] if turn & 1 else out


def perceptual_hash(image: Image.Image) -> np.uint64:
    """Return the 64-bit pHash of `image`: signs of the 8x8 lowest DCT terms of a 32x32 grey copy.

    Source: C. Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010.
    """
    return np.uint64(turned_hashes(image)[0])


def turned_hashes(image: Image.Image) -> NDArray[np.uint64]:
    """Return the pHash (8,) of `image` under every turn: a flip negates odd DCT terms."""
    low = _turned_terms(_terms(image.convert("L"), 8)).reshape(TURNS, 64)
    bits = low > np.median(low[:, 1:], axis=1, keepdims=True)  # the constant term says brightness
    return np.packbits(bits, axis=1).view(np.uint64)[:, 0]


def thumbnail(image: Image.Image) -> NDArray[np.uint8]:
    """Return an RGB thumbnail (THUMBNAIL_PX, THUMBNAIL_PX, 3)."""
    small = image.convert("RGB").resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BOX)
    return np.asarray(small, np.uint8)


@dataclass(frozen=True, kw_only=True)
class Digests:
    """Digests of pictures, (3, N) uint64: enough to know one again, not to see it, in 24 bytes.

    The signs of the 192 lowest DCT terms of the grey central 0.8 of a picture; one that is looked
    for is tried under eight turns and twelve central shares from 1 to 0.54.

    Measured on the 15,080 cells that wbc-base learnt from (the central 256 of PBC's 360 px frames).
    Found: 300 of 300 as JPEG of quality 50, at 48 .. 224 px, in grey, brighter, of another hue or
    turned, and central crops from 0.8 of their field; 99 % at 32 px; 200 of 200 as whole frames,
    1.4 times as wide, and 99 % of crops between. Not found: narrower crops (25 % at 0.75, none at
    0.7), crops off centre (51 % by 1 % of the side, none by 2 %), turns by 10 degrees. False
    alarms: none of 1,675 cells of the same microscope that it never saw (the nearest at 32 bits),
    nor of 224 cells of another hospital (34), 400 colorectal tiles (55) or 84 embryos (45).
    """

    codes: NDArray[np.uint64]

    @classmethod
    def of(cls, pictures: Iterable[Image.Image]) -> "Digests":
        """Return the digests of pictures, sorted: their order says nothing."""
        rows = [_codes(p.convert("L"), (DIGEST_SHARE,))[0, 0] for p in pictures]
        return cls(codes=_words(np.array(sorted(map(bytes, rows)), f"V{DIGEST_BITS // 8}")))

    def __len__(self) -> int:
        return int(self.codes.shape[1])

    def distance(self, picture: Image.Image) -> int:
        """Return by how many bits `picture` differs from the nearest, under its best turn."""
        asked = _codes(picture.convert("L"), _QUERY_SHARES).reshape(-1, DIGEST_BITS // 8)
        best = DIGEST_BITS
        for code in asked.view(np.uint64):
            apart = np.bitwise_count(self.codes[0] ^ code[0]).astype(np.int16)
            for words, own in zip(self.codes[1:], code[1:], strict=True):
                apart += np.bitwise_count(words ^ own)
            best = min(best, int(apart.min(initial=DIGEST_BITS)))
        return best

    def hold(self, picture: Image.Image) -> bool:
        """Return whether `picture` is one of those, as far as digests tell."""
        return self.distance(picture) <= DIGEST_DISTANCE_BITS

    def save(self, path: Path) -> None:
        """Write a Parquet file with one column `digest` (atomically)."""
        rows = np.ascontiguousarray(self.codes.T).view(f"V{DIGEST_BITS // 8}")[:, 0]
        table = pa.table({"digest": pa.array([bytes(r) for r in rows], _DIGEST)})
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="none", use_dictionary=False)
        write_bytes(path, sink.getvalue().to_pybytes())

    @classmethod
    def load(cls, path: Path) -> "Digests":
        """Return what `save` wrote.

        Raises:
            ModelError: missing or damaged.
        """
        try:
            stored = pq.read_table(path, schema=pa.schema({"digest": _DIGEST}))["digest"]
            return cls(codes=_words(np.array(stored.to_pylist(), f"V{DIGEST_BITS // 8}")))
        except (OSError, ValueError, pa.ArrowException) as error:
            raise ModelError(
                f"{path} holds no digests of training images ({error})",
                remedy="Restore the generator's folder, or install the package again",
            ) from error


def near_duplicates(dataset: "RealDataset") -> list[tuple[int, int]]:
    """Return index pairs of `dataset` that show the same picture.

    Raises:
        DataError: an image is gone or broken.
    """
    return dataset.looks.pairs()


def grouped(dataset: "RealDataset") -> list[str]:
    """Return the groups to split by: the dataset's own, joined where near-duplicates link them."""
    return merge_groups(dataset.groups, near_duplicates(dataset))


def merge_groups(groups: Sequence[str], pairs: Sequence[tuple[int, int]]) -> list[str]:
    """Return `groups` with the groups of every pair joined under the smallest of their names."""
    parent = {group: group for group in groups}

    def root(group: str) -> str:
        while parent[group] != group:
            parent[group] = parent[parent[group]]
            group = parent[group]
        return group

    for i, j in pairs:
        first, second = sorted((root(groups[i]), root(groups[j])))
        parent[second] = first
    return [root(group) for group in groups]


def _codes(grey: Image.Image, shares: Sequence[float]) -> NDArray[np.uint8]:
    """Return digests (shares, 8 turns, 24 bytes) of the central `shares` of a picture."""
    found = np.stack([_turned_terms(_terms(grey, 16, share=share)) for share in shares])
    low = found.reshape(len(shares), TURNS, 256)[..., _LOWEST]
    return np.packbits(low > 0, axis=-1)


def _words(rows: NDArray[np.void]) -> NDArray[np.uint64]:
    """Return (3, N) words of N digests, each word of all digests side by side."""
    return np.ascontiguousarray(rows.view(np.uint64).reshape(-1, DIGEST_BITS // 64).T)


def _terms(grey: Image.Image, count: int, *, share: float | None = None) -> NDArray[np.float32]:
    """Return the lowest DCT terms (count, count) of a 32x32 copy.

    `share` is that of the side of the largest central square; None: the whole picture.
    """
    box = None if share is None else _central(grey.size, share)
    small = grey.resize((32, 32), Image.Resampling.BOX, box=box)
    rows = _DCT[:count]
    return np.asarray(rows @ np.asarray(small, np.float32) @ rows.T)


def _central(size_px: tuple[int, int], share: float) -> tuple[float, float, float, float]:
    (width, height), side = size_px, min(size_px) * share
    left, top = (width - side) / 2, (height - side) / 2
    return (left, top, left + side, top + side)


def _turned_terms(terms: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return DCT terms (8, K, K) of the turned picture: flips negate odd terms of an axis."""
    signs = np.where(np.arange(len(terms)) % 2, np.float32(-1), np.float32(1))
    out = []
    for turn in range(TURNS):
        own = terms.T if turn & 4 else terms
        own = own * signs[:, None] if turn & 2 else own
        out.append(own * signs if turn & 1 else own)
    return np.stack(out)


def _lowest() -> NDArray[np.int64]:
    """Return the places of the lowest terms of 16x16, without the constant one (brightness)."""
    rows, columns = np.mgrid[0:16, 0:16]
    return np.argsort((rows**2 + columns**2).ravel(), kind="stable")[1 : DIGEST_BITS + 1]


def _dct_rows() -> NDArray[np.float32]:
    """Return the first 16 rows of the orthogonal DCT-II of length 32, (16, 32)."""
    k, n = np.mgrid[0:16, 0:32]
    return np.asarray(np.cos(np.pi * (2 * n + 1) * k / 64), np.float32)


_DCT, _LOWEST = _dct_rows(), _lowest()
_DIGEST = pa.binary(DIGEST_BITS // 8)
