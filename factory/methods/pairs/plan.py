"""The plan of a run of pairs: a recipe for every real image, target and cluster that it shows."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from factory.digest import digest
from factory.errors import ConfigError, DataError
from factory.methods.pairs.options import PairsOptions, first_level
from factory.models.generator import CLUSTERS, Generator
from factory.real.clusters import load_clusters
from factory.sample.config import GenerateConfig
from factory.sample.plan import Quota
from factory.sample.quotas import (
    Planning,
    PromptTurns,
    by_class,
    counts_by_reference,
    reference_ids,
    showing,
)
from factory.sample.references import Reference

Nearest = Callable[[Sequence[str]], Mapping[str, str]]
"""Ids to the id of the image most like each."""


def pairs_quotas(planning: Planning, options: PairsOptions) -> Iterator[Quota]:
    """Yield the quotas of a run: those by class, where it shows no real image.

    Raises:
        ConfigError: nothing is left of the steps, target 'nearest' without clusters, or several
            classes from noise by a generator that knows none.
        DataError: a reference without a mask, with an empty one where its object is re-drawn, or of
            no cluster of the generator.
    """
    config, generator = planning.config, planning.generator
    first_level(config.num_inference_steps, options.skip_timesteps)
    if (style := options.style) is not None:
        first_level(style.num_inference_steps or config.num_inference_steps, style.skip_timesteps)
    if not options.shows_references:
        _check_classes(config, generator)
        if planning.table is not None and generator.manifest.get("clusters"):
            raise ConfigError(
                f"generator {generator.name!r} shares its images out over clusters, and rows of a"
                " table name none",
                remedy="Leave table out, or draw with a generator without clusters",
            )
        yield from _by_cluster(by_class(planning), generator)
        return
    references, seed = planning.shown(), int(config.seed or 0)
    ids = _of_cluster(reference_ids(config, references), generator)
    ids = in_order(ids, options.order, seed=seed)
    targets = target_of(ids, options.target, seed=seed, nearest=_nearest(generator))
    counts = counts_by_reference(ids, config.num_images, config.images_per_reference)
    turns = PromptTurns(config.prompts)
    for image_id, count in counts.items():
        shown = references.get(image_id, planning.base.height_px, masks=options.reads_masks)
        if options.reads_masks:
            check_mask(shown, generator, options)
        recipe = replace(showing(planning, shown), cluster_id=cluster_of(generator, image_id))
        if (target_id := targets.get(image_id)) is not None:
            look = references.get(target_id, planning.base.height_px, masks=False)
            recipe = replace(recipe, target_id=target_id, target_sha256=look.sha256)
        for prompt, share in turns.take(shown.label, count).items():
            yield Quota(recipe=replace(recipe, prompt=prompt), count=share)


def _nearest(generator: Generator) -> Nearest | None:
    """Return what finds the most alike real image; None: the generator has no clusters."""
    path = generator.folder / CLUSTERS
    return load_clusters(path).nearest if path.is_file() else None


def _check_classes(config: GenerateConfig, generator: Generator) -> None:
    """Refuse to label at random what a generator draws without knowing of classes.

    Raises:
        ConfigError: several classes, and no condition 'class'.
    """
    condition = generator.manifest.get("condition", "class")
    if condition != "class" and len(config.classes) > 1:
        raise ConfigError(
            f"generator {generator.name!r} draws from noise without knowing its"
            f" {len(config.classes)} classes (condition {condition!r})",
            remedy="Train it with condition: class, draw from real pairs (options: start: reference"
            " or inpaint), or name one class that all images shall carry (classes:)",
        )


def in_order(ids: Sequence[str], order: str, *, seed: int) -> list[str]:
    """Return `ids` as they are ('sequential'), or shuffled by `seed` ('random')."""
    if order == "sequential":
        return list(ids)
    return sorted(ids, key=lambda image_id: digest(["order", seed, image_id]))


def target_of(
    ids: Sequence[str], choice: str, *, seed: int, nearest: Nearest | None = None
) -> Mapping[str, str]:
    """Return the target of every reference; empty where each is its own.

    'sequential': the next in turn; 'random': any other, by `seed`; 'nearest': the most alike.

    Raises:
        ConfigError: fewer than two images, or 'nearest' without a measure.
    """
    if choice == "reference":
        return {}
    if len(ids) < 2:
        raise ConfigError(
            f"target {choice!r} among {len(ids)} real images",
            remedy="Show two or more, or set target: reference",
        )
    if choice == "sequential":
        return {image_id: ids[(place + 1) % len(ids)] for place, image_id in enumerate(ids)}
    if choice == "random":
        return {
            image_id: min(
                (other for other in ids if other != image_id),
                key=lambda other: digest(["target", seed, image_id, other]),
            )
            for image_id in ids
        }
    if nearest is None:
        raise ConfigError(
            "target 'nearest' needs features of the real images, and this generator has none",
            remedy="Train it with clusters, or choose another target",
        )
    return nearest(ids)


def cluster_of(generator: Generator, image_id: str) -> int | None:
    """Return the cluster of a training image; None: the generator knows no clusters.

    Raises:
        DataError: an image that is in none of its clusters.
    """
    clusters = generator.manifest.get("clusters")
    if not clusters:
        return None
    for number, members in clusters["members"].items():
        if image_id in members:
            return int(number)
    raise DataError(
        f"image {image_id!r} is in no cluster of generator {generator.name!r}",
        remedy="Show images that it was trained on",
    )


def check_mask(shown: Reference, generator: Generator, options: PairsOptions) -> None:
    """Refuse a reference whose mask has unknown values, or nothing to re-draw.

    Raises:
        DataError: naming the image.
    """
    values = generator.manifest.get("mask_values") or (0, 255)
    if shown.mask is None:
        return
    from factory.models.pair_codec import class_indices  # torch: only where masks are shown

    indices = class_indices(shown.mask, values, name=shown.id)
    if options.inpaint is not None and not indices.any():
        raise DataError(
            f"the mask of {shown.id!r} is empty: there is nothing to inpaint",
            remedy="Leave this image out (references:), or start from it without inpaint",
        )


def _of_cluster(ids: Sequence[str], generator: Generator) -> list[str]:
    """Return those `ids` that belong to the clusters of the generator: all, if it has none."""
    clusters = generator.manifest.get("clusters")
    if not clusters:
        return list(ids)
    known = {image_id for members in clusters["members"].values() for image_id in members}
    return [image_id for image_id in ids if image_id in known]


def _by_cluster(plain: Iterator[Quota], generator: Generator) -> Iterator[Quota]:
    """Yield `plain` with every quota shared out over the clusters by their sizes."""
    clusters = generator.manifest.get("clusters")
    if not clusters:
        yield from plain
        return
    sizes = {int(number): len(members) for number, members in clusters["members"].items()}
    for quota in plain:
        for number, count in shares(quota.count, sizes).items():
            if count:
                yield Quota(recipe=replace(quota.recipe, cluster_id=number), count=count)


def shares(count: int, sizes: Mapping[int, int]) -> dict[int, int]:
    """Return `count` divided in proportion to `sizes`: largest remainders first, then by number."""
    total = sum(sizes.values())
    floors = {number: count * size // total for number, size in sizes.items()}
    left = count - sum(floors.values())
    by_rest = sorted(sizes, key=lambda number: (-(count * sizes[number] % total), number))
    return {number: floors[number] + (number in by_rest[:left]) for number in sorted(sizes)}
