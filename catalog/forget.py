"""A real image is to be forgotten: what it had a part in, and the marks that say so.

What learnt from it: generators whose split holds it in the train part, or in the val part, which
chose their weights; generators made from these; every image that any of them drew; and images that
it was shown for as a reference. An image of a test part was learnt from by no generator.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from catalog.lineage import Lineage, Model, shown
from catalog.query import quoted, sql
from catalog.releases import Release
from catalog.tombstones import Mark, record_tombstones
from factory.errors import CatalogError
from factory.real.splits import Split

NOT_LEGAL_ADVICE = (
    "This is no legal advice. It tells what the recorded lineage says: weights and images stay on"
    " disk, copies and exports elsewhere are not reached, and whether the law asks for more is for"
    " your data protection officer to say."
)


@dataclass(frozen=True, kw_only=True)
class Reach:
    """What a real image had a part in.

    `models`: why, by generator ('train', 'val', 'base'); `images`: why, by image (as its generator,
    or 'reference'); `releases`: how many of these images each holds, None where its files are gone.
    `unresolved`: generators whose split was not brought: nobody can say whether they held it.
    """

    real_id: str
    parts: Sequence[tuple[Split, str]]
    models: Mapping[str, str]
    images: Mapping[str, str]
    releases: Sequence[tuple[Release, int | None]]
    unresolved: Sequence[Model]

    @property
    def marks(self) -> list[Mark]:
        """The tombstones that say so."""
        found = [("model", i, why) for i, why in self.models.items()]
        found += [("image", i, why) for i, why in self.images.items()]
        return [Mark(kind=kind, target_id=i, because=why) for kind, i, why in found]


def reach_of(lineage: Lineage, real_id: str) -> Reach:
    """Return what a real image had a part in, as far as the splits that were brought tell.

    Raises:
        CatalogError: it is in none of them and was shown to no method.
    """
    parts = lineage.parts_of(real_id)
    if not parts and not lineage.count(shown(real_id)):
        raise CatalogError(
            f"real image {real_id!r} is in none of {len(lineage.splits)} splits and no row names"
            " it",
            remedy="Check the id, and give the split files of the generators: --split FILE"
            + _wanted(lineage),
        )
    models = _models(lineage, parts)
    match = _condition(models, real_id)
    drawn_by = f"SELECT DISTINCT image_id, model_id FROM samples WHERE {match} ORDER BY ALL"
    images = {
        row["image_id"]: models.get(row["model_id"], "reference")
        for row in sql(lineage.catalog, drawn_by).to_pylist()
    }
    held = [(release, lineage.held_by(release, match)) for release in lineage.releases]
    return Reach(
        real_id=real_id,
        parts=parts,
        models=models,
        images=images,
        releases=[(release, n) for release, n in held if n != 0],
        unresolved=lineage.unresolved(),
    )


def forget(lineage: Lineage, reach: Reach, *, now: datetime, code_version: str) -> int:
    """Write the tombstones of `reach`; return how many are new. Asking again adds what is missing.

    Raises:
        CatalogError: not writable.
    """
    return record_tombstones(
        lineage.catalog.place,
        reach.real_id,
        reach.marks,
        now=now,
        code_version=code_version,
    )


def _models(lineage: Lineage, parts: Sequence[tuple[Split, str]]) -> dict[str, str]:
    """Return why, by generator: the train part before the val part before a base."""
    found: dict[str, str] = {}
    for wanted in ("train", "val"):
        for split, part in parts:
            if part == wanted:
                for model_id in lineage.trained_under(split, part):
                    found.setdefault(model_id, part)
    for model_id in list(found):
        for descendant in lineage.descendants(model_id):
            found.setdefault(descendant, "base")
    return found


def _condition(models: Mapping[str, str], real_id: str) -> str:
    if not models:
        return shown(real_id)
    return f"(model_id IN ({', '.join(map(quoted, sorted(models)))}) OR {shown(real_id)})"


def _wanted(lineage: Lineage) -> str:
    digests = sorted({str(model.split_digest) for model in lineage.unresolved()})
    return f" (wanted: {', '.join(digests)})" if digests else ""
