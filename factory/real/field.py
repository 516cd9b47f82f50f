"""The field of view: how large a pixel is, which part of a frame is shown, how large objects look.

A learner sees squares of so many pixels and cannot know that cells of one set are 1.4 times as
large as those of another, since one shows whole frames and the other their middle. Pixel sizes,
where they are known, tell it; where they are not, the objects themselves do: the crop of one set
is sought under which it looks most like the other.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from scipy import fft

from factory.errors import DataError

TOLERANCE = 1.1
"""Objects that look up to so many times larger or smaller are of one scale."""
EXPLAINED = 0.6
"""Another scale is told where it explains so much of a difference that less than this is left."""
ZOOMS = tuple(float(f"{2.2 ** (k / 11):.4g}") for k in range(12))
"""How many times larger objects look in the central squares that are compared: 1 .. 2.2."""
FEWEST = 8
"""Images of a class, on either side, that are compared class by class."""
LOOKED_AT, MOST = 192, 24
"""Images that are looked at, in all and of a class where there are many classes."""
_SIDE = 64
_RINGS = 8
_LAGS = (2, 3, 4, 6, 8, 11, 15, 20, 26)
"""Distances in 64ths of the side over which pixels are compared; 1 would tell blur from scale."""
_RESAMPLES = 100


@dataclass(frozen=True, slots=True)
class Crop:
    """The central part of a frame that is shown: a share of its sides, or a field in µm."""

    share: float | None = None
    field_um: float | None = None

    @property
    def text(self) -> str:
        """What `crop_rule` reads back: part of a dataset's fingerprint."""
        return f"{self.share:g}" if self.share is not None else f"{self.field_um:g}um"

    def box(
        self, size_px: tuple[int, int], pixel_size_um: float | None, *, name: str
    ) -> tuple[int, int, int, int]:
        """Return (left, top, right, bottom) of the part in a frame of (width, height).

        Raises:
            DataError: a field in micrometres of an image without pixel size, or smaller than asked.
        """
        width, height = size_px
        if self.share is not None:
            wide, high = (max(1, round(self.share * side)) for side in size_px)
        elif pixel_size_um is None:
            raise DataError(
                f"image {name} has no pixel size, and --crop {self.text} is a field",
                remedy="Give --pixel-size-um (a number, or a column of the table), or a share: 0.7",
            )
        else:
            wide = high = round((self.field_um or 0) / pixel_size_um)
            shown_um = min(size_px) * pixel_size_um
            if wide > min(size_px):
                raise DataError(
                    f"image {name} shows {shown_um:.4g} µm, less than --crop {self.text}",
                    remedy=f"Ask for {shown_um:.4g}um or less, or leave this image out",
                )
        left, top = (width - wide) // 2, (height - high) // 2
        return (left, top, left + wide, top + high)


def crop_rule(text: str | None) -> Crop | None:
    """Return the crop that '0.711' or '80um' names; None for None or the whole frame.

    Raises:
        DataError: neither.
    """
    if text is None:
        return None
    bare = text.strip().replace("µm", "um").replace("μm", "um")
    value = positive(bare.removesuffix("um"))
    if value is None or (not bare.endswith("um") and value > 1):
        raise DataError(
            f"--crop {text!r} is no part of a frame",
            remedy="Write a share of its side (0.711), or a field in micrometres (80um)",
        )
    if bare.endswith("um"):
        return Crop(field_um=value)
    return None if value == 1 else Crop(share=value)


def positive(text: str) -> float | None:
    """Return a number above 0, written with a point or a comma; None: it is none."""
    try:
        value = float(text.strip().replace(",", "."))
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None


class ObjectScale(BaseModel):
    """How a set of images looks under every zoom: what a generator learnt, in a few numbers.

    Means and variances (zooms, features) over images, classes weighing the same.
    """

    model_config = ConfigDict(frozen=True)

    images: int
    means: tuple[tuple[float, ...], ...]
    variances: tuple[tuple[float, ...], ...]


class Shown(BaseModel):
    """The field of a generator's training images, as its manifest keeps it (`field`)."""

    model_config = ConfigDict(frozen=True)

    pixel_size_um: float | None = Field(None, gt=0)
    """Of the pixels it draws."""
    crop: str | None = None
    """Part of the frames that it learnt, as `--crop` names it; None: whole frames."""
    source: str | None = None
    """In words, where neither says it."""
    objects: ObjectScale | None = None


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

    def told(self, one: str, other: str) -> str:
        """Return in words how large objects look in `one` beside `other`."""
        times, bounds = self.ratio, (self.low, self.high)
        if times < 1:
            one, other, times = other, one, 1 / times
            bounds = (1 / self.high, 1 / self.low)
        return (
            f"objects look {times:.2f} times as large [{bounds[0]:.2f}, {bounds[1]:.2f}] in {one}"
            f" as in {other}"
        )


def object_scale(images: NDArray[np.uint8], labels: Sequence[str]) -> ObjectScale:
    """Return how images (N, S, S, 3) look under every zoom.

    Args:
        images: one or more.
        labels: the class of each; see `first_of_each`.
    """
    parts = [_looks(images[rows]) for rows in _by_class(labels).values()]
    means = np.mean([part.mean(axis=1) for part in parts], axis=0)
    squares = np.mean([np.square(part).mean(axis=1) for part in parts], axis=0)
    return ObjectScale(
        images=sum(part.shape[1] for part in parts),
        means=_plain(means),
        variances=_plain(squares - np.square(means)),
    )


def compare_scale(
    images: NDArray[np.uint8],
    labels: Sequence[str],
    others: NDArray[np.uint8],
    other_labels: Sequence[str],
) -> ScaleDifference | None:
    """Return how large objects look in `images` beside `others`, both (N, S, S, 3).

    Class by class where both hold enough of some, so that another mix of classes is no other
    scale. None: too few images to tell.

    Found as it should be within 5 % on halves of real sets of which one was cropped to 0.9 .. 0.6:
    white cells of two hospitals, embryos; within 15 % on polyps. Tiles of tissue have no scale of
    their own that could be seen: their intervals are wide, and nothing is said.
    """
    own, theirs = _by_class(labels), _by_class(other_labels)
    common = [n for n in own if min(len(own[n]), len(theirs.get(n, ()))) >= FEWEST]
    if common:
        pairs = [(_looks(images[own[n]]), _looks(others[theirs[n]])) for n in common]
    else:
        mixed = [np.concatenate([*rows.values()]) for rows in (own, theirs)]
        if min(map(len, mixed)) < FEWEST:
            return None
        pairs = [(_looks(images[mixed[0]]), _looks(others[mixed[1]]))]
    draws = [(_resampled(one), _resampled(other)) for one, other in pairs]
    found = sum(_apart(one, other) for one, other in draws)
    return _difference(np.asarray(found))


def compare_with(
    images: NDArray[np.uint8], labels: Sequence[str], known: ObjectScale
) -> ScaleDifference | None:
    """Return how large objects look in `images` beside those that a generator learnt.

    None: too few images, or figures of another version.
    """
    rows = np.concatenate([*_by_class(labels).values()])
    other = (np.array(known.means), np.array(known.variances))
    if len(rows) < FEWEST or other[0].shape != other[1].shape != (len(ZOOMS), _FEATURES):
        return None
    one = _resampled(_looks(images[rows]))
    return _difference(_apart(one, (other[0][:, None], other[1][:, None])))


def first_of_each(labels: Sequence[str]) -> list[int]:
    """Return the rows of the images of every class that are looked at."""
    return [int(row) for rows in _by_class(labels).values() for row in rows]


def _by_class(labels: Sequence[str]) -> dict[str, NDArray[np.int64]]:
    own, names = np.asarray(labels), sorted(set(labels))
    most = max(MOST, LOOKED_AT // max(1, len(names)))
    return {name: np.flatnonzero(own == name)[:most] for name in names}


def _looks(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return (zooms, N, features) of images: rings and correlations of their grey."""
    return np.stack([_features(_zoomed(images, zoom)) for zoom in ZOOMS])


def _zoomed(images: NDArray[np.uint8], zoom: float) -> NDArray[np.float64]:
    """Return the central squares as (N, 64, 64, 3)."""
    size = images.shape[1]
    side, start = size / zoom, (size - size / zoom) / 2
    how = Image.Resampling.BOX if side > _SIDE else Image.Resampling.BICUBIC
    box = (start, start, start + side, start + side)
    shown = [Image.fromarray(image).resize((_SIDE, _SIDE), how, box=box) for image in images]
    return np.stack([np.asarray(each, np.float64) for each in shown])


def _features(images: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (N, features): mean and spread on rings around the middle, and correlations.

    Of the colour axis along which the pixels of an image differ most, dark upwards and with unit
    variance: stain, brightness and contrast say nothing of scale.
    """
    flat = images.reshape(len(images), -1, 3)
    flat = flat - flat.mean(axis=1, keepdims=True)
    axes = np.linalg.eigh(flat.transpose(0, 2, 1) @ flat)[1][..., -1]
    axes *= np.where(axes.sum(axis=1, keepdims=True) > 0, -1, 1)
    grey = (flat @ axes[..., None])[..., 0]
    grey /= np.maximum(grey.std(axis=1, keepdims=True), 1e-6)
    means = grey @ _RING.T
    spreads = np.sqrt(np.maximum(np.square(grey) @ _RING.T - np.square(means), 0))
    padded = (2 * _SIDE, 2 * _SIDE)
    waves = fft.rfft2(grey.reshape(-1, _SIDE, _SIDE).astype(np.float32), padded)
    power = np.square(waves.real) + np.square(waves.imag)
    correlated = power.reshape(len(images), -1) @ _LAG.T
    return np.concatenate([means, spreads, correlated], axis=1)


def _resampled(looks: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
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


def _difference(apart: NDArray[np.float64]) -> ScaleDifference:
    """Return where sets are nearest: a parabola through the least row and its neighbours."""
    steps = np.log(ZOOMS)
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


def _plain(values: NDArray[np.float64]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(f"{value:.4g}") for value in row) for row in values)


def _rings() -> NDArray[np.float64]:
    """Return (rings, pixels): what averages over the rings around the middle of a square."""
    y, x = np.mgrid[0:_SIDE, 0:_SIDE] - (_SIDE - 1) / 2
    ring = (np.hypot(x, y) / (_SIDE / 2) * _RINGS).astype(int)
    picked = np.stack([(ring == number).ravel() for number in range(_RINGS)]).astype(float)
    return np.asarray(picked / picked.sum(axis=1, keepdims=True))


def _lags() -> NDArray[np.float64]:
    """Return (lags, frequencies): what makes a power spectrum the mean product of pixels apart."""
    shifts = np.fft.fftfreq(2 * _SIDE, 1 / (2 * _SIDE))
    distance = np.hypot(*np.meshgrid(shifts, shifts))
    alone = np.ones((_SIDE, _SIDE))
    power = np.abs(np.fft.rfft2(alone, (2 * _SIDE, 2 * _SIDE))) ** 2
    pairs = np.fft.irfft2(power, (2 * _SIDE, 2 * _SIDE))
    picked = [np.abs(distance - lag) < 0.5 for lag in _LAGS]
    waves = np.stack([fft.rfft2(own / pairs[own].sum()).real for own in picked])
    waves[..., 1:-1] *= 2  # each stands for its mirror image too
    return np.asarray(waves.reshape(len(_LAGS), -1) / (2 * _SIDE) ** 2)


_RING, _LAG = _rings(), _lags()
_FEATURES = 2 * _RINGS + len(_LAGS)
