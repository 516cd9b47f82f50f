"""KID and Frechet distance between two sets of features, through torch-fidelity.

Both are named by their feature space, because figures in different spaces do not compare.
"""

import numpy as np
import torch
from torch import Tensor

from factory.errors import DataError
from factory.evaluate.features import Features
from factory.evaluate.intervals import Z95, Estimate

SUBSETS = 100


def kid(drawn: Features, reference: Features, *, seed: int = 0) -> Estimate:
    """Return the kernel distance of two sets of features (N, D) and (M, D): 0 is equal.

    The unbiased polynomial MMD^2 of M. Binkowski et al. (Demystifying MMD GANs, ICLR 2018), as the
    mean over 100 random subsets of half the smaller set. The spread over half-samples is the
    sampling error at the whole n (half-sampling, a delete-d jackknife: J. Shao and C. Wu, Annals
    of Statistics 1989); it is too wide for the larger set, so the interval is on the safe side.
    Values slightly below 0 are possible: the estimate is unbiased.

    Raises:
        DataError: fewer than 4 images in a set.
    """
    from torch_fidelity.metric_kid import (
        KEY_METRIC_KID_MEAN,
        KEY_METRIC_KID_STD,
        kid_features_to_metric,
    )

    found = kid_features_to_metric(
        _tensor(drawn),
        _tensor(reference),
        kid_subsets=SUBSETS,
        kid_subset_size=min(len(drawn), len(reference)) // 2,
        rng_seed=seed,
        verbose=False,
    )
    value, half = found[KEY_METRIC_KID_MEAN], Z95 * found[KEY_METRIC_KID_STD]
    return Estimate(value=value, low=value - half, high=value + half, n=len(drawn))


def frechet_distance(drawn: Features, reference: Features) -> float:
    """Return the Frechet distance of the normal distributions fitted to two sets of features.

    It falls as either set grows, whatever they show (M. Chong and D. Forsyth, CVPR 2020): read it
    only beside a floor at the same n. With fewer images than features the covariances are
    singular; torch-fidelity's eigenvalues still give the distance.

    Raises:
        DataError: fewer than 4 images in a set.
    """
    from torch_fidelity.metric_fid import (
        KEY_METRIC_FID,
        fid_features_to_statistics,
        fid_statistics_to_metric,
    )

    statistics = [fid_features_to_statistics(_tensor(part)) for part in (drawn, reference)]
    return float(fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID])


def _tensor(features: Features) -> Tensor:
    """Return float64: sums over a thousand squared features lose digits in float32."""
    if len(features) < 4:
        raise DataError(
            f"{len(features)} images are too few for a distance of distributions",
            remedy="Draw at least 4",
        )
    return torch.from_numpy(features.astype(np.float64))
