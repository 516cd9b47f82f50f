"""Lineage, both ways: real image - split - generator - images - releases - studies.

A row names its generator, a generator its split by digest; who is in a split stands in the split
file alone. Ids of real images are often numbers of patients or slides, and a catalog is made to be
copied: it holds neither them nor hashes of them, which anybody could test ids against. So whoever
asks about a real image brings the split files (`--split`), whose digests tell that they are the
right ones; a generator whose split was not brought is named, never passed over in silence. Only
`reference_ids`, images that were shown to a method, are in the rows themselves: without them an
image could not be redrawn.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from catalog.query import quoted, sql
from catalog.releases import Release, audited, list_releases
from catalog.selection import Ask
from catalog.table import Catalog
from factory.errors import CatalogError
from factory.real.splits import PARTS, Split


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A generator, and what it says it was made from."""

    model_id: str
    name: str | None = None
    base_model_id: str | None = None
    split_digest: str | None = None
    dataset_fingerprint: str | None = None
    member_ids: tuple[str, ...] = ()
    """Generators that a bridge binds."""

    @property
    def made_of(self) -> tuple[str, ...]:
        """The generators that this one goes back to at once: its base, or what it binds."""
        return (*([self.base_model_id] if self.base_model_id else []), *self.member_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """Something with an id; `sources` is what it was made from, `results` what was made from it."""

    kind: str
    id: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    sources: tuple["Node", ...] = ()
    results: tuple["Node", ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the whole tree as JSON knows it."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """Everything that is known: one view of a catalog, and the splits that were brought.

    `bases` are models that the catalog may not list, such as those that come with the package.
    `ask` runs its statements, conditions of releases among them: it may be somebody else's.
    """

    catalog: Catalog
    splits: Sequence[Split] = ()
    bases: Sequence[Model] = ()
    ask: Ask = sql

    def node(self, name: str) -> Node:
        """Return the lineage of an image, a generator or a real image.

        Raises:
            CatalogError: nothing has this id.
        """
        if name in self.models:
            return self.of_model(name)
        if self.count(f"image_id = {quoted(name)}"):
            return self.of_image(name)
        if self.parts_of(name) or self.count(shown(name)):
            return self.of_real(name)
        raise CatalogError(
            f"{name!r} is no image or generator of {self.catalog.named}, and in none of"
            f" {len(self.splits)} splits",
            remedy="For a real image give the split files of the generators: --split FILE",
        )

    def of_image(self, image_id: str) -> Node:
        """Return run, generator and references of an image, and where it went."""
        row = self.catalog.rows([image_id], columns=_OF_IMAGE).to_pylist()[0]
        match = f"image_id = {quoted(image_id)}"
        references = [Node(kind="real image", id=i) for i in row["reference_ids"]]
        return Node(
            kind="image",
            id=image_id,
            facts={key: row[key] for key in ("class_name", "gate_status", "recipe_digest")},
            sources=(
                Node(kind="run", id=row["run_id"], facts={"code_version": row["code_version"]}),
                self._up(row["model_id"], frozenset()),
                *references,
            ),
            results=(*self._releases(match), *self._studies([row["model_id"]])),
        )

    def of_model(self, model_id: str) -> Node:
        """Return what a generator was made from, and everything that came of it."""
        up, down = self._up(model_id, frozenset()), self._down(model_id, frozenset())
        return Node(
            kind=up.kind, id=up.id, facts=up.facts, sources=up.sources, results=down.results
        )

    def of_real(self, real_id: str) -> Node:
        """Return the splits that hold a real image and what came of them, and what was shown it."""
        held = [
            Node(
                kind="split",
                id=split.digest,
                facts={"part": part, "dataset": split.dataset},
                results=(
                    *(self._down(m, frozenset()) for m in self.trained_under(split, part)),
                    *(self._tested(split) if part == "test" else ()),
                ),
            )
            for split, part in self.parts_of(real_id)
        ]
        return Node(kind="real image", id=real_id, results=(*held, *self._images(shown(real_id))))

    def parts_of(self, real_id: str) -> list[tuple[Split, str]]:
        """Return which of the splits hold a real image, and in which part."""
        return [
            (split, part)
            for split in self.splits
            for part in PARTS
            if real_id in getattr(split, part)
        ]

    def trained_under(self, split: Split, part: str) -> list[str]:
        """Return the generators that saw this part of a split; the test part none ever sees."""
        if part == "test":
            return []
        return [i for i, model in self.models.items() if model.split_digest == split.digest]

    def unresolved(self) -> list[Model]:
        """Return the generators whose split was not brought."""
        known = {split.digest for split in self.splits}
        return [m for m in self.models.values() if (m.split_digest or "") not in {"", *known}]

    def descendants(self, model_id: str) -> list[str]:
        """Return the generators that were made from this one, however far."""
        found, reached = [], {model_id}
        fresh = {model_id}
        while fresh:
            made = {i for i, model in self.models.items() if fresh.intersection(model.made_of)}
            fresh = made - reached
            reached |= fresh
            found += sorted(fresh)
        return found

    def count(self, match: str) -> int:
        """Return how many images satisfy a condition, each once."""
        text = f"SELECT count(DISTINCT image_id) AS n FROM samples WHERE {match}"
        return int(self.ask(self.catalog, text)["n"][0].as_py())

    @cached_property
    def models(self) -> Mapping[str, Model]:
        """Every generator that a row or a generator names, by id."""
        columns = ["model_id", "base_model_id", "split_digest", "dataset_fingerprint"]
        drawn = self.ask(
            self.catalog, f"SELECT DISTINCT {', '.join(columns)} FROM samples ORDER BY ALL"
        )
        found = {row["model_id"]: Model(**row) for row in drawn.to_pylist()}
        found |= {
            row["model_id"]: Model(
                **{key: row[key] for key in [*columns, "name"]},
                member_ids=tuple(row["member_ids"] or ()),
            )
            for row in self.catalog.models().to_pylist()
        }
        known = {model.model_id: model for model in self.bases}
        found |= {i: known[i] for i in known.keys() & found.keys() if found[i].name is None}
        while lacking := {i for model in found.values() for i in model.made_of} - set(found):
            # one that nobody describes says nothing of its training, as public ones do
            found |= {i: known.get(i, Model(model_id=i)) for i in lacking}
        return dict(sorted(found.items()))

    @cached_property
    def releases(self) -> list[Release]:
        """Every release."""
        return list_releases(self.catalog.place)

    def held_by(self, release: Release, match: str) -> int | None:
        """Return how many images of a release satisfy a condition; None if its files are gone."""
        selection = audited(self.catalog.place, release, ask=self.ask)
        try:
            return len(replace(selection, where=f"({release.where}\n) AND ({match})").keys)
        except CatalogError:
            if not release.retracted:
                raise
            return None

    def _up(self, model_id: str, seen: frozenset[str]) -> Node:
        model = self.models.get(model_id, Model(model_id=model_id))
        sources = []
        if model.split_digest is not None:
            facts = {"dataset": model.dataset_fingerprint}
            brought = {split.digest: split for split in self.splits}
            if (split := brought.get(model.split_digest)) is not None:
                facts |= {part: str(len(getattr(split, part))) for part in PARTS}
            sources.append(Node(kind="split", id=model.split_digest, facts=facts))
        reached = seen | {model_id}
        sources += [self._up(i, reached) for i in model.made_of if i not in reached]
        return Node(kind="generator", id=model_id, facts=_named(model), sources=tuple(sources))

    def _down(self, model_id: str, seen: frozenset[str]) -> Node:
        model = self.models.get(model_id, Model(model_id=model_id))
        made = [i for i, other in self.models.items() if model_id in other.made_of]
        return Node(
            kind="generator",
            id=model_id,
            facts=_named(model),
            results=(
                *(self._down(i, seen | {model_id}) for i in made if i not in seen | {model_id}),
                *self._images(f"model_id = {quoted(model_id)}"),
                *self._studies([model_id]),
            ),
        )

    def _images(self, match: str) -> Iterator[Node]:
        """Yield one node for all images that satisfy a condition, if any do."""
        text = (
            "SELECT gate_status, count(DISTINCT image_id) AS n FROM samples"
            f" WHERE {match} GROUP BY 1 ORDER BY 1"
        )
        counts = {row["gate_status"]: row["n"] for row in self.ask(self.catalog, text).to_pylist()}
        if counts:
            yield Node(kind="images", id=match, facts=counts, results=self._releases(match))

    def _releases(self, match: str) -> tuple[Node, ...]:
        held = ((release, self.held_by(release, match)) for release in self.releases)
        return tuple(
            Node(kind="release", id=r.name, facts={"status": r.status, "images": n})
            for r, n in held
            if n
        )

    def _studies(self, model_ids: Sequence[str]) -> tuple[Node, ...]:
        """Return the studies that used images of these generators."""
        wanted = set(model_ids)
        return tuple(_study(row) for row in self._evaluations if wanted & set(row["model_ids"]))

    def _tested(self, split: Split) -> tuple[Node, ...]:
        """Return the studies that were made under a split."""
        return tuple(
            _study(row) for row in self._evaluations if split.digest in row["split_digests"]
        )

    @cached_property
    def _evaluations(self) -> list[dict[str, Any]]:
        text = (
            "SELECT e.*, (SELECT count(*) FROM scores s WHERE s.evaluation_id = e.evaluation_id)"
            " AS num_scores FROM evaluations e ORDER BY finished_at"
        )
        rows: list[dict[str, Any]] = self.ask(self.catalog, text).to_pylist()
        return rows


_OF_IMAGE = (
    *("run_id", "model_id", "class_name", "gate_status", "recipe_digest"),
    *("reference_ids", "code_version"),
)


def shown(real_id: str) -> str:
    """Return the condition on images that were drawn from this real image."""
    return f"list_contains(reference_ids, {quoted(real_id)})"


def _named(model: Model) -> dict[str, Any]:
    return {} if model.name is None else {"name": model.name}


def _study(row: Mapping[str, Any]) -> Node:
    facts = {key: row[key] for key in ("name", "task", "catalog_version", "metric", "verdicts")}
    return Node(kind="study", id=row["evaluation_id"], facts={**facts, "scores": row["num_scores"]})
