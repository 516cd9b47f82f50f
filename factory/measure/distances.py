"""KID, through torch-fidelity, and the Frechet distance between two sets of features.

Both are named by their feature space, because figures in different spaces do not compare.
"""

import numpy as np
import torch
from torch import Tensor

from factory.errors import DataError
from factory.measure.features import Features
from factory.measure.intervals import Z95, Estimate

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

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) of D. Dowson and B. Landau (The Frechet distance
    between multivariate normal distributions, 1982). With S = A^T A, A the centred features over
    sqrt(N - 1), the last trace is the sum of the singular values of A B^T: exact, and for a few
    hundred images a thousand times faster than the root of a (D, D) matrix.

    Raises:
        DataError: fewer than 4 images in a set.
    """
    (first, a), (second, b) = (_centred(part) for part in (drawn, reference))
    roots = torch.linalg.svdvals(a @ b.T).sum()
    return float((first - second).square().sum() + a.square().sum() + b.square().sum() - 2 * roots)


def _centred(features: Features) -> tuple[Tensor, Tensor]:
    """Return the mean (D,) and A (N, D) as above, or an (D, D) matrix with the same A^T A."""
    values = _tensor(features)
    mean = values.mean(0)
    deviations = (values - mean) / (len(values) - 1) ** 0.5
    if len(values) > values.shape[1]:
        deviations = torch.linalg.qr(deviations, mode="r").R
    return mean, deviations


def _tensor(features: Features) -> Tensor:
    """Return float64: sums over a thousand squared features lose digits in float32."""
    if len(features) < 4:
        raise DataError(
            f"{len(features)} images are too few for a distance of distributions",
            remedy="Draw at least 4",
        )
    return torch.from_numpy(features.astype(np.float64))
