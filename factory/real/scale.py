"""How large objects look: what tells a set of whole frames from one that shows their middle.

Pixel sizes of both sides decide where they are known. Where not, the objects do: the zoom of one
set is sought under which it looks most like the other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, model_validator


def _numbers(row: object) -> object:
    return tuple(map(float, row.split())) if isinstance(row, str) else row


Row = Annotated[
    tuple[float, ...],
    BeforeValidator(_numbers),
    PlainSerializer(lambda row: " ".join(f"{value:g}" for value in row), return_type=str),
]
"""Numbers that a manifest holds as one text, so that people can still read the rest of it."""
Table = tuple[Row, ...]
"""(zooms, features)"""

TOLERANCE = 1.1
"""Objects that look up to so many times larger or smaller are of one scale.

From the spread between images: of 30 divisions of one real set into halves, by patient where known,
95 % lie within 1.02 and 1.04 (white cells), 1.04 (embryos), 1.05 (polyps) and 1.10 (tiles of
tissue). The interval over images must lie beyond it besides.
"""
EXPLAINED = 0.6
"""Another scale is told where it explains so much of a difference that less than this is left."""
ZOOMS = tuple(float(f"{2.2 ** (k / 11):.4g}") for k in range(12))
"""How many times larger objects look in the central squares that are compared: 1 .. 2.2."""
FEWEST = 8
"""Images of a class, on either side, that are compared class by class."""
LOOKED_AT, MOST = 96, 12
"""Images that are looked at, in all and of a class where there are many classes."""
LOOKED_AT_PX = 128
"""Side of the images that are looked at, where they can be had at any."""
MANY = 24
"""Classes of which a generator keeps how they look: about 2 kB each."""
_SIDE = 64
_RINGS = 8
_LAGS = (2, 3, 4, 6, 8, 11, 15, 20, 26)
"""Distances in 64ths of the side over which pixels are compared; 1 would tell blur from scale."""
_PADDED = 96
"""Side and longest distance at least: a Fourier transform takes what is nearer for neighbours."""
_RESAMPLES = 100


class ObjectScale(BaseModel):
    """How images of some classes look under every zoom: what a generator learnt, in a few numbers.

    Class by class, since platelets are no small monocytes: another mix is no other scale.
    """

    model_config = ConfigDict(frozen=True)

    images: int
    means: Mapping[str, Table]
    """By class, over its images: a row a zoom."""
    variances: Table
    """Over the images of a class, averaged over classes."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        tables = [*self.means.values(), self.variances]
        if any({len(row) for row in table} != {len(tables[0][0])} for table in tables):
            raise ValueError("rows of several lengths")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleDifference:
    """How many times larger objects look in one set of images than in another, and its interval."""

    ratio: float
    low: float
    high: float
    left: float
    """Share of the difference between the sets that is left once one is zoomed; near 1, they
    differ in something else."""

    @property
    def differs(self) -> bool:
        """Whether the two are of another scale beyond doubt."""
        apart = self.low > TOLERANCE or self.high < 1 / TOLERANCE
        return apart and self.left < EXPLAINED

    @property
    def inverse(self) -> "ScaleDifference":
        """The same, seen from the other set."""
        return replace(self, ratio=1 / self.ratio, low=1 / self.high, high=1 / self.low)

    def told(self, one: str, other: str) -> str:
        """Return in words how large objects look in `one` beside `other`, the larger first."""
        if self.ratio < 1:
            return self.inverse.told(other, one)
        return (
            f"objects look {self.ratio:.2f} times as large [{self.low:.2f}, {self.high:.2f}] in"
            f" {one} as in {other}"
        )


Views = Mapping[str, NDArray[np.float32]]
"""How images look under every zoom, by class: (zooms, N, features)."""


def views(images: NDArray[np.uint8], labels: Sequence[str]) -> Views:
    """Return how images (N, S, S, 3) look, of each class as many as are looked at."""
    return {
        name: np.stack([_features(_zoomed(images[rows], zoom)) for zoom in ZOOMS])
        for name, rows in _by_class(labels).items()
    }


def first_of_each(labels: Sequence[str]) -> list[int]:
    """Return the rows of the images of every class that are looked at."""
    return [int(row) for rows in _by_class(labels).values() for row in rows]


def object_scale(own: Views) -> ObjectScale:
    """Return what a generator keeps of the images, of one class or more, that it learnt."""
    largest = dict(sorted(own.items(), key=lambda named: -named[1].shape[1])[:MANY])
    return ObjectScale(
        images=sum(looks.shape[1] for looks in largest.values()),
        means={name: _plain(looks.mean(axis=1)) for name, looks in largest.items()},
        variances=_plain(np.mean([looks.var(axis=1) for looks in largest.values()], axis=0)),
    )


def compare_scale(own: Views, others: Views) -> ScaleDifference | None:
    """Return how large objects look in some images beside others.

    Class by class where both hold enough of some, else of equal numbers of those that both hold.
    None: too few images to tell.

    Measured on halves of seven real sets, one of which was cropped, 30 divisions each: the ratio of
    white cells and embryos is right within 5 to 10 %, and told in all of 90 at a crop of 0.8; of
    polyps in 4 of 10. Tiles of tissue have no scale of their own that can be seen: hardly anything
    is said, and where their pixel sizes are known these decide. Uncropped, 1 of 210 is told.
    """
    counts = {n: min(own[n].shape[1], others[n].shape[1]) for n in own if n in others}
    if common := [name for name, count in counts.items() if count >= FEWEST]:
        pairs = [(own[name], others[name]) for name in common]
    elif sum(counts.values()) >= FEWEST:
        pairs = [(_pooled(own, counts), _pooled(others, counts))]
    else:
        return None
    return _difference(sum(_apart(_resampled(one), _resampled(other)) for one, other in pairs))


def compare_with(own: Views, known: ObjectScale) -> ScaleDifference | None:
    """Return how large objects look in images beside those of the same classes that were learnt.

    None: too few images of them, or figures of another version.
    """
    shape = (len(ZOOMS), _FEATURES)
    if np.shape(known.variances) != shape:
        return None
    variances = np.array(known.variances)[:, None]
    found = [
        _apart(_resampled(looks), (np.array(known.means[name])[:, None], variances))
        for name, looks in own.items()
        if looks.shape[1] >= FEWEST and np.shape(known.means.get(name, ())) == shape
    ]
    return _difference(sum(found)) if found else None


def _by_class(labels: Sequence[str]) -> dict[str, NDArray[np.int64]]:
    own, names = np.asarray(labels), sorted(set(labels))
    most = max(MOST, LOOKED_AT // max(1, len(names)))
    return {name: np.flatnonzero(own == name)[:most] for name in names}


def _pooled(own: Views, counts: Mapping[str, int]) -> NDArray[np.float32]:
    return np.concatenate([own[name][:, :count] for name, count in counts.items()], axis=1)


def _zoomed(images: NDArray[np.uint8], zoom: float) -> NDArray[np.float32]:
    """Return the central squares as (N, pixels, 3)."""
    size = images.shape[1]
    side, start = size / zoom, (size - size / zoom) / 2
    how = Image.Resampling.BOX if side > _SIDE else Image.Resampling.BICUBIC
    box = (start, start, start + side, start + side)
    shown = [Image.fromarray(image).resize((_SIDE, _SIDE), how, box=box) for image in images]
    return np.stack([np.asarray(each, np.float32).reshape(-1, 3) for each in shown])


def _features(flat: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (N, features): mean and spread on rings around the middle, and correlations.

    Of the colour axis along which the pixels of an image differ most, dark upwards and with unit
    variance: stain, brightness and contrast say nothing of scale.
    """
    flat = flat - flat.mean(axis=1, keepdims=True)
    axes = np.linalg.eigh(flat.transpose(0, 2, 1) @ flat)[1][..., -1]
    axes *= np.where(axes.sum(axis=1, keepdims=True) > 0, -1, 1)
    grey = (flat @ axes[..., None])[..., 0]
    grey /= np.maximum(grey.std(axis=1, keepdims=True), 1e-6)
    means = grey @ _RING.T
    spreads = np.sqrt(np.maximum(np.square(grey) @ _RING.T - np.square(means), 0))
    waves = np.fft.rfft2(grey.reshape(-1, _SIDE, _SIDE), (_PADDED, _PADDED))
    power = np.square(waves.real) + np.square(waves.imag)
    correlated = power.reshape(len(flat), -1) @ _LAG.T
    return np.concatenate([means, spreads, correlated], axis=1).astype(np.float32)


def _resampled(looks: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return means and variances (zooms, draws, features); draw 0 is the set as it is."""
    count = looks.shape[1]
    drawn = np.random.default_rng(count).multinomial(count, [1 / count] * count, _RESAMPLES)
    shares = np.concatenate([np.ones((1, count)), drawn]) / count
    means = shares @ looks
    return means, np.maximum(shares @ np.square(looks) - np.square(means), 0)


def _apart(
    one: tuple[NDArray[np.float64], NDArray[np.float64]],
    other: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> NDArray[np.float64]:
    """Return (2 zooms - 1, draws): how far apart two sets are if one is shown at another zoom.

    The first rows zoom `one`, whose objects are then the smaller ones; the middle row is 1.
    """
    zooms = len(ZOOMS)
    first = [*range(zooms - 1, 0, -1), *[0] * zooms]
    second = [*[0] * zooms, *range(1, zooms)]
    (mean, variance), (mean_2, variance_2) = one, other
    spread = (variance[first] + variance_2[second]) / 2 + 1e-3
    return np.asarray((np.square(mean[first] - mean_2[second]) / spread).mean(axis=-1))


def _difference(total: NDArray[np.float64] | float) -> ScaleDifference:
    """Return where sets are nearest: a parabola through the least row and its neighbours."""
    apart, steps = np.asarray(total), np.log(ZOOMS)
    grid = np.concatenate([-steps[:0:-1], steps])
    nearer_one = 1e-6 * np.abs(grid)[:, None]  # of equals, no zoom
    least = np.clip((apart + nearer_one).argmin(axis=0), 1, len(grid) - 2)
    draws = np.arange(apart.shape[1])
    before, at, after = (apart[least + k, draws] for k in (-1, 0, 1))
    bend = np.maximum(before - 2 * at + after, 1e-12)
    place = grid[least] + steps[1] * np.clip((before - after) / (2 * bend), -1, 1)
    low, high = np.quantile(place, [0.025, 0.975])
    return ScaleDifference(
        ratio=float(np.exp(place[0])),
        low=float(np.exp(low)),
        high=float(np.exp(high)),
        left=float(apart[:, 0].min() / max(apart[len(steps) - 1, 0], 1e-9)),
    )


def _plain(values: NDArray[np.float64]) -> Table:
    return tuple(tuple(float(f"{value:.3g}") for value in row) for row in values)


def _rings() -> NDArray[np.float32]:
    """Return (rings, pixels): what averages over the rings around the middle of a square."""
    y, x = np.mgrid[0:_SIDE, 0:_SIDE] - (_SIDE - 1) / 2
    ring = (np.hypot(x, y) / (_SIDE / 2) * _RINGS).astype(int)
    picked = np.stack([(ring == number).ravel() for number in range(_RINGS)]).astype(np.float32)
    return np.asarray(picked / picked.sum(axis=1, keepdims=True))


def _lags() -> NDArray[np.float32]:
    """Return (lags, frequencies): what makes a power spectrum the mean product of pixels apart."""
    shifts, padded = np.fft.fftfreq(_PADDED, 1 / _PADDED), (_PADDED, _PADDED)
    distance = np.hypot(*np.meshgrid(shifts, shifts))
    power = np.abs(np.fft.rfft2(np.ones((_SIDE, _SIDE)), padded)) ** 2
    pairs = np.fft.irfft2(power, padded)
    picked = [np.abs(distance - lag) < 0.5 for lag in _LAGS]
    waves = np.stack([np.fft.rfft2(own / pairs[own].sum()).real for own in picked])
    waves[..., 1:-1] *= 2  # each stands for its mirror image too
    return np.asarray(waves.reshape(len(_LAGS), -1) / _PADDED**2, np.float32)


_RING, _LAG = _rings(), _lags()
_FEATURES = 2 * _RINGS + len(_LAGS)
