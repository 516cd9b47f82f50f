"""Diversity: how unlike each other the images of one class are, by structural similarity.

1 - the mean SSIM of all pairs (Z. Wang et al., Image Quality Assessment: From Error Visibility to
Structural Similarity, 2004), as Feature-Aligned Diffusion reports it: 0 where all images are the
same. It rewards noise as well: read it beside the figure of real images.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from factory.errors import DataError
from factory.measure.features import Images
from factory.measure.intervals import Z95, Estimate

PAIRS_AT_ONCE = 256


def ssim_diversity(images: Images) -> Estimate:
    """Return 1 - mean pairwise SSIM of images (N, S, S, 3) of one class, S >= 11.

    The interval is normal, from the jackknife that leaves out one image at a time: pairs that
    share an image are not independent.

    Raises:
        DataError: fewer than 3 images.
    """
    if len(images) < 3:
        raise DataError(
            f"{len(images)} images have no pairs to compare", remedy="Draw 3 or more of a class"
        )
    similarity, count = pairwise_ssim(images), len(images)
    total, own = similarity.sum() / 2, similarity.sum(axis=1)
    value = 1 - total / (count * (count - 1) / 2)
    without = 1 - (total - own) / ((count - 1) * (count - 2) / 2)
    spread = math.sqrt((count - 1) / count * float(((without - without.mean()) ** 2).sum()))
    return Estimate(value=value, low=value - Z95 * spread, high=value + Z95 * spread, n=count)


def diversity_by_class(images: Images, labels: Sequence[str]) -> dict[str, Estimate]:
    """Return the diversity of every class among images (N, S, S, 3).

    Raises:
        DataError: a class with fewer than 3 images.
    """
    own = np.array(labels)
    return {name: ssim_diversity(images[own == name]) for name in sorted(set(labels))}


def mean_diversity(by_class: Mapping[str, Estimate]) -> Estimate:
    """Return the unweighted mean over independent classes, with its normal interval."""
    found = list(by_class.values())
    value = sum(each.value for each in found) / len(found)
    half = math.sqrt(sum((each.high - each.value) ** 2 for each in found)) / len(found)
    count = sum(each.n for each in found)
    return Estimate(value=value, low=value - half, high=value + half, n=count)


def pairwise_ssim(images: Images) -> NDArray[np.float64]:
    """Return the SSIM of all pairs of images (N, S, S, 3), (N, N); 0 on the diagonal."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    shown = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    first, second = np.triu_indices(len(images), k=1)
    found = np.zeros((len(images), len(images)))
    for start in range(0, len(first), PAIRS_AT_ONCE):
        a, b = first[start : start + PAIRS_AT_ONCE], second[start : start + PAIRS_AT_ONCE]
        scores = structural_similarity_index_measure(
            shown[a], shown[b], data_range=1.0, reduction="none"
        )
        found[a, b] = found[b, a] = torch.as_tensor(scores).double().numpy()
    return found
