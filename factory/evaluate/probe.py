"""A probe: a linear head on frozen features of turned views, its strength chosen on the shots."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from factory.arrays import Features, Floats
from factory.evaluate.arms import Manifest, Row
from factory.evaluate.config import Probe
from factory.evaluate.units import Material

STRENGTHS = (0.1, 1.0, 10.0, 100.0)
"""C that are tried; of equally good ones the least."""
UNLABELLED = ("unlabelled", "own")
"""Rows, by what they were made of, that a first head names."""
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


def fit_probe(settings: Probe, manifest: Manifest, material: Material) -> tuple[Head, float]:
    """Return the head of an arm, and its strength C."""
    if manifest.ways.select:
        manifest = selected(settings, manifest, material)
    examples = examples_of(settings, manifest, material)
    space, start = Space.of(examples), None
    if manifest.ways.stages and (examples.left_out >= 0).any():
        others, examples = examples.of_others(), examples.of_own()
        start = fit_head(settings, others, settings.strength or 1.0, space)
    strength = settings.strength or chosen_strength(settings, examples, space, start)
    head = fit_head(settings, examples, strength, space, start)
    unlabelled = [row for row in manifest.rows if row.made in UNLABELLED]
    if unlabelled:
        views = [views_of(row, settings, manifest, material) for row in unlabelled]
        weights = np.array([row.weight for row in unlabelled])
        for keep in manifest.keep:
            named = surest(views, head, weights, keep=keep)
            head = fit_head(settings, joined(examples, named), strength)
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


def joined(one: Examples, other: Examples) -> Examples:
    """Return the examples of both."""
    return Examples(
        features=np.concatenate([one.features, other.features]),
        labels=np.concatenate([one.labels, other.labels]),
        weights=np.concatenate([one.weights, other.weights]),
        left_out=np.concatenate([one.left_out, other.left_out]),
    )


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
    images = [row for row in manifest.rows if row.made not in (*UNLABELLED, "sampled")]
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
    if row.synthetic or row.made not in ("", "own"):
        most = None if manifest.ways.stain else settings.drawn_turns
    else:
        most = None if manifest.strong else settings.turns
        most = most if manifest.augment else 1
    return np.concatenate([views[:most] for views in found])


@dataclass(frozen=True, kw_only=True)
class Space:
    """Where heads are fitted: features centred, brought to a mean length of 10, in few axes.

    Rows span what a head can see, so principal components lose nothing where rows are fewer than
    features; of more rows the first 256 are kept.
    """

    middle: Features
    factor: float
    axes: Features
    """(F, C) orthonormal."""

    @classmethod
    def of(cls, examples: Examples) -> "Space":
        """Return the space of training examples; which class they are of plays no part."""
        weights = (examples.weights / examples.weights.sum()).astype(np.float32)
        middle = weights @ examples.features
        centred = examples.features - middle
        squares = np.einsum("nf,nf->n", centred, centred)
        length = float(np.sqrt(weights @ squares)) or 1.0
        return cls(middle=middle, factor=_SCALE / length, axes=_span(centred))

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
    turns = [turn for turn in range(MOST_LEFT_OUT) if (examples.left_out == turn).any()]
    if len(turns) < 2:
        return ALONE if turns else 1.0
    space = space or Space.of(examples)
    inside = replace(examples, features=space.inputs(examples.features))
    inner = None if start is None else space.inside(start)
    found = np.zeros(len(STRENGTHS))
    for turn in turns:
        held = inside.only(turn)
        kept = inside.without(turn)
        for number, head in enumerate(_heads(settings, kept, STRENGTHS, inner)):
            chances = (head.chances(held.features) * held.labels).sum(axis=1)
            found[number] += float((held.weights * np.log(np.maximum(chances, 1e-9))).sum())
    return STRENGTHS[int(found.argmax())]


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
    model = LogisticRegression(max_iter=200, tol=1e-3, warm_start=True)
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
