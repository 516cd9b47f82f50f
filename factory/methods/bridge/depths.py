"""How deep: what is measured along an inversion, and the policies that choose depths by it.

Measures take a step of the inversion itself, so that they cost no evaluation of the network. A
policy reads a curve: one feature of the source at every level 0 .. N. It never changes it, and
returns m levels, strictly increasing.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from factory.device import up
from factory.errors import ConfigError
from factory.methods.bridge.inversion import Inverted
from factory.models.experts import Expert

Measure = Callable[[Inverted], Tensor]
"""A level of B images to (B,) numbers."""

BAND = 9
"""Places each side of the centre that the original averages."""
CUTOFF = 0.25
"""Cycles per pixel, half of the Nyquist frequency, above which energy counts as high."""

_LUMA = (0.299, 0.587, 0.114)


def grey(images: Tensor) -> Tensor:
    """Return (B, h, w): the luma of RGB (ITU-R BT.601), the mean of other channels."""
    if images.shape[1] == 3:
        return (images * images.new_tensor(_LUMA)[:, None, None]).sum(1)
    return images.mean(1)


def centre_row_band(images: Tensor) -> Tensor:
    """Return (B,) the original's feature of (B, C, h, w): magnitudes on the spectrum's centre row.

    Its places -10 .. -2 and +1 .. +9 from the centre, as far as the image is wide: although called
    high-frequency there, these are the lowest horizontal frequencies beside the mean.

    Raises:
        ConfigError: an image narrower than 4 pixels.
    """
    width = images.shape[-1]
    if width < 4:
        raise ConfigError(f"images of width {width} have no band", remedy="Use 4 pixels or more")
    rows = torch.fft.fftshift(torch.fft.fft2(grey(images)), dim=(-2, -1))[:, images.shape[-2] // 2]
    centre = width // 2
    left = rows[:, max(0, centre - 1 - BAND) : centre - 1]
    right = rows[:, centre + 1 : centre + 1 + BAND]
    return torch.cat([left, right], dim=1).abs().mean(1)


def radial_high_frequency(images: Tensor, *, cutoff: float = CUTOFF) -> Tensor:
    """Return (B,) the share of the energy of (B, C, h, w) at frequencies above `cutoff`, 0 .. 1.

    Frequencies are radial, in cycles per pixel, up to 0.5 along an axis; the mean does not count.
    """
    height, width = images.shape[-2:]
    energy = torch.fft.fft2(grey(images)).abs() ** 2
    high, every = (
        energy[:, up(rows, images.device), up(columns, images.device)].sum(1)
        for rows, columns in (_places_above(height, width, least) for least in (cutoff, 0.0))
    )
    ratio: Tensor = high / every.clamp(min=torch.finfo(energy.dtype).tiny)
    return ratio


@cache
def _places_above(height: int, width: int, frequency: float) -> tuple[Tensor, Tensor]:
    """Return rows and columns of a spectrum's places above a radial frequency, on the CPU.

    Chosen by a mask on a GPU they would have to be counted there before anything goes on.
    """
    radius = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width)[None])
    rows, columns = torch.nonzero(radius > frequency, as_tuple=True)
    return rows, columns


def expert_distance(
    expert: Expert, sources: Tensor, *, decode: Callable[[Tensor], Tensor] = lambda x: x
) -> Measure:
    """Return a measure: 1 - cosine of an expert's features of the source and of what is left of it.

    An expert knows clean images, so it looks at the clean estimate of every level.

    Args:
        expert: frozen.
        sources: (B, 3, H, W) in [-1, 1], the images that are inverted.
        decode: latents to images.
    """
    with torch.inference_mode():
        wanted = expert.features(sources)

    def measure(at: Inverted) -> Tensor:
        shown = sources if at.level == 0 else decode(at.clean).clamp(-1, 1)
        return 1 - F.cosine_similarity(expert.features(shown), wanted)

    return measure


def _of_state(function: Callable[[Tensor], Tensor], at: Inverted) -> Tensor:
    return function(at.state)


MEASURES: Mapping[str, Measure] = {
    "centre_row": partial(_of_state, centre_row_band),
    "radial": partial(_of_state, radial_high_frequency),
}
"""Name -> measure of the noisy state; 'expert' is `expert_distance`, made for every batch."""


Depths = tuple[int, ...]

FAILURES = 100
"""Rejected candidates after which the original gave its search up."""


def uniform_depths(top: int, count: int) -> Depths:
    """Return `count` levels, evenly spaced up to `top`.

    Raises:
        ConfigError: more images than levels.
    """
    _check(top, count)
    return tuple(-(-top * k // count) for k in range(1, count + 1))


def adaptive_depths(curve: Sequence[float], count: int) -> Depths:
    """Return for k = 1 .. count the first level at which the feature moved by k / count.

    Measured on the monotone envelope (`moved`), so the last depth is where the feature reaches its
    plateau. Where several k fall on one level, the later ones give way upwards, at the end of the
    curve downwards. A feature that never moves says nothing: the depths are uniform then.

    Raises:
        ConfigError: more images than levels.
    """
    fractions = moved(curve)
    top = len(fractions) - 1
    _check(top, count)
    if not fractions[-1]:
        return uniform_depths(top, count)
    wanted = np.arange(1, count + 1) / count
    first = np.searchsorted(fractions, wanted - 1e-9)
    steps = np.arange(count)
    rising = np.maximum.accumulate(np.maximum(first, 1) - steps) + steps
    return tuple(int(depth) for depth in np.minimum(rising, top - steps[::-1]))


def reversed_depths(curve: Sequence[float], count: int) -> Depths:
    """Return the depths of the original's rule, which reads the curve from its noisy end.

    It looks, in the reversed curve, for the value nearest to min + (max - min) k / count, and takes
    that value's PLACE as the depth; places must rise, others are struck out with a zero, and after
    `FAILURES` of them the depths are uniform. A feature that falls with noise so never gives a
    shallow image. For fidelity only; the curve itself stays as it is.

    Raises:
        ConfigError: more images than levels.
    """
    top = len(curve) - 1
    _check(top, count)
    values = np.array(curve, np.float64)[::-1].copy()
    low, high = values.min(), values.max()
    depths: list[int] = []
    failures = 0
    while len(depths) < count:
        goal = low + (high - low) * (len(depths) + 1) / count
        place = int(np.abs(values - goal).argmin())
        if place > (depths[-1] if depths else 0):
            depths.append(place)
            continue
        values[place] = 0
        failures += 1
        if failures > FAILURES:
            return (*(k * top // count for k in range(1, count)), top)
    return tuple(depths)


def moved(curve: Sequence[float]) -> NDArray[np.float64]:
    """Return (N + 1,) how much of its range the feature has covered at each level, 0 .. 1.

    The running maximum of its distance from the clean value, in the direction in which it goes
    farther; all zero if it never moves.

    Raises:
        ConfigError: a value that is no number.
    """
    values = np.asarray(curve, np.float64) - curve[0]
    if not np.isfinite(values).all():
        level = int(np.flatnonzero(~np.isfinite(values))[0])
        raise ConfigError(
            f"the feature of level {level} is {curve[level]}", remedy="Choose another measure"
        )
    falls = -values.min() > values.max()
    envelope = np.maximum.accumulate(-values if falls else values)
    return envelope / envelope[-1] if envelope[-1] > 0 else np.zeros_like(envelope)


def _adaptive_to_top(curve: Sequence[float], count: int) -> Depths:
    return (*adaptive_depths(curve, count)[:-1], len(curve) - 1)


POLICIES: Mapping[str, Callable[[Sequence[float], int], Depths]] = {
    "uniform": lambda curve, count: uniform_depths(len(curve) - 1, count),
    "adaptive": adaptive_depths,
    "adaptive_full": _adaptive_to_top,
    "reversed": reversed_depths,
}
"""Name -> policy. 'adaptive' ends at the plateau, 'adaptive_full' at the noisiest level."""


def choose_depths(policy: str, curve: Sequence[float], count: int) -> Depths:
    """Return what the policy of that name says.

    Raises:
        ConfigError: unknown policy, or what the policy raises.
    """
    if policy not in POLICIES:
        raise ConfigError(
            f"unknown depth policy {policy!r}", remedy=f"Choose one of {', '.join(POLICIES)}"
        )
    return POLICIES[policy](curve, count)


def _check(top: int, count: int) -> None:
    if not 1 <= count <= top:
        raise ConfigError(
            f"{count} depths do not fit into {top} inversion steps",
            remedy="Ask for 1 or more depths, and as many num_inference_steps at least",
        )
