"""Which synthetic images a study may use: by what their generator, and its bases, had seen.

Two questions. Leaks: did one of them see an image that is held out? Equal information: did one see
real training images that the study's real arms do not hold, so that arms with synthetic images
know more than their controls?
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

from factory.real.duplicates import Digests
from factory.real.leaks import Held, Told, Use, refuse_leaks
from factory.real.splits import Split, n_shot, shots_of_class


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which images of a train part a training takes: the same keys in every method."""

    only: tuple[str, ...] = ()
    n_shot: int | Mapping[str, int] | None = None
    """A number of each class, or by class name: of those that are not named all."""
    seed: int = 0
    unlabelled: bool = False
    """It took all of them, and the label of none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What a model was trained on, as a row of the catalog or the table `models` tells it."""

    model_id: str
    split_digest: str | None
    dataset_fingerprint: str | None
    base_model_id: str | None = None
    member_ids: tuple[str, ...] = ()
    """Of the generators that a bridge binds; it was trained on nothing itself."""
    name: str | None = None
    images_trained: int | None = None
    choice: Choice | None = None
    """Which images of the train part it learnt from; None: not known, so all of them."""
    digests: Digests | None = field(default=None, repr=False, compare=False)
    """Of its training images, where it carries them."""

    @property
    def knows(self) -> str:
        """What it learnt, in words."""
        count = self.images_trained or "an unknown number of"
        labels = " without their labels" if self.choice and self.choice.unlabelled else ""
        return f"what {self.name or self.model_id} learnt of {count} images{labels}"

    def __str__(self) -> str:
        return f"model {self.name} ({self.model_id})" if self.name else f"model {self.model_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What a study knows about models beside their rows.

    `splits`: by digest, of the study's dataset, that generators were trained under. `models`: the
    catalog's table, by id: leads from a generator to its bases. `foreign`: other datasets that
    share no image with the study's, compared (`leaks.Use`) or on the user's word: fingerprints, or
    names of models that were trained on them.
    """

    splits: Mapping[str, Split] = field(default_factory=dict)
    models: Mapping[str, Origin] = field(default_factory=dict)
    foreign: frozenset[str] = frozenset()

    def about(self, origin: Origin) -> Origin:
        """Return what is known of a model beside what a row of the catalog says."""
        return self.models.get(origin.model_id, origin)

    def shares_nothing(self, model: Origin) -> bool:
        """Return whether a model's images were compared, or the user says that they are others."""
        names = {model.dataset_fingerprint, model.model_id, model.name} - {None}
        return not self.foreign.isdisjoint(names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Barred:
    """Why images of a model may not be used, and what its user can do."""

    reason: str
    remedy: str

    def __str__(self) -> str:
        return self.reason


def may_be_used(origin: Origin, held: Held, split: Split, known: Known) -> Barred | None:
    """Return None if no ancestor saw a held-out image, or why that is not known.

    A base that says nothing about its training (a public one) passes; a generator must say it, and
    so must all that a bridge binds. A model of another dataset passes where it carries digests of
    its training images (wbc-base does) and no held-out image is among them.

    Raises:
        DataError: an ancestor's split is known and its train or val part holds such images, or its
            digests tell of them.
    """
    members = known.about(origin).member_ids
    for member in members:
        if member not in known.models:
            return Barred(
                reason=f"{known.about(origin)} binds model {member}, of which nothing is known",
                remedy="Record that model in the catalog: draw an image with it",
            )
        if barred := _may_be_used(known.models[member], held, split, known):
            return barred
    return None if members else _may_be_used(origin, held, split, known)


def _may_be_used(origin: Origin, held: Held, split: Split, known: Known) -> Barred | None:
    if origin.dataset_fingerprint is None or origin.split_digest is None:
        return Barred(
            reason=f"{known.about(origin)} does not say what it was trained on",
            remedy="Draw with a generator that `factory finetune` wrote under the study's split",
        )
    for model in ancestors(origin, known):
        if model.dataset_fingerprint is None or known.shares_nothing(model):
            continue
        what = f"the training of {model}"
        if model.dataset_fingerprint != split.dataset:
            if model.digests is None:
                return Barred(
                    reason=f"{model} was trained on dataset {model.dataset_fingerprint}, which"
                    " was not compared with this one",
                    remedy="Give those images with --seen, or, if you know that none of yours is"
                    f" among them, --set 'synthetic.foreign=[{model.name or model.model_id}]'",
                )
            refuse_leaks(held, [Told(what=what, digests=model.digests)])
            continue
        if model.split_digest == split.digest:
            continue
        other = known.splits.get(model.split_digest or "")
        if other is None:
            return Barred(
                reason=f"{model} was trained under split {model.split_digest} of this"
                f" dataset, the study's is {split.digest}",
                remedy="Train it under the study's split, or give its own with --generator-split",
            )
        ids = (*other.train, *other.val)
        refuse_leaks(held, [Use(what=what, dataset=held.dataset, ids=ids)])
    return None


def ancestors(origin: Origin, known: Known) -> list[Origin]:
    """Return a model and the bases that the catalog knows, nearest first."""
    told = known.about(origin)
    chain = [replace(origin, name=told.name, choice=told.choice, digests=told.digests)]
    while (base := chain[-1].base_model_id) is not None and base in known.models:
        if base in {model.model_id for model in chain}:
            break
        chain.append(known.models[base])
    return chain


def check_references(reference_ids: Sequence[str], held: Held) -> None:
    """Refuse synthetic images that were drawn from held-out ones.

    Ids that are none of the dataset's belong to another one.

    Raises:
        DataError: references outside the train part, named.
    """
    own = set(held.dataset.ids)
    ids = tuple(sorted(own.intersection(reference_ids)))
    refuse_leaks(held, [Use(what="references", dataset=held.dataset, ids=ids)])


def learnt_from(model: Origin, split: Split, labels: Mapping[str, str]) -> frozenset[str]:
    """Return which real images of a split's train part a model learnt from.

    All of its classes, where nobody says how it chose.
    """
    choice = model.choice or Choice()
    if choice.unlabelled:
        return frozenset(split.train)
    by_class: defaultdict[str, list[str]] = defaultdict(list)
    for image_id in split.train:
        if not choice.only or labels[image_id] in choice.only:
            by_class[labels[image_id]].append(image_id)
    if choice.n_shot is None:
        return frozenset(i for ids in by_class.values() for i in ids)
    learnt: set[str] = set()
    for name, ids in by_class.items():
        shots = min(shots_of_class(choice.n_shot, name) or len(ids), len(ids))
        chosen = n_shot(
            replace(split, train=tuple(ids)), labels=labels, shots=shots, seed=choice.seed
        )
        learnt.update(*chosen.values())
    return frozenset(learnt)


@dataclass(frozen=True, slots=True, kw_only=True)
class Surplus:
    """Real images that a model learnt from and that the real arms of a study do not hold."""

    model: Origin
    learnt: int
    missing: tuple[str, ...]

    @property
    def of_labels(self) -> bool:
        """Whether it learnt their labels too."""
        return not (self.model.choice and self.model.choice.unlabelled)

    def __str__(self) -> str:
        how = "" if self.of_labels else ", without their labels"
        return (
            f"{self.model} learnt from {self.learnt} real images{how}, {len(self.missing)} of which"
            f" the real arms do not hold, such as {self.missing[0]!r}"
        )


def surpluses(
    origins: Sequence[Origin],
    split: Split,
    real: Set[str],
    known: Known,
    labels: Mapping[str, str],
) -> Iterator[Surplus]:
    """Yield what generators, and their bases, know of this dataset beyond the images in `real`.

    Of the classes in `real`: others are not asked about.
    """
    asked = {labels[i] for i in real}
    for model in family(origins, known):
        if model.dataset_fingerprint != split.dataset:
            continue
        same = model.split_digest == split.digest
        learnt = learnt_from(
            model, split if same else known.splits[model.split_digest or ""], labels
        )
        if missing := sorted(i for i in learnt - real if labels[i] in asked):
            yield Surplus(model=model, learnt=len(learnt), missing=tuple(missing))


def family(origins: Sequence[Origin], known: Known) -> list[Origin]:
    """Return models, what they bind, and the bases of all, each once."""
    found: dict[str, Origin] = {}
    for origin in origins:
        members = known.about(origin).member_ids
        for model in [known.models[m] for m in members] if members else [known.about(origin)]:
            found |= {each.model_id: each for each in ancestors(model, known)}
    return list(found.values())
