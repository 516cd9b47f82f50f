"""Gates on pixels alone: blank, range, blur and noise. Cheap, so they run on every image.

All take an RGB image (H, W, 3) uint8. Thresholds are a generator's business, which measured its
real images (`factory.gate.calibration`): the defaults only catch what is broken in any stain.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from factory.arrays import Images, Masks
from factory.config import Share
from factory.gate.gate import Gate, Judge, Score
from factory.gate.verdict import Verdict
from factory.measure.bank_file import LUMA


class PixelGates(Gate):
    """Thresholds of the pixel gates; null switches a gate's rejection off, its score stays.

    Those that a configuration does not name are the generator's own, measured on the real images
    that it learnt (`factory.gate.calibration`); a null section refuses nothing.
    """

    key: ClassVar[str] = "gates"
    scores: ClassVar[tuple[Score, ...]] = (
        Score(gate="blank", low="min_contrast"),
        Score(gate="range", high="max_clipped"),
        Score(gate="blur", low="min_sharpness"),
        Score(gate="noise", high="max_noise"),
    )

    min_contrast: Share | None = 0.02
    max_clipped: Share | None = 0.5
    min_sharpness: float | None = Field(default=0.005, ge=0)  # rounding to 8 bits gives 0.0035
    max_noise: float | None = Field(default=None, ge=0)
    otherwise: "PixelGates | None" = None
    """Thresholds where the generator brings none of its own; null: the defaults."""

    @model_validator(mode="after")
    def _once(self) -> Self:
        if self.otherwise is not None and self.otherwise.otherwise is not None:
            raise ValueError("otherwise: one is enough")
        return self

    @model_serializer(mode="wrap")
    def _without_later_keys(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out keys that gates learnt later while they say nothing: runs keep their names."""
        dumped: dict[str, Any] = handler(self)
        if self.otherwise is not None:  # what is not named is still to be filled in
            return {k: v for k, v in dumped.items() if k in self.model_fields_set}
        return {k: v for k, v in dumped.items() if k not in _LATER or v is not None}

    @classmethod
    def default(cls) -> Self:
        """Return thresholds that only catch what is broken in any stain."""
        return cls()

    def open(self) -> Judge:
        """See `Gate`."""

        def judge(
            images: Images, _masks: Masks | None, _classes: Sequence[str]
        ) -> list[list[Verdict]]:
            return [self.judge(image) for image in images]

        return judge

    def judge(self, image: NDArray[np.uint8]) -> list[Verdict]:
        """Return the verdicts of the gates 'blank', 'range', 'blur' and 'noise', in this order."""
        grey = (image.astype(np.float32) @ LUMA / 255).astype(np.float32)
        contrast, clipped, sharpness = _contrast(grey), _clipped_share(image), _sharpness(grey)
        return [
            _at_least("blank", "contrast", contrast, self.min_contrast),
            _at_most("range", "clipped share", clipped, self.max_clipped),
            _at_least("blur", "sharpness", sharpness, self.min_sharpness),
            _at_most("noise", "coloured grain", _noise(image), self.max_noise),
        ]


_LATER = ("max_noise", "otherwise")


def _contrast(grey: NDArray[np.float32]) -> float:
    """Return the standard deviation of luminance, 0..0.5; an empty field is near 0."""
    return float(grey.std())


def _clipped_share(image: NDArray[np.uint8]) -> float:
    """Return the share of channel values at 0 or 255, 0..1; collapsed samples are near 1."""
    return float(((image == 0) | (image == 255)).mean())


def _sharpness(grey: NDArray[np.float32]) -> float:
    """Return the standard deviation of the 4-neighbour Laplacian of luminance, 0..2.

    Source: J. Pech-Pacheco et al., Diatom Autofocusing in Brightfield Microscopy, 2000 (variance
    of the Laplacian); the root keeps it in units of luminance.
    """
    centre = grey[1:-1, 1:-1]
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    return float((around - 4 * centre).std())


def _noise(image: NDArray[np.uint8]) -> float:
    """Return how much of an image is coloured grain, 0 to about 1: pure noise.

    Real cells and tissue reach 0.02 to 0.05 at 64 px, and 0 without colour. It is the share of the
    variance that lies between neighbouring pixels (J. von Neumann, Distribution of the Ratio of the
    Mean Square Successive Difference to the Variance, 1941), times how little the three colours
    agree in these steps: fine texture has the first, noise alone has both.
    """
    pixels = image.astype(np.float32)
    variance = pixels.var(axis=(0, 1)).clip(min=1e-6)
    down, right = np.diff(pixels, axis=0), np.diff(pixels, axis=1)
    grain = [np.square(steps).mean(axis=(0, 1)) for steps in (down, right)]
    share = float((sum(grain) / (4 * variance)).mean())
    red, green, blue = np.concatenate([down.reshape(-1, 3), right.reshape(-1, 3)]).T
    agreement = [_cosine(*pair) for pair in ((red, green), (red, blue), (green, blue))]
    return share * (1 - sum(agreement) / 3)


def _cosine(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Without a matrix product, whose sums depend on the number of threads."""
    length = float(np.sqrt(np.square(first).mean() * np.square(second).mean()))
    return float((first * second).mean()) / max(length, 1e-6)


def _at_least(gate: str, what: str, score: float, bound: float | None) -> Verdict:
    low = bound is not None and score < bound
    return Verdict(
        gate=gate, score=score, reason=f"{what} {score:.4g} below {bound:.4g}" if low else ""
    )


def _at_most(gate: str, what: str, score: float, bound: float | None) -> Verdict:
    high = bound is not None and score > bound
    return Verdict(
        gate=gate, score=score, reason=f"{what} {score:.4g} above {bound:.4g}" if high else ""
    )
