"""Linear heads on frozen features: where they are fitted, how, and how strongly.

Multinomial logistic or ridge regression on views of images; the strength is chosen on real images
that are left out in turn.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from factory.arrays import Features, Floats
from factory.evaluate.config import Probe

STRENGTHS = (0.1, 1.0, 10.0, 100.0)
"""C that are tried; of equally good ones the least."""
ALONE = 10.0
"""C where no class has a second real image to leave out."""
MOST_LEFT_OUT = 4
"""Times that real images are left out: all images of four a class, a quarter of more each time."""
MOST_COMPONENTS = 256
"""Principal components of more rows than the backbone has features; of fewer rows all are kept."""
BESIDE = (0.3, 1.0, 3.0, 10.0)
"""How long features may be beside the scores of a first head, whose length is 1."""
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

    def of_others(self) -> "Examples":
        """Return those of images that are not the study's own real ones."""
        return self._at(self.left_out < 0)

    def of_own(self) -> "Examples":
        """Return those of its own real images."""
        return self._at(self.left_out >= 0)

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

    def chances(self, features: Features | Floats) -> Floats:
        """Return class probabilities (..., K) of features (..., F)."""
        scores = features @ self.slopes + self.offsets
        powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=-1, keepdims=True), np.float64)


def joined(one: Examples, other: Examples) -> Examples:
    """Return the examples of both."""
    return Examples(
        features=np.concatenate([one.features, other.features]),
        labels=np.concatenate([one.labels, other.labels]),
        weights=np.concatenate([one.weights, other.weights]),
        left_out=np.concatenate([one.left_out, other.left_out]),
    )


@dataclass(frozen=True, kw_only=True)
class Space:
    """Where heads are fitted: features centred, brought to a mean length of 10, in few axes.

    Rows span what a head can see, so principal components lose nothing where rows are fewer than
    features; of more rows the first 256 are kept.
    """

    middle: Features
    factor: float
    axes: Features
    """(F, C), orthonormal unless it is `beside` a first head."""

    @classmethod
    def of(cls, examples: Examples) -> "Space":
        """Return the space of training examples; which class they are of plays no part."""
        weights = (examples.weights / examples.weights.sum()).astype(np.float32)
        middle = weights @ examples.features
        centred = examples.features - middle
        squares = np.einsum("nf,nf->n", centred, centred)
        length = float(np.sqrt(weights @ squares)) or 1.0
        return cls(middle=middle, factor=_SCALE / length, axes=_span(centred))

    def beside(self, first: Head, examples: Examples, length: float) -> "Space":
        """Return the space of the scores of a first head, and of these features at some length.

        Both are centred; the scores have a mean length of 1, so that a head that is held to be
        small follows them where features are short, and leans on features of its own where long.
        """
        centred = examples.features - self.middle
        weights = examples.weights / examples.weights.sum()
        squares = np.einsum("nk,nk->n", *(centred @ first.slopes,) * 2)
        scores = first.slopes / (np.sqrt(weights @ squares) or 1.0)
        axes = np.concatenate([scores, self.axes * (length * self.factor / _SCALE)], axis=1)
        return Space(middle=self.middle, factor=1.0, axes=axes.astype(np.float32))

    def inputs(self, features: Features) -> Features:
        """Return features (N, F) as what a head is fitted to, (N, C)."""
        return np.asarray((features - self.middle) @ (np.float32(self.factor) * self.axes))

    def outside(self, head: "Head") -> "Head":
        """Return a head that was fitted inside as one for features."""
        slopes = self.factor * (self.axes.astype(np.float64) @ head.slopes)
        return Head(slopes=slopes, offsets=head.offsets - self.middle @ slopes)

    def inside(self, head: "Head") -> "Head":
        """Return a head for features, of those inside: what `outside` undoes."""
        slopes = self.axes.T.astype(np.float64) @ head.slopes / self.factor
        return Head(slopes=slopes, offsets=head.offsets + self.middle @ head.slopes)


def chosen_strength(
    settings: Probe, examples: Examples, space: Space | None = None, start: Head | None = None
) -> float:
    """Return the C by which real images that were left out are named best.

    By the mean log chance of their class: of a few images, accuracy has many ties.
    """
    turns = _turns(examples)
    if len(turns) < 2:
        return ALONE if turns else 1.0
    space = space or Space.of(examples)
    return STRENGTHS[int(_left_out(settings, examples, space, start).argmax())]


def stacked_space(settings: Probe, examples: Examples, first: Head) -> tuple[Space, float]:
    """Return the space beside a first head, and the strength, that name left out images best.

    D. Wolpert, Stacked Generalization, Neural Networks 1992: here the first head knows other
    images, and these examples tell where its borders lie among the own ones.
    """
    strength, plain = settings.strength, Space.of(examples)
    spaces = [plain.beside(first, examples, length) for length in BESIDE]
    if len(_turns(examples)) < 2:
        return spaces[0], strength or ALONE
    told = np.stack([_left_out(settings, examples, space) for space in spaces])
    if strength is not None:
        return spaces[int(told.max(axis=1).argmax())], strength
    at, number = np.unravel_index(int(told.argmax()), told.shape)
    return spaces[int(at)], STRENGTHS[int(number)]


def _turns(examples: Examples) -> list[int]:
    return [turn for turn in range(MOST_LEFT_OUT) if (examples.left_out == turn).any()]


def _left_out(
    settings: Probe, examples: Examples, space: Space, start: Head | None = None
) -> Floats:
    """Return for each of `STRENGTHS` the log chance of the images that are left out in turn."""
    inside = replace(examples, features=space.inputs(examples.features))
    inner = None if start is None else space.inside(start)
    found = np.zeros(len(STRENGTHS))
    for turn in _turns(examples):
        held = inside.only(turn)
        kept = inside.without(turn)
        for number, head in enumerate(_heads(settings, kept, STRENGTHS, inner)):
            chances = (head.chances(held.features) * held.labels).sum(axis=1)
            found[number] += float((held.weights * np.log(np.maximum(chances, 1e-9))).sum())
    return found


def fit_head(
    settings: Probe,
    examples: Examples,
    strength: float,
    space: Space | None = None,
    start: Head | None = None,
) -> Head:
    """Return the head of training examples, for features as they are; `start`: held to it."""
    space = space or Space.of(examples)
    inside = replace(examples, features=space.inputs(examples.features))
    inner = None if start is None else space.inside(start)
    return space.outside(_heads(settings, inside, (strength,), inner)[0])


def _heads(
    settings: Probe, examples: Examples, strengths: Sequence[float], start: Head | None = None
) -> list[Head]:
    """Return a head for each strength.

    The weights of all examples add up to the number of images, so that a strength means the same
    for many and for few views.
    """
    weights = examples.weights * (_images(examples) / examples.weights.sum())
    if start is not None:
        return _held(examples.features, examples.labels, weights, strengths, start)
    return _FITS[settings.head](examples.features, examples.labels, weights, strengths)


def _images(examples: Examples) -> float:
    """Return about how many images the examples are views of."""
    return max(1.0, float(examples.weights.sum() / np.median(examples.weights)))


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
    inputs: Features, labels: Floats, weights: Floats, strengths: Sequence[float]
) -> list[Head]:
    """Return heads by multinomial logistic regression; a soft label weighs in shares."""
    from sklearn.linear_model import LogisticRegression

    rows, classes = np.nonzero(labels)
    shown = np.unique(classes)
    model = LogisticRegression(max_iter=2000, tol=1e-3, warm_start=True)
    heads = []
    for strength in strengths:  # rising: the next begins where the one before ended
        slopes = np.zeros((inputs.shape[1], labels.shape[1]))
        offsets = np.full(labels.shape[1], -30.0)  # of a class that is not there
        if len(shown) == 1:
            offsets[shown] = 0.0
        else:
            model.set_params(C=strength)
            model.fit(inputs[rows], classes, sample_weight=weights[rows] * labels[rows, classes])
            own, at = model.coef_, model.intercept_
            if len(shown) == 2:  # scikit-learn gives the second class's alone
                own, at = np.stack([-own[0], own[0]]) / 2, np.array([-at[0], at[0]]) / 2
            slopes[:, shown], offsets[shown] = own.T, at
        heads.append(Head(slopes=slopes, offsets=offsets))
    return heads


def _held(
    inputs: Features, labels: Floats, weights: Floats, strengths: Sequence[float], start: Head
) -> list[Head]:
    """Return heads by logistic regression whose penalty is the distance from a first head."""
    from scipy.optimize import minimize

    shape, shown = start.slopes.shape, inputs.astype(np.float64)

    def told(flat: Floats, strength: float) -> tuple[float, Floats]:
        slopes, offsets = flat[: -shape[1]].reshape(shape), flat[-shape[1] :]
        own = Head(slopes=start.slopes + slopes, offsets=start.offsets + offsets)
        chances = own.chances(shown)
        loss = -(weights * (labels * np.log(np.maximum(chances, 1e-12))).sum(axis=1)).sum()
        slope = weights[:, None] * (chances - labels)
        grown = np.concatenate([(shown.T @ slope + slopes / strength).ravel(), slope.sum(axis=0)])
        return loss + 0.5 * float((slopes**2).sum()) / strength, grown

    heads, found = [], np.zeros(shape[0] * shape[1] + shape[1])
    for strength in strengths:
        found = minimize(
            told, found, args=(strength,), jac=True, method="L-BFGS-B", options={"maxiter": 200}
        ).x
        moved = found[: -shape[1]].reshape(shape)
        heads.append(Head(slopes=start.slopes + moved, offsets=start.offsets + found[-shape[1] :]))
    return heads


def _ridge(
    inputs: Features, labels: Floats, weights: Floats, strengths: Sequence[float]
) -> list[Head]:
    """Return heads by ridge regression to soft labels; their chances order, and say no more."""
    shares = weights / weights.sum()
    at, middle = shares @ inputs, shares @ labels
    centred = (inputs - at).astype(np.float64)
    square, aim = centred.T @ (weights[:, None] * centred), weights[:, None] * (labels - middle)
    heads = []
    for strength in strengths:
        slopes = 4 * np.linalg.solve(square + np.eye(len(square)) / strength, centred.T @ aim)
        heads.append(Head(slopes=slopes, offsets=4 * middle - at @ slopes))
    return heads


_FITS = {"logistic": _logistic, "ridge": _ridge}
