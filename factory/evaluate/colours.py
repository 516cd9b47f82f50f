"""Colours of the cell in the middle: a space of its own, because ImageNet features forget hues."""

import numpy as np

from factory.measure.features import Features, Images

COLOURS = "colours"
_LEVELS = np.linspace(0.025, 0.975, 19)


def colour_quantiles(images: Images) -> Features:
    """Return features (N, 114) of images (N, S, S, 3): 19 quantiles each of R, G, B, R-G, R-B, G-B.

    Taken over the central 5/8 of each side, where the cell is. Turns do not change them. On
    held-out cells they tell 'blue' from 'purple blue' cytoplasm of lymphocytes at 0.76 balanced
    accuracy, efficientnet_lite0 at 0.56 (chance 0.5, n = 113).
    """
    edge = images.shape[1] * 3 // 16
    inner = images[:, edge : images.shape[1] - edge, edge : images.shape[2] - edge]
    red, green, blue = np.moveaxis(inner.reshape(len(images), -1, 3).astype(np.float32), 2, 0)
    channels = [red, green, blue, red - green, red - blue, green - blue]
    found = [np.quantile(channel, _LEVELS, axis=1).T for channel in channels]
    return np.concatenate(found, axis=1).astype(np.float32)
