"""Gates on pixels alone: blank, range and blur. Cheap, so they run on every image.

All take an RGB image (H, W, 3) uint8. Thresholds are a preset's business: the defaults only catch
what is broken in any stain; `factory/presets/wbc.yaml` says how its own were measured.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from factory.gate.verdict import Verdict

Share = Annotated[float, Field(ge=0, le=1)]
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


class PixelGates(BaseModel):
    """Thresholds of the pixel gates; null switches a gate's rejection off, its score stays."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    min_contrast: Share | None = 0.02
    max_clipped: Share | None = 0.5
    min_sharpness: float | None = Field(default=0.005, ge=0)  # rounding to 8 bits gives 0.0035

    def judge(self, image: NDArray[np.uint8]) -> list[Verdict]:
        """Return the verdicts of the gates 'blank', 'range' and 'blur', in this order."""
        grey = (image.astype(np.float32) @ _LUMA / 255).astype(np.float32)
        contrast, clipped, sharpness = _contrast(grey), _clipped_share(image), _sharpness(grey)
        return [
            _at_least("blank", "contrast", contrast, self.min_contrast),
            _at_most("range", "clipped share", clipped, self.max_clipped),
            _at_least("blur", "sharpness", sharpness, self.min_sharpness),
        ]


def score_columns(verdicts: list[Verdict]) -> Mapping[str, Any]:
    """Return the catalog columns of verdicts: `<gate>_score` for each."""
    return {f"{verdict.gate}_score": verdict.score for verdict in verdicts}


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
