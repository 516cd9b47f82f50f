"""What is judged and by what: sets of drawn images, from an engine or a catalog, and real ones."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catalog.boundary import decoded_png
from catalog.query import sql
from catalog.schema import ACCEPTED
from catalog.table import Catalog
from factory.arrays import Features, Images
from factory.digest import digest_bytes
from factory.errors import CatalogError, DataError
from factory.measure.cache import ArrayCache
from factory.measure.copies import Nearest, nearest, thumbnails, turned_thumbnails
from factory.measure.features import TURNS, FeatureSpace, turned
from factory.measure.real_features import RealPart, in_pieces, real_part
from factory.models.domains import members_of
from factory.models.generator import Generator
from factory.real.dataset import RealDataset
from factory.real.splits import Split, check_dataset
from factory.sample.config import GenerateConfig
from factory.sample.drawn import Drawn
from factory.sample.engine import Engine
from factory.sample.plan import Plan
from factory.sample.prepare import make_plan, with_defaults
from factory.sample.references import References
from factory.terminal import Pace, Tell

PIXELS = "pixels"
"""The space of thumbnails, where copies are sought beside features."""
EVERY = "all"
"""Class of images that are compared without one."""
Counting = Callable[[int, int], object]
"""Told how many batches are done, and of how many."""
_COLUMNS = (
    "image_id, model_id, recipe_digest, recipe_index, reference_ids[1] AS reference_id, class_name,"
    " class_names, soft_label, bridge_depth, guidance_terms, gate_status"
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageSet:
    """Images (N, S, S, 3) that are measured together, with the class of each."""

    name: str
    images: Images
    labels: Sequence[str]
    masks: NDArray[np.uint8] | None = None
    """(N, S, S) class indices."""
    facts: Sequence[Mapping[str, Any]] = field(default=())
    """Of drawn ones: recipe, index, reference_id, and what their method says of each."""

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: Sequence[int], name: str | None = None) -> "ImageSet":
        """Return the images with these numbers, in this order."""
        chosen = list(rows)
        return replace(
            self,
            name=name or self.name,
            images=self.images[chosen],
            labels=[self.labels[i] for i in chosen],
            masks=None if self.masks is None else self.masks[chosen],
            facts=[self.facts[i] for i in chosen] if self.facts else (),
        )


def draw_set(
    name: str,
    generator: Generator,
    config: GenerateConfig,
    *,
    references: References | None = None,
    cache: ArrayCache,
    report: Counting = lambda _done, _of: None,
) -> ImageSet:
    """Return what a run of `config` would draw, without gates, catalog or cluster.

    Images lie recipe by recipe, those of a recipe in their order.

    Raises:
        ConfigError: see `make_plan`.
        DataError: likewise.
    """
    plan = make_plan(with_defaults(config, generator), generator, references)
    return draw_plan(
        name, generator, plan, config.dtype, references=references, cache=cache, report=report
    )


def draw_plan(
    name: str,
    generator: Generator,
    plan: Plan,
    dtype: str,
    *,
    references: References | None = None,
    cache: ArrayCache,
    report: Counting = lambda _done, _of: None,
    engine: Engine | None = None,
) -> ImageSet:
    """Return the images of a plan; its batches are kept, so none is drawn twice.

    Args:
        engine: draws; None: one of the generator.

    Raises:
        ConfigError: see `Engine.draw`.
        DataError: likewise.
    """
    engine = engine or Engine(generator, dtype=dtype, references=references)
    found: dict[tuple[str, int], tuple[Drawn, int]] = {}
    for done, batch in enumerate(plan.batches(), 1):
        names = [request.image_id for request in batch.requests]
        key = ["drawn", names, batch.size, dict(engine.fingerprint)]
        drawn = _kept(key, lambda batch=batch: engine.draw(batch), cache)  # type: ignore[misc]
        for row, request in enumerate(batch.requests):
            found[request.recipe.digest, request.index] = drawn, row
        report(done, plan.num_batches)
    order = [(q.recipe, q.first + i) for q in plan.quotas for i in range(q.count)]
    rows = [found[recipe.digest, index] for recipe, index in order]
    masked = all(drawn.masks is not None for drawn, _ in rows)
    return ImageSet(
        name=name,
        images=np.stack([drawn.images[row] for drawn, row in rows]),
        labels=[recipe.class_name for recipe, _ in order],
        masks=np.stack([np.asarray(drawn.mask(row)) for drawn, row in rows]) if masked else None,
        facts=[
            {
                **drawn.facts(row),
                "recipe": recipe.digest,
                "index": index,
                "prompt": recipe.prompt,
                "reference_id": recipe.reference_id,
                "class_names": generator.class_names,
                "accepted": True,
            }
            for (drawn, row), (recipe, index) in zip(rows, order, strict=True)
        ],
    )


def _kept(key: Sequence[object], draw: Callable[[], Drawn], cache: ArrayCache) -> Drawn:
    """Return a batch from the cache, or draw it and keep its three parts."""
    made: list[Drawn] = []

    def drawn() -> Drawn:
        made.append(made[0] if made else draw())
        return made[0]

    def told() -> NDArray[np.uint8]:
        text = json.dumps({"masks": drawn().masks is not None, "columns": drawn().columns})
        return np.frombuffer(text.encode(), np.uint8)

    facts = json.loads(cache.get([*key, "facts"], told).tobytes())
    images = cache.get([*key, "images"], lambda: drawn().images)
    masks = None
    if facts["masks"]:
        masks = cache.get([*key, "masks"], lambda: np.asarray(drawn().masks))
    return Drawn(images=images, masks=masks, columns=facts["columns"])


def read_sets(catalog: Catalog, where: str, generator: Generator) -> list[ImageSet]:
    """Return what was published under the SQL condition `where`: all that was drawn.

    Where gates refused some, what they accepted comes before it as a set of its own.

    Raises:
        CatalogError: there is none, some are of another generator, of several sizes, or only some
            have masks.
    """
    text = f"SELECT {_COLUMNS} FROM samples WHERE ({where}\n) ORDER BY recipe_digest, recipe_index"
    rows = list({row["image_id"]: row for row in sql(catalog, text).to_pylist()}.values())
    foreign = [row["model_id"] for row in rows if row["model_id"] != generator.model_id]
    if not rows or foreign:
        raise CatalogError(
            f"{len(foreign)} of the {len(rows)} samples that satisfy {where!r} in {catalog.named}"
            f" were drawn by another generator than {generator.name} ({generator.model_id})",
            remedy="Name one of its runs, see `factory runs`: --where \"run_id = 'run-'\"",
        )
    ids = [row["image_id"] for row in rows]
    pixels = catalog.rows(ids, columns=["image", "mask"]).to_pylist()
    decoded = [
        decoded_png(row["image"]["bytes"], named=f"image {name}")
        for name, row in zip(ids, pixels, strict=True)
    ]
    images = [np.asarray(each.convert("RGB")) for each in decoded]
    masked = [row["mask"] is not None for row in pixels]
    if len({image.shape for image in images}) > 1 or any(masked) is not all(masked):
        raise CatalogError(
            f"the samples that satisfy {where!r} have several sizes, or masks in part",
            remedy="Judge one run at a time",
        )
    whole = ImageSet(
        name="drawn",
        images=np.stack(images),
        labels=[row["class_name"] for row in rows],
        masks=_masks(ids, pixels) if masked[0] else None,
        facts=[
            {
                **row,
                "recipe": row["recipe_digest"],
                "index": row["recipe_index"],
                "accepted": row["gate_status"] == ACCEPTED,
            }
            for row in rows
        ],
    )
    passed = [i for i, row in enumerate(whole.facts) if row["accepted"]]
    if not passed or len(passed) == len(whole):
        return [whole]
    return [whole.take(passed, "drawn, accepted"), replace(whole, name="drawn, all")]


def _masks(ids: Sequence[str], pixels: Sequence[Mapping[str, Any]]) -> NDArray[np.uint8]:
    pairs = zip(ids, pixels, strict=True)
    return np.stack(
        [
            np.asarray(decoded_png(row["mask"]["bytes"], named=f"mask of {name}"))
            for name, row in pairs
        ]
    )


@dataclass(frozen=True, kw_only=True)
class RealSets:
    """The real images of a judgement, at the size of the drawn ones; computed when first asked."""

    dataset: RealDataset
    unseen_ids: tuple[str, ...]
    """That no generator saw: they judge."""
    train_ids: tuple[str, ...]
    learnt_ids: tuple[str, ...]
    """Of the train part, what the generator learnt from: copies are sought among them."""
    called: Mapping[str, str]
    """Label of a real image -> the class that it is of, as drawn."""
    size_px: int
    space: FeatureSpace
    judge_space: FeatureSpace
    cache: ArrayCache
    tell: Tell | None = None
    """Gets a line now and then."""

    @cached_property
    def unseen(self) -> RealPart:
        """The unseen images under all eight turns."""
        return self._part(self.unseen_ids, self.space, TURNS)

    @cached_property
    def judged(self) -> RealPart:
        """The unseen images as the judge's own network sees them."""
        same = self.judge_space.digest == self.space.digest
        return self.unseen if same else self._part(self.unseen_ids, self.judge_space, TURNS)

    @cached_property
    def train(self) -> RealPart:
        """The train part, upright."""
        return self._part(self.train_ids, self.space, 1)

    @cached_property
    def learnt(self) -> dict[str, Features]:
        """What was learnt (M, D), in each space where copies are sought."""
        place = {image_id: row for row, image_id in enumerate(self.train_ids)}
        pixels = in_pieces(
            self.dataset,
            self.learnt_ids,
            size_px=self.size_px,
            what=["thumbnails"],
            compute=thumbnails,
            cache=self.cache,
        )
        rows = [place[image_id] for image_id in self.learnt_ids]
        return {self.space.name: self.train.turns[0][rows], PIXELS: pixels}

    def nearest(self, images: Images, turns: Features) -> dict[str, Nearest]:
        """Return the learnt image nearest to each of these, by space; {}: nothing was learnt.

        Args:
            images: (N, S, S, 3).
            turns: their features (8, N, D).
        """
        if not self.learnt_ids:
            return {}
        return {
            self.space.name: nearest(turns, self.learnt[self.space.name]),
            PIXELS: nearest(turned_thumbnails(images), self.learnt[PIXELS]),
        }

    @cached_property
    def unseen_nearest(self) -> dict[str, Nearest]:
        """The learnt image nearest to each unseen one: how near images come that copy nothing."""
        return self.nearest(self.images(self.unseen_ids), self.unseen.turns)

    def images(self, ids: Sequence[str]) -> Images:
        """Return real images (N, S, S, 3)."""
        return self.dataset.array(self.size_px, ids)

    def turns(self, images: Images, space: FeatureSpace | None = None) -> Features:
        """Return the features (8, N, D) of all turns of images, kept by the images' digest."""
        by = space or self.space
        key = ["features", by.digest, digest_bytes(images.tobytes()), list(images.shape)]

        pace = Pace(TURNS * len(images), f"views of drawn images by {by.name}", self.tell)

        def features(number: int) -> Features:
            found = self.cache.get([*key, number], lambda: by.extract(turned(images, number)))
            pace((number + 1) * len(images))
            return found

        return np.stack([features(number) for number in range(TURNS)])

    def _part(self, ids: tuple[str, ...], space: FeatureSpace, num_turns: int) -> RealPart:
        part = real_part(
            self.dataset,
            ids,
            size_px=self.size_px,
            space=space,
            num_turns=num_turns,
            cache=self.cache,
            tell=self.tell,
        )
        return replace(part, labels=[self.called[label] for label in part.labels])


def open_real_sets(
    generator: Generator,
    dataset: RealDataset,
    split: Split,
    *,
    part: str,
    classes: Mapping[str, Sequence[str]],
    spaces: tuple[FeatureSpace, FeatureSpace],
    cache: ArrayCache,
    tell: Tell | None = None,
) -> RealSets:
    """Return the real images that judge a generator.

    Args:
        generator: what it learnt from, its manifest says.
        dataset: the real images.
        split: of `dataset`.
        part: see `JudgeConfig.part`.
        classes: class as drawn -> labels of its real images. Where the dataset has none of them,
            all images are compared as one class.
        spaces: of the distances, and of the judge.
        cache: keeps features.
        tell: gets a line now and then.

    Raises:
        DataError: a split of other images, of another training on them, or too few images.
    """
    check_dataset(split, dataset.fingerprint)
    called = {label: name for name, labels in classes.items() for label in labels}
    if not set(called) & set(dataset.labels):
        called = dict.fromkeys(dataset.labels, EVERY)
    label_of = dict(zip(dataset.ids, dataset.labels, strict=True))

    def known(ids: Sequence[str]) -> tuple[str, ...]:
        return tuple(i for i in ids if label_of[i] in called)

    held_out = {"val": split.val, "test": split.test, "held_out": (*split.val, *split.test)}
    unseen, train = known(held_out[part]), known(split.train)
    for what, ids in ((f"{part} part", unseen), ("train part", train)):
        if len(ids) < 4:
            raise DataError(
                f"the {what} has {len(ids)} images of {', '.join(classes)}: too few to judge by",
                remedy="Split so that four or more are there, better a hundred",
            )
    return RealSets(
        dataset=dataset,
        unseen_ids=unseen,
        train_ids=train,
        learnt_ids=learnt_from(generator, dataset, split, train),
        called=called,
        size_px=generator.size_px,
        space=spaces[0],
        judge_space=spaces[1],
        cache=cache,
        tell=tell,
    )


def learnt_from(
    generator: Generator, dataset: RealDataset, split: Split, train: tuple[str, ...]
) -> tuple[str, ...]:
    """Return those of the train images that a generator, or one that it binds, learnt from.

    None where it learnt from another dataset, or does not say from which.

    Raises:
        DataError: it was trained on another split of this dataset: what that one holds back is
            learnt from here, and the other way round.
    """
    from factory.finetune.images import choose_images

    found: set[str] = set()
    for each in members_of(generator) or [generator]:
        other = each.manifest.get("split_digest")
        known = each.manifest.get("dataset_fingerprint", None if other is None else split.dataset)
        if known != split.dataset:
            continue
        if other != split.digest:
            raise DataError(
                f"generator {each.name!r} was trained on split {other}, this one is {split.digest}:"
                " it may have seen the images that would judge it",
                remedy="Give the split file of its training",
            )
        found |= set(choose_images(dataset, split, _Learnt(each, dataset)))
    return tuple(image_id for image_id in train if image_id in found)


class _Learnt:
    """Which images of a train part a generator learnt from, as its manifest says."""

    def __init__(self, generator: Generator, dataset: RealDataset) -> None:
        config = generator.manifest.get("config", {})
        self.only = tuple(name for name in generator.class_names if name in dataset.class_names)
        self.n_shot = config.get("n_shot")
        self.seed = config.get("seed", 0)
        self.unlabelled = config.get("unlabelled", False)
