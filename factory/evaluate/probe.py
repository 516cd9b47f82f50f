"""A probe: a linear head on frozen features of turned views, its strength chosen on the shots."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from factory.evaluate.arms import Manifest
from factory.evaluate.compare import Floats
from factory.evaluate.config import Probe
from factory.evaluate.units import Material
from factory.measure.features import Features

STRENGTHS = (0.1, 1.0, 10.0, 100.0)
"""C that are tried; of equally good ones the least."""
ALONE = 10.0
"""C where no class has a second real image to leave out."""
MOST_LEFT_OUT = 4
"""Times that real images are left out: all images of four a class, a quarter of more each time."""
MOST_COMPONENTS = 256
"""Principal components of more rows than the backbone has features; of fewer rows all are kept."""
_SCALE = 10.0


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Training views: features (N, F), soft labels (N, K), weights (N,) of their loss."""

    features: Features
    labels: Floats
    weights: Floats
    left_out: NDArray[np.int64]
    """(N,) in which turn a view's image is left out; -1: never, it is drawn."""

    def without(self, turn: int) -> "Examples":
        """Return the examples that stay in a turn."""
        return self._at(self.left_out != turn)

    def only(self, turn: int) -> "Examples":
        """Return those that are left out in it."""
        return self._at(self.left_out == turn)

    def _at(self, rows: NDArray[np.bool_]) -> "Examples":
        return Examples(
            features=self.features[rows],
            labels=self.labels[rows],
            weights=self.weights[rows],
            left_out=self.left_out[rows],
        )


@dataclass(frozen=True, kw_only=True)
class Head:
    """Scores (N, K) = features @ `slopes` (F, K) + `offsets` (K,)."""

    slopes: Floats
    offsets: Floats

    def chances(self, features: Features) -> Floats:
        """Return class probabilities (..., K) of features (..., F)."""
        scores = features @ self.slopes + self.offsets
        powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=-1, keepdims=True), np.float64)


def fit_probe(settings: Probe, manifest: Manifest, material: Material) -> tuple[Head, float]:
    """Return the head of an arm, and its strength C."""
    examples = examples_of(settings, manifest, material)
    strength = settings.strength or chosen_strength(settings, examples)
    head = fit_head(settings, examples, (strength,))[0]
    unlabelled = [row for row in manifest.rows if row.made == "unlabelled"]
    if unlabelled:
        views = np.stack([material.views_of(row.id)[0] for row in unlabelled])
        weights = np.array([row.weight for row in unlabelled])
        named = surest(views, head.chances(views), weights, keep=manifest.keep)
        head = fit_head(settings, joined(examples, named), (strength,))[0]
    return head, strength


def surest(features: Features, chances: Floats, weights: Floats, *, keep: float) -> Examples:
    """Return the images of which a head is surest, with the class that it gives them.

    Of those called a class the share `keep` stays, with the weight of all.
    """
    called = chances.argmax(axis=1)
    sure = chances.max(axis=1)
    rows = np.concatenate(
        [
            own[np.argsort(-sure[own], kind="stable")][: max(1, round(keep * len(own)))]
            for own in (np.flatnonzero(called == k) for k in range(chances.shape[1]))
            if len(own)
        ]
    )
    return Examples(
        features=features[rows],
        labels=np.eye(chances.shape[1])[called[rows]],
        weights=weights[rows] * (weights.sum() / weights[rows].sum()),
        left_out=np.full(len(rows), -1),
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


def joined(one: Examples, other: Examples) -> Examples:
    """Return the examples of both."""
    return Examples(
        features=np.concatenate([one.features, other.features]),
        labels=np.concatenate([one.labels, other.labels]),
        weights=np.concatenate([one.weights, other.weights]),
        left_out=np.concatenate([one.left_out, other.left_out]),
    )


def chances_of(
    head: Head, settings: Probe, material: Material, ids: Sequence[str]
) -> NDArray[np.float64]:
    """Return class probabilities (N, K) of real images: the mean over turned views."""
    views = np.stack([material.views_of(i)[: settings.tta] for i in ids])
    return np.asarray(head.chances(views).mean(axis=1))


def examples_of(settings: Probe, manifest: Manifest, material: Material) -> Examples:
    """Return the views that an arm is trained on; an image in several rows weighs as many."""
    weights: dict[str, float] = {}
    images = [row for row in manifest.rows if row.made not in ("unlabelled", "sampled")]
    for row in images:
        weights[row.id] = weights.get(row.id, 0.0) + row.weight
    parts: list[tuple[Features, Floats, float, int]] = []
    nth = dict.fromkeys(manifest.class_names, 0)
    for row in {row.id: row for row in images}.values():
        views = material.views_of(row.id)
        turn = -1
        if not (row.synthetic or row.made):
            kept = [*range(settings.turns), *range(len(views) - settings.varied, len(views))]
            views = views[kept if manifest.augment else [0]]
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
    around = [row for row in manifest.rows if row.made == "sampled"]
    if not around:
        return examples
    classes = [int(np.argmax(row.soft_label)) for row in around]
    return joined(examples, sampled(examples, classes, [row.weight for row in around]))


def chosen_strength(settings: Probe, examples: Examples) -> float:
    """Return the C by which real images that were left out are named best.

    By the mean log chance of their class: of a few images, accuracy has many ties.
    """
    turns = [t for t in range(MOST_LEFT_OUT) if len(examples.only(t).weights)]
    if len(turns) < 2:
        return ALONE if turns else 1.0
    found = np.zeros(len(STRENGTHS))
    for turn in turns:
        held = examples.only(turn)
        for number, head in enumerate(fit_head(settings, examples.without(turn), STRENGTHS)):
            chances = (head.chances(held.features) * held.labels).sum(axis=1)
            found[number] += float((held.weights * np.log(np.maximum(chances, 1e-9))).sum())
    return STRENGTHS[int(found.argmax())]


def fit_head(settings: Probe, examples: Examples, strengths: Sequence[float]) -> list[Head]:
    """Return a head for each strength.

    Features are centred and brought to a mean length of 10; the weights of all examples add up to
    the number of images, so that a strength means the same for many and for few views. Rows span
    what the head can see: it is fitted in their principal components, all of them where rows are
    fewer than features (no approximation then), else the first 256.
    """
    weights = examples.weights / examples.weights.sum()
    middle = weights @ examples.features
    centred = (examples.features - middle).astype(np.float32)
    length = float(np.sqrt(weights @ (centred.astype(np.float64) ** 2).sum(axis=1))) or 1.0
    centred *= _SCALE / length
    axes = _span(centred)
    inputs = centred @ axes
    total = weights * max(1.0, _images(examples))
    fitted = [_FITS[settings.head](inputs, examples.labels, total, c) for c in strengths]
    heads = []
    for slopes, offsets in fitted:
        own = (_SCALE / length) * (axes.astype(np.float64) @ slopes)
        heads.append(Head(slopes=own, offsets=offsets - middle @ own))
    return heads


def _images(examples: Examples) -> float:
    """Return about how many images the examples are views of."""
    return float(examples.weights.sum() / np.median(examples.weights))


def _span(centred: Features) -> Features:
    """Return orthonormal axes (F, C) of rows (N, F)."""
    from sklearn.utils.extmath import randomized_svd

    if len(centred) <= MOST_COMPONENTS:
        found = np.linalg.svd(centred, full_matrices=False)[2]
    else:
        most = min(MOST_COMPONENTS, centred.shape[1])
        found = randomized_svd(centred, most, n_iter=2, random_state=0)[2]
    return np.ascontiguousarray(found.T)


def _logistic(
    inputs: Features, labels: Floats, weights: Floats, strength: float
) -> tuple[Floats, Floats]:
    """Return slopes and offsets of multinomial logistic regression; soft labels weigh in shares."""
    from sklearn.linear_model import LogisticRegression

    rows, classes = np.nonzero(labels)
    shown = np.unique(classes)
    slopes = np.zeros((inputs.shape[1], labels.shape[1]))
    offsets = np.full(labels.shape[1], -30.0)  # of a class that is not there
    if len(shown) == 1:
        offsets[shown] = 0.0
        return slopes, offsets
    model = LogisticRegression(C=strength, max_iter=200, tol=1e-3)
    model.fit(inputs[rows], classes, sample_weight=weights[rows] * labels[rows, classes])
    own, at = model.coef_, model.intercept_
    if len(shown) == 2:  # sklearn gives the second class's alone
        own, at = np.stack([-own[0], own[0]]) / 2, np.array([-at[0], at[0]]) / 2
    slopes[:, shown], offsets[shown] = own.T, at
    return slopes, offsets


def _ridge(
    inputs: Features, labels: Floats, weights: Floats, strength: float
) -> tuple[Floats, Floats]:
    """Return slopes and offsets of ridge regression to soft labels; inputs are centred."""
    square = (inputs * weights[:, None]).T.astype(np.float64) @ inputs
    middle = weights @ labels / weights.sum()
    slopes = np.linalg.solve(
        square + np.eye(len(square)) / strength,
        (inputs * weights[:, None]).T.astype(np.float64) @ (labels - middle),
    )
    return 4 * slopes, 4 * middle  # chances that are not all alike: they order, no more


_FITS = {"logistic": _logistic, "ridge": _ridge}
