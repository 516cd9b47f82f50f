"""Diversity: how unlike each other the images of one class are, and how like real ones.

1 - the mean SSIM of all pairs (Z. Wang et al., Image Quality Assessment: From Error Visibility to
Structural Similarity, 2004), as Feature-Aligned Diffusion reports it: 0 where all images are the
same. It rewards noise as well: read it beside the figure of real images. The same with MS-SSIM (Z.
Wang et al., Multi-scale Structural Similarity, 2003), and the mean LPIPS of pairs.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from factory.arrays import Images
from factory.errors import DataError
from factory.measure.intervals import Z95, Estimate

PAIRS_AT_ONCE = 256
"""Of 64 px and less: of more, as many as have their pixels. An SSIM holds some 20 times as much."""
MOST, LEAST_OF_MANY = 64, 16
"""Images of a class whose pairs are compared: 64 of 64 px and less have 2,016 pairs; of more pixels
fewer images, for the same work, but not less than 16."""
USUAL_PX = 64
WINDOW_PX = 11
"""Of an SSIM: the least side of an image."""
SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Weights of the five scales of an MS-SSIM, the finest first."""
Pairwise = Callable[[Images], NDArray[np.float64]]
"""Images (N, S, S, 3) to how unlike each two are, (N, N); 0 on the diagonal."""


def diversity(images: Images, unlike: Pairwise) -> Estimate:
    """Return the mean of `unlike` over all pairs of images (N, S, S, 3) of one class.

    The interval is normal, from the jackknife that leaves out one image at a time: pairs that
    share an image are not independent.

    Raises:
        DataError: fewer than 3 images.
    """
    if len(images) < 3:
        raise DataError(
            f"{len(images)} images have no pairs to compare", remedy="Draw 3 or more of a class"
        )
    found, count = unlike(images), len(images)
    total, own = found.sum() / 2, found.sum(axis=1)
    value = total / (count * (count - 1) / 2)
    without = (total - own) / ((count - 1) * (count - 2) / 2)
    spread = math.sqrt((count - 1) / count * float(((without - without.mean()) ** 2).sum()))
    return Estimate(value=value, low=value - Z95 * spread, high=value + Z95 * spread, n=count)


def ssim_diversity(images: Images) -> Estimate:
    """Return 1 - mean pairwise SSIM of images (N, S, S, 3) of one class, S >= 11.

    Raises:
        DataError: fewer than 3 images.
    """
    return diversity(images, unlike_by_ssim)


def mean_diversity(by_class: Mapping[str, Estimate]) -> Estimate:
    """Return the unweighted mean over independent classes, with its normal interval."""
    found = list(by_class.values())
    value = sum(each.value for each in found) / len(found)
    half = math.sqrt(sum((each.high - each.value) ** 2 for each in found)) / len(found)
    count = sum(each.n for each in found)
    return Estimate(value=value, low=value - half, high=value + half, n=count)


def unlike_by_ssim(images: Images) -> NDArray[np.float64]:
    """Return 1 - SSIM of all pairs."""
    return _unlike(images, betas=None)


def unlike_by_ms_ssim(images: Images) -> NDArray[np.float64]:
    """Return 1 - MS-SSIM of all pairs, over as many of the five scales as the side allows.

    Each scale halves the side, and the coarsest must still hold an SSIM's window: five scales from
    176 px on, three at 64 px. Their weights are those of the paper, brought to a sum of 1.
    """
    side = min(images.shape[1:3])
    scales = max(1, min(len(SCALES), int(math.log2(side / WINDOW_PX)) + 1))
    betas = tuple(weight / sum(SCALES[:scales]) for weight in SCALES[:scales])
    return _unlike(images, betas=betas)


def _unlike(images: Images, *, betas: tuple[float, ...] | None) -> NDArray[np.float64]:
    first, second = np.triu_indices(len(images), k=1)
    found = np.zeros((len(images), len(images)))
    alike = _alike(images, first, images, second, betas=betas)
    found[first, second] = found[second, first] = 1 - alike
    return found


def most_of(side_px: int) -> int:
    """Return how many images of a class are compared in pairs, by their side."""
    return max(LEAST_OF_MANY, MOST * USUAL_PX // max(side_px, USUAL_PX))


def ssim(
    images: Images, others: Images, *, betas: tuple[float, ...] | None = None
) -> NDArray[np.float64]:
    """Return (N,) the structural similarity of images (N, S, S, 3) and their partners.

    Args:
        images: uint8, S >= 11.
        others: likewise.
        betas: weights of the scales of an MS-SSIM; None: one scale.
    """
    rows = np.arange(len(images))
    return _alike(images, rows, others, rows, betas=betas)


def _alike(
    images: Images,
    rows: NDArray[np.intp],
    others: Images,
    partners: NDArray[np.intp],
    *,
    betas: tuple[float, ...] | None,
) -> NDArray[np.float64]:
    """Return the similarities of these rows and their partners, which are gathered some at a time.

    All pairs of large images at once fill a memory.
    """
    from torchmetrics.functional.image import (
        multiscale_structural_similarity_index_measure,
        structural_similarity_index_measure,
    )

    share = min(1.0, USUAL_PX**2 / (images.shape[1] * images.shape[2]))
    found, step = [], max(1, int(PAIRS_AT_ONCE * share))
    for n in range(0, len(rows), step):
        a, b = _unit(images[rows[n : n + step]]), _unit(others[partners[n : n + step]])
        if betas is None:
            scores = structural_similarity_index_measure(a, b, data_range=1.0, reduction="none")
        else:
            scores = multiscale_structural_similarity_index_measure(
                a, b, data_range=1.0, reduction="none", betas=betas, normalize="relu"
            )
        found.append(torch.as_tensor(scores).double().reshape(-1).numpy())
    return np.concatenate(found) if found else np.empty(0)


def _unit(images: Images) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def diversity_by_class(
    images: Images, labels: Sequence[str], unlike: Pairwise = unlike_by_ssim
) -> dict[str, Estimate]:
    """Return the diversity of every class of three images or more among (N, S, S, 3).

    Args:
        images: of all classes; of each the first `most_of` their side are compared.
        labels: N class names.
        unlike: how two images are compared.
    """
    own, found, most = np.array(labels), {}, most_of(images.shape[1])
    for name in sorted(set(labels)):
        members = images[own == name][:most]
        if len(members) >= 3:
            found[name] = diversity(members, unlike)
    return found
