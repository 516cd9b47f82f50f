"""Thresholds from real images: what a generator learnt from says what its pictures must look like.

A threshold that was measured on one microscope refuses half the real cells of another. So a
training keeps the scores of the images it learns from beside the weights, numbers without pixels.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from factory.config import parse_config
from factory.errors import ConfigError, ModelError
from factory.gate.pixel import PixelGates
from factory.models.generator import Generator

MARGIN, MARGIN_OF_FEW, FEW = 0.7, 0.5, 32
"""Share of the least real score that still passes, and likewise above the greatest; another for
fewer than `FEW` images. Of five real sets the extremes of 40 images refuse 6 to 7 % of the others,
these bounds 0 to 0.3 %; those of 16 images refuse 14 to 17 %, these 0 to 0.1 %."""
LEAST_BOUND = {"range": 0.03, "noise": 0.1}
"""No upper bound lies below this: some sets have no clipped pixel, or no colour at all."""


class Calibration(BaseModel):
    """What real images score: thresholds, and (least, median, greatest) by class and gate."""

    model_config = ConfigDict(frozen=True)

    images: int
    thresholds: PixelGates
    real: Mapping[str, Mapping[str, tuple[float, float, float]]]


def calibration_of(generator: Generator) -> Calibration | None:
    """Return what the real images score that a generator learnt; None: nobody measured them.

    Raises:
        ModelError: its manifest holds something else.
    """
    stored = generator.manifest.get("gates")
    if stored is None:
        return None
    try:
        return parse_config(Calibration, stored, where=f"gates of generator {generator.name}")
    except ConfigError as error:
        raise ModelError(error.what, remedy="Train it again, or remove `gates`") from error


def calibrate(images: Iterable[NDArray[np.uint8]], labels: Sequence[str]) -> Calibration:
    """Return the calibration of real images (H, W, 3) RGB at the size that is drawn.

    Args:
        images: one or more.
        labels: the class of each.
    """
    judged = [PixelGates().judge(image) for image in images]
    gates = [verdict.gate for verdict in judged[0]]
    scores = np.array([[verdict.score for verdict in each] for each in judged])
    margin = MARGIN_OF_FEW if len(judged) < FEW else MARGIN
    least, greatest = (dict(zip(gates, f(axis=0), strict=True)) for f in (scores.min, scores.max))

    def above(gate: str) -> float:
        return _short(max(greatest[gate] / margin, LEAST_BOUND[gate]))

    return Calibration(
        images=len(judged),
        thresholds=PixelGates(
            min_contrast=_short(margin * least["blank"]),
            max_clipped=min(1.0, above("range")),
            min_sharpness=_short(margin * least["blur"]),
            max_noise=above("noise"),
        ),
        real={
            name: dict(
                zip(gates, _spread(scores[[label == name for label in labels]]), strict=True)
            )
            for name in sorted(set(labels))
        },
    )


def gates_for(asked: PixelGates | None, measured: Calibration | None) -> PixelGates:
    """Return the thresholds that judge a run.

    Those that a configuration names count; the others are the generator's own, where it brings
    some, else those of `otherwise`, else the defaults.

    Args:
        asked: of the configuration; None: nothing is refused.
        measured: of the generator.
    """
    if asked is None:
        return PixelGates(min_contrast=None, max_clipped=None, min_sharpness=None)
    known = measured.thresholds if measured else asked.otherwise
    if known is None or (asked.otherwise is None and asked != PixelGates()):
        return asked
    if asked.otherwise is None:  # all at their defaults: nobody named them
        return known
    named = asked.model_dump(include=asked.model_fields_set - {"otherwise"})
    return known.model_copy(update=named)


def _spread(scores: NDArray[np.float64]) -> list[tuple[float, ...]]:
    """Return (least, median, greatest) of every column of (N, gates)."""
    return [tuple(map(_short, column)) for column in np.quantile(scores, [0, 0.5, 1], axis=0).T]


def _short(value: float) -> float:
    return float(f"{value:.4g}")
