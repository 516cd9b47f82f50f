"""Colour transfer: the linear map that gives an image the colours of another."""

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.float64]
_FLOOR = 1e-10
"""Least variance along an axis of colour, of values in 0..1: a grey image has none."""


def match_colours(image: Pixels, target: Pixels) -> Pixels:
    """Return `image` (..., 3) moved linearly to the mean and covariance of `target` (..., 3).

    The map of least displacement between two Gaussians. Values keep their units and may leave
    their range; nothing is clipped here.
    Source: F. Pitie and A. Kokaram, The Linear Monge-Kantorovitch Linear Colour Mapping for
    Example-Based Colour Transfer, 2007, equation 5.
    """
    colours, wanted = image.reshape(-1, 3), target.reshape(-1, 3)
    root = _power(_covariance(colours), 0.5)
    inverse = _power(_covariance(colours), -0.5)
    between = _power(root @ _covariance(wanted) @ root, 0.5)
    moved: Pixels = (colours - colours.mean(0)) @ (inverse @ between @ inverse) + wanted.mean(0)
    return moved.reshape(image.shape)


def _covariance(colours: Pixels) -> Pixels:
    return np.cov(colours, rowvar=False)


def _power(matrix: Pixels, exponent: float) -> Pixels:
    """Return a power of a symmetric positive matrix (3, 3)."""
    values, vectors = np.linalg.eigh(matrix)
    powered: Pixels = (vectors * np.maximum(values, _FLOOR) ** exponent) @ vectors.T
    return powered
