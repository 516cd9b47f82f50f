"""What a bridge says of its images beside their pixels: soft labels, depths, features, verdicts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from factory.digest import canonical_json
from factory.errors import ConfigError
from factory.gate.verdict import Verdict
from factory.methods.bridge.depths import Depths, moved
from factory.methods.bridge.plan import BridgeOptions
from factory.models.experts import Expert

Key = tuple[str, int]
"""Source id and k - 1."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Progression:
    """One source, inverted: its feature at every level, its m depths, its states there."""

    curve: NDArray[np.float64]
    """(N + 1,)"""
    depths: Depths
    states: Tensor
    """(m, C, h, w)"""
    psnr_db: float | None
    """Of the round trip through its own domain; None: not tried."""
    evaluations: int
    """Of networks, for this source and all its depths."""


def columns_of(
    keys: Sequence[Key],
    progressions: Mapping[str, Progression],
    images: Tensor,
    sources: Mapping[str, Tensor],
    *,
    class_names: Sequence[str],
    options: BridgeOptions,
    expert: Expert | None,
) -> dict[str, list[Any]]:
    """Return the catalog columns of `images` (n, 3, H, W) in [-1, 1], one value per key.

    Args:
        keys: what each image is.
        progressions: by source id.
        images: as drawn.
        sources: id -> (3, H, W), the real image.
        class_names: in the order of the soft labels.
        options: of the recipe, with its one pair.
        expert: where the options ask one.
    """
    (source, target), top = options.pairs[0], len(next(iter(progressions.values())).curve) - 1
    fractions = _fractions(keys, progressions, images, options, expert, top)
    similar = ssim(images, torch.stack([sources[image_id] for image_id, _ in keys]))
    labels, depths, told = [], [], []
    for (image_id, k), fraction, likeness in zip(keys, fractions, similar.tolist(), strict=True):
        each = progressions[image_id]
        depth = each.depths[k]
        labels.append(list(soft_label(fraction, source, target, class_names)))
        depths.append(depth / top)
        facts = {
            "source": source,
            "depth": depth,
            "feature": float(each.curve[depth]),
            "evaluations": each.evaluations,
            "ssim_to_source": round(likeness, 6),
        }
        if each.psnr_db is not None:
            facts["inversion_psnr_db"] = round(each.psnr_db, 3)
        told.append(canonical_json(facts))
    return {"soft_label": labels, "bridge_depth": depths, "guidance_terms": told}


def verdicts_of(
    keys: Sequence[Key], progressions: Mapping[str, Progression], options: BridgeOptions
) -> list[list[Verdict]]:
    """Return the inversion gate's verdict on each image; none where it was not tried."""
    found: list[list[Verdict]] = []
    for image_id, _ in keys:
        psnr = progressions[image_id].psnr_db
        if psnr is None or options.min_psnr_db is None:
            found.append([])
            continue
        low = psnr < options.min_psnr_db
        reason = (
            f"source {image_id} comes back from its noise at {psnr:.1f} dB,"
            f" {options.min_psnr_db:g} are wanted"
        )
        found.append([Verdict(gate="inversion", score=None, reason=reason if low else "")])
    return found


def ssim(images: Tensor, others: Tensor) -> Tensor:
    """Return (n,) structural similarity of images (n, 3, H, W) in [-1, 1], 1 for equal ones.

    Source: Z. Wang et al., Image Quality Assessment, 2004, as torchmetrics computes it.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    found: Any = structural_similarity_index_measure(
        images.clamp(-1, 1), others, data_range=2.0, reduction="none"
    )
    return torch.as_tensor(found).reshape(-1)


def _fractions(
    keys: Sequence[Key],
    progressions: Mapping[str, Progression],
    images: Tensor,
    options: BridgeOptions,
    expert: Expert | None,
    top: int,
) -> list[float]:
    if options.soft_label == "expert" and expert is not None:
        return _by_expert(keys, images, options, expert)
    by_source = {}
    for image_id, each in progressions.items():
        if options.soft_label == "depth":
            by_source[image_id] = depth_fractions(each.depths, top)
        else:
            by_source[image_id] = feature_fractions(each.curve.tolist(), each.depths)
    return [float(np.clip(by_source[image_id][k], 0, 1)) for image_id, k in keys]


def _by_expert(
    keys: Sequence[Key], images: Tensor, options: BridgeOptions, expert: Expert
) -> list[float]:
    """Return fractions from an expert's probabilities, rising over the images of one source."""
    device = next(expert.parameters()).device
    scores = expert(images.clamp(-1, 1).to(device)).softmax(1).double().cpu().numpy()
    names = expert.spec.class_names
    source, target = (names.index(name) for name in options.pairs[0])
    found = [0.0] * len(keys)
    for image_id in dict.fromkeys(image_id for image_id, _ in keys):
        rows = sorted((k, row) for row, (name, k) in enumerate(keys) if name == image_id)
        ordered = [row for _, row in rows]
        fractions = expert_fractions(scores[ordered], source, target)
        for row, value in zip(ordered, fractions, strict=True):
            found[row] = float(np.clip(value, 0, 1))
    return found


def depth_fractions(depths: Sequence[int], top: int) -> NDArray[np.float64]:
    """Return (m,) depth / top: the share of the diffusion's levels that an image went through."""
    return np.asarray(depths, np.float64) / top


def feature_fractions(curve: Sequence[float], depths: Sequence[int]) -> NDArray[np.float64]:
    """Return (m,) the share of the feature's range that it has covered at every depth."""
    return moved(curve)[list(depths)]


def expert_fractions(
    probabilities: NDArray[np.float64], source: int, target: int
) -> NDArray[np.float64]:
    """Return (m,) `odds` of the images k = 1 .. m of one source, made to rise with k.

    The images of one source are a progression by construction, so where the expert's scores fall,
    they are replaced by the rising sequence nearest to them in least squares.

    Args:
        probabilities: (m, classes) of the images k = 1 .. m of one source.
        source, target: columns.
    """
    return rising(odds(probabilities, source, target))


def odds(probabilities: NDArray[np.float64], source: int, target: int) -> NDArray[np.float64]:
    """Return (n,) p(target) / (p(source) + p(target)) of (n, classes): 0 source, 1 target."""
    pair = probabilities[:, [source, target]]
    return np.asarray(pair[:, 1] / np.maximum(pair.sum(1), np.finfo(np.float64).tiny))


def rising(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the nearest non-decreasing sequence in least squares: pool adjacent violators.

    Source: R. Barlow et al., Statistical Inference under Order Restrictions, 1972.
    """
    pools: list[tuple[float, int]] = []
    for value in values:
        mean, size = float(value), 1
        while pools and pools[-1][0] > mean:
            other, count = pools.pop()
            mean, size = (mean * size + other * count) / (size + count), size + count
        pools.append((mean, size))
    return np.repeat([mean for mean, _ in pools], [size for _, size in pools])


def soft_label(
    fraction: float, source: str, target: str, class_names: Sequence[str]
) -> tuple[float, ...]:
    """Return a weight per class: 1 - `fraction` at the source, `fraction` at the target.

    Raises:
        ConfigError: a fraction outside 0 .. 1, or a class that is not listed.
    """
    if not 0 <= fraction <= 1:
        raise ConfigError(
            f"a soft label of fraction {fraction}", remedy="Give a fraction from 0 to 1"
        )
    weights = dict.fromkeys(class_names, 0.0)
    if missing := [name for name in (source, target) if name not in weights]:
        raise ConfigError(
            f"class {missing[0]!r} is none of {', '.join(class_names)}",
            remedy="Name two classes of the generators",
        )
    weights[source] += 1 - fraction
    weights[target] += fraction
    return tuple(weights.values())
