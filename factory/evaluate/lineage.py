"""Which synthetic images a study may use: by what their generator, and its bases, had seen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from factory.evaluate.leaks import Held, Use, refuse_leaks
from factory.real.splits import Split


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What a model was trained on, as a row of the catalog or the table `models` tells it."""

    model_id: str
    split_digest: str | None
    dataset_fingerprint: str | None
    base_model_id: str | None = None
    member_ids: tuple[str, ...] = ()
    """Of the generators that a bridge binds; it was trained on nothing itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What a study knows about models beside their rows.

    `splits`: by digest, of the study's dataset, that generators were trained under. `models`: the
    catalog's table, by id: leads from a generator to its bases. `foreign`: fingerprints of other
    datasets that share no image with the study's: compared (`leaks.Use`), or on the user's word.
    """

    splits: Mapping[str, Split] = field(default_factory=dict)
    models: Mapping[str, Origin] = field(default_factory=dict)
    foreign: frozenset[str] = frozenset()


def may_be_used(origin: Origin, held: Held, split: Split, known: Known) -> str | None:
    """Return None if no ancestor saw a held-out image, or why that is not known.

    A base that says nothing about its training (a public one) passes; a generator must say it, and
    so must all that a bridge binds.

    Raises:
        DataError: an ancestor's split is known and its train or val part holds such images.
    """
    members = known.models.get(origin.model_id, origin).member_ids
    for member in members:
        if member not in known.models:
            return f"model {origin.model_id} binds model {member}, of which nothing is known"
        if reason := _may_be_used(known.models[member], held, split, known):
            return reason
    return None if members else _may_be_used(origin, held, split, known)


def _may_be_used(origin: Origin, held: Held, split: Split, known: Known) -> str | None:
    if origin.dataset_fingerprint is None or origin.split_digest is None:
        return f"model {origin.model_id} does not say what it was trained on"
    for model in ancestors(origin, known):
        if model.dataset_fingerprint is None or model.dataset_fingerprint in known.foreign:
            continue
        if model.dataset_fingerprint != split.dataset:
            return (
                f"model {model.model_id} was trained on dataset {model.dataset_fingerprint}, which"
                " was not compared with this one"
            )
        if model.split_digest == split.digest:
            continue
        other = known.splits.get(model.split_digest or "")
        if other is None:
            return (
                f"model {model.model_id} was trained under split {model.split_digest} of this"
                f" dataset, the study's is {split.digest}"
            )
        ids = (*other.train, *other.val)
        what = f"the training of model {model.model_id}"
        refuse_leaks(held, [Use(what=what, dataset=held.dataset, ids=ids)])
    return None


def ancestors(origin: Origin, known: Known) -> list[Origin]:
    """Return a model and the bases that the catalog knows, nearest first."""
    chain = [origin]
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
