"""How far two sets of features lie apart: KID, Frechet distance, and how they cover each other.

All are named by their feature space, because figures in different spaces do not compare.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from factory.arrays import Features
from factory.errors import DataError
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """How two sets of features cover each other, in shares of images; see `overlap`."""

    precision: float
    """Drawn images that lie where real ones do: fidelity."""
    recall: float
    """Real images that lie where drawn ones do: diversity."""
    density: float
    """As precision, but counting the balls around a drawn image; a dense set may exceed 1."""
    coverage: float
    """Real images in whose ball a drawn one lies."""


def overlap(drawn: Features, reference: Features, *, neighbours: int = 5) -> Overlap:
    """Return precision, recall, density and coverage of features (N, D) and (M, D).

    A set covers the balls around its images that reach to their k-th nearest neighbour in it.
    Precision and recall of T. Kynkaanniemi et al. (Improved Precision and Recall Metric, NeurIPS
    2019), density and coverage of M. Naeem et al. (Reliable Fidelity and Diversity Metrics, ICML
    2020), who take k = 5. All move with N and M: read them beside those of real images.

    Raises:
        DataError: not more images than neighbours in a set.
    """
    if min(len(drawn), len(reference)) <= neighbours:
        raise DataError(
            f"{min(len(drawn), len(reference))} images have no {neighbours} neighbours each",
            remedy=f"Draw, or hold out, more than {neighbours}",
        )
    ours, real = (torch.from_numpy(part.astype(np.float32)) for part in (drawn, reference))
    reach_ours, reach_real = (
        torch.cdist(part, part).kthvalue(neighbours + 1).values for part in (ours, real)
    )
    gaps = torch.cdist(ours, real)
    inside_real = gaps <= reach_real
    return Overlap(
        precision=float(inside_real.any(1).float().mean()),
        recall=float((gaps <= reach_ours[:, None]).any(0).float().mean()),
        density=float(inside_real.sum(1).float().mean() / neighbours),
        coverage=float((gaps.min(0).values <= reach_real).float().mean()),
    )
