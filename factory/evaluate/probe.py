"""A probe: a linear head on frozen features of turned views, of what an arm holds."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from factory.arrays import Features, Floats
from factory.evaluate.arms import Manifest, Row
from factory.evaluate.config import Probe
from factory.evaluate.head import (
    MOST_LEFT_OUT,
    Examples,
    Head,
    Space,
    chosen_strength,
    fit_head,
    joined,
    stacked_space,
)
from factory.evaluate.units import Material


def fit_probe(settings: Probe, manifest: Manifest, material: Material) -> tuple[Head, float]:
    """Return the head of an arm, and its strength C."""
    if manifest.ways.select:
        manifest = selected(settings, manifest, material)
    examples, start = examples_of(settings, manifest, material), None
    own = examples.left_out >= 0
    if own.any() and not own.all() and manifest.ways.stacked:
        first = fit_head(settings, examples.of_others(), settings.strength or 1.0)
        examples = examples.of_own()
        space, strength = stacked_space(settings, examples, first)
    elif own.any() and not own.all() and manifest.ways.stages:
        space = Space.of(examples)
        start = fit_head(settings, examples.of_others(), settings.strength or 1.0, space)
        examples = examples.of_own()
        strength = settings.strength or chosen_strength(settings, examples, space, start)
    else:
        space = Space.of(examples)
        strength = settings.strength or chosen_strength(settings, examples, space)
    head = fit_head(settings, examples, strength, space, start)
    unlabelled = [row for row in manifest.rows if row.is_unlabelled]
    if unlabelled:
        views = [views_of(row, settings, manifest, material) for row in unlabelled]
        weights = np.array([row.weight for row in unlabelled])
        for keep in manifest.keep:
            named = surest(views, head, weights, keep=keep)
            beside = space if manifest.ways.stacked else None
            head = fit_head(settings, joined(examples, named), strength, beside)
    return head, strength


def selected(settings: Probe, manifest: Manifest, material: Material) -> Manifest:
    """Return the arm with those of its other images alone that its `select` keeps.

    They weigh as much as all did. A head judges that has seen neither them nor, to agree, any real
    image of the study: one that is fitted to the other half of them.
    """
    rows = [row for row in manifest.rows if row.synthetic or row.made == "source"]
    own = [row for row in manifest.rows if not (row.synthetic or row.made)]
    sure = _crossed(settings, rows, manifest, material)
    agreed = [row for row, agrees in zip(rows, sure, strict=True) if agrees]
    kept = agreed or rows
    if manifest.ways.select == "uncertain" and own:
        head = _head_of(settings, own, manifest, material)
        most = head.chances(_first_views(kept, manifest, material)).max(axis=1)
        kept = [kept[n] for n in np.argsort(most, kind="stable")[: max(1, len(kept) // 2)]]
    factor = sum(row.weight for row in rows) / sum(row.weight for row in kept)
    told = [replace(row, weight=factor * row.weight) for row in kept]
    return replace(manifest, rows=(*own, *told))


def _crossed(
    settings: Probe, rows: Sequence[Row], manifest: Manifest, material: Material
) -> list[bool]:
    """Return of each row whether a head of the other half of them names it as it is labelled."""
    found = np.zeros(len(rows), bool)
    for half in (0, 1):
        held = rows[half::2]
        head = _head_of(settings, rows[1 - half :: 2], manifest, material)
        said = head.chances(_first_views(held, manifest, material)).argmax(axis=1)
        found[half::2] = said == [int(np.argmax(row.soft_label)) for row in held]
    return list(found.tolist())


def _head_of(settings: Probe, rows: Sequence[Row], manifest: Manifest, material: Material) -> Head:
    """Return a head of the first view of each of some rows."""
    examples = Examples(
        features=_first_views(rows, manifest, material),
        labels=np.array([row.soft_label for row in rows]),
        weights=np.array([row.weight for row in rows]),
        left_out=np.full(len(rows), -1),
    )
    return fit_head(settings, examples, settings.strength or 1.0)


def _first_views(rows: Sequence[Row], manifest: Manifest, material: Material) -> Features:
    shown = [manifest.shown_as(row)[0] for row in rows]
    return np.stack([material.views_of(i, manifest.ways.expert)[0] for i in shown])


def surest(views: Sequence[Features], head: Head, weights: Floats, *, keep: float) -> Examples:
    """Return the images of which a head is surest, with the class that it gives them.

    Of those called a class the share `keep` stays, with the weight of all.

    Args:
        views: features (V, F) of each image; its chance is the mean of theirs.
        head: names them.
        weights: of each image.
        keep: in 0 .. 1.
    """
    chances = np.stack([head.chances(own).mean(axis=0) for own in views])
    called = chances.argmax(axis=1)
    sure = chances.max(axis=1)
    rows = np.concatenate(
        [
            own[np.argsort(-sure[own], kind="stable")][: max(1, round(keep * len(own)))]
            for own in (np.flatnonzero(called == k) for k in range(chances.shape[1]))
            if len(own)
        ]
    )
    counts = [len(views[row]) for row in rows]
    kept = weights[rows] * (weights.sum() / weights[rows].sum())
    return Examples(
        features=np.concatenate([views[row] for row in rows]),
        labels=np.repeat(np.eye(chances.shape[1])[called[rows]], counts, axis=0),
        weights=np.repeat(kept / counts, counts),
        left_out=np.full(sum(counts), -1),
    )


def sampled(examples: Examples, classes: Sequence[int], weights: Sequence[float]) -> Examples:
    """Return features around the means of classes, as Gaussian as the views within classes are."""
    own = examples.labels.argmax(axis=1)
    means = np.zeros((examples.labels.shape[1], examples.features.shape[1]), np.float32)
    for k in np.unique(own):
        means[k] = examples.features[own == k].mean(axis=0)
    apart = examples.features - means[own]
    rng = np.random.Generator(np.random.Philox(len(classes)))
    mixing = rng.standard_normal((len(classes), len(apart)), dtype=np.float32)
    asked = np.array(classes)
    return Examples(
        features=means[asked] + mixing @ apart / np.sqrt(len(apart)),
        labels=np.eye(examples.labels.shape[1])[asked],
        weights=np.array(weights),
        left_out=np.full(len(asked), -1),
    )


def mixtures(examples: Examples, *, alpha: float = 0.4) -> Examples:
    """Return as many mixtures of two views as there are views: features and labels, MixUp's way.

    They weigh a tenth of the views: strength is chosen on images that no mixture holds.
    """
    count = len(examples.weights)
    rng = np.random.Generator(np.random.Philox(count))
    share = rng.beta(alpha, alpha, (count, 1))
    order = _within_turns(examples.left_out, rng)
    mixed = share * examples.features + (1 - share) * examples.features[order]
    return Examples(
        features=mixed.astype(np.float32),
        labels=share * examples.labels + (1 - share) * examples.labels[order],
        weights=0.1 * examples.weights,
        left_out=examples.left_out,
    )


def _within_turns(left_out: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Return a permutation that keeps every view in the turn in which it is left out."""
    order = np.arange(len(left_out))
    for turn in np.unique(left_out):
        own = np.flatnonzero(left_out == turn)
        order[own] = rng.permutation(own)
    return order


def chances_of(
    head: Head, settings: Probe, manifest: Manifest, material: Material, ids: Sequence[str]
) -> NDArray[np.float64]:
    """Return class probabilities (N, K) of real images as an arm looks at them: means of views."""

    def views_of_one(image_id: str) -> Features:
        shown = (material.views_of(i, manifest.ways.expert) for i in manifest.judged_as(image_id))
        return np.concatenate([views[: settings.tta] for views in shown])

    return np.asarray(head.chances(np.stack([views_of_one(i) for i in ids])).mean(axis=1))


def examples_of(settings: Probe, manifest: Manifest, material: Material) -> Examples:
    """Return the views that an arm is trained on; an image in several rows weighs as many."""
    weights: dict[str, float] = {}
    images = [row for row in manifest.rows if not (row.is_unlabelled or row.made == "sampled")]
    for row in images:
        weights[row.id] = weights.get(row.id, 0.0) + row.weight
    parts: list[tuple[Features, Floats, float, int]] = []
    nth = dict.fromkeys(manifest.class_names, 0)
    for row in {row.id: row for row in images}.values():
        views, turn = views_of(row, settings, manifest, material), -1
        if not (row.synthetic or row.made):
            name = manifest.class_names[int(np.argmax(row.soft_label))]
            turn, nth[name] = nth[name] % MOST_LEFT_OUT, nth[name] + 1
        parts.append((views, np.array(row.soft_label), weights[row.id] / len(views), turn))
    counts = [len(views) for views, *_ in parts]
    examples = Examples(
        features=np.concatenate([views for views, *_ in parts]),
        labels=np.repeat([label for _, label, *_ in parts], counts, axis=0),
        weights=np.repeat([weight for *_, weight, _ in parts], counts),
        left_out=np.repeat([turn for *_, turn in parts], counts),
    )
    if manifest.strong:
        examples = joined(examples, mixtures(examples))
    around = [row for row in manifest.rows if row.made == "sampled"]
    if not around:
        return examples
    classes = [int(np.argmax(row.soft_label)) for row in around]
    return joined(examples, sampled(examples, classes, [row.weight for row in around]))


def views_of(row: Row, settings: Probe, manifest: Manifest, material: Material) -> Features:
    """Return the features (V, F) of the views under which an arm sees the image of a row."""
    found = [material.views_of(i, manifest.ways.expert) for i in manifest.shown_as(row)]
    if not row.is_own:
        most = None if manifest.ways.stain else settings.drawn_turns
    else:
        most = None if manifest.strong else settings.turns
        most = most if manifest.augment else 1
    return np.concatenate([views[:most] for views in found])
