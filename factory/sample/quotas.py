"""Shares of a run: how its images are divided over classes, prompts and real images shown."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from factory.errors import ConfigError
from factory.models.generator import Generator
from factory.sample.config import GenerateConfig, Prompts
from factory.sample.plan import Quota
from factory.sample.recipe import Recipe
from factory.sample.references import Reference, References
from factory.sample.row_prompts import RowPrompts
from factory.sample.table import Table


@dataclass(frozen=True, kw_only=True)
class Planning:
    """What a run is planned from."""

    config: GenerateConfig
    """Seeded, with its classes and prompts."""
    generator: Generator
    base: Recipe
    """What all recipes share: class and prompt are still to be set."""
    references: References | None = None
    """The real images that may be shown."""
    table: Table | None = None
    """The rows that are drawn, where the job names a table."""

    def shown(self, why: str = "these options show real images") -> References:
        """Return the real images.

        Raises:
            ConfigError: the job names none; `why` says who needs them.
        """
        if self.references is None:
            raise ConfigError(
                f"{why}, and the job names none",
                remedy="Set data: to the real images and split: to their split file",
            )
        return self.references


def by_class(planning: Planning) -> Iterator[Quota]:
    """Yield quotas that share the images evenly by classes, then by their prompts.

    With a table: a quota for each of its rows.

    Raises:
        ConfigError: a class that the generator does not know, or a prompt twice.
        DataError: a row without what its prompt asks for.
    """
    if planning.table is not None:
        yield from _by_row(planning, planning.table)
        return
    config, generator = planning.config, planning.generator
    names = class_names(config, generator)
    counts = split_evenly(config.num_images, len(config.prompts))
    for (class_name, prompts), count in zip(config.prompts.items(), counts, strict=True):
        prompts = _distinct(class_name, prompts)
        for prompt, share in zip(prompts, split_evenly(count, len(prompts)), strict=True):
            recipe = replace(
                planning.base,
                class_name=class_name,
                class_id=names.index(class_name),
                prompt=prompt,
                adapter_id=generator.adapter_of(class_name),
            )
            yield Quota(recipe=recipe, count=share)


def _by_row(planning: Planning, table: Table) -> Iterator[Quota]:
    """Yield a quota for every row of a table.

    Raises:
        ConfigError: a class that the generator does not know, or that has several prompts.
        DataError: a row without what its prompt asks for.
    """
    config, generator, base = planning.config, planning.generator, planning.base
    numbers = {name: number for number, name in enumerate(class_names(config, generator))}
    prompts, counts = RowPrompts(config, generator), Counter[Recipe]()
    for row in table.rows:
        name, scale = row.class_name or "", row.guidance_scale
        recipe = replace(
            base,
            class_name=name,
            class_id=numbers[name],
            prompt=prompts.of(row),
            guidance_scale=base.guidance_scale if scale is None else scale,
            seed=base.seed if row.seed is None else row.seed,
            adapter_id=generator.adapter_of(name),
            attributes=row.attributes_text,
        )
        counts[recipe] += row.count  # one row may write what another leaves to the run
    for recipe, count in counts.items():
        yield Quota(recipe=recipe, count=count)


def by_reference(planning: Planning, *, masks: bool) -> Iterator[Quota]:
    """Yield a quota for every reference that the run shows, with its mask if `masks`.

    Raises:
        ConfigError: no data to show.
        DataError: a reference outside the train part, or without the mask that it needs.
    """
    references = planning.shown(f"method {planning.base.method!r} shows real images")
    ids = reference_ids(planning.config, references)
    config, turns = planning.config, PromptTurns(planning.config.prompts)
    counts = counts_by_reference(ids, config.num_images, config.images_per_reference)
    for image_id, count in counts.items():
        shown = references.get(image_id, planning.base.height_px, masks=masks)
        recipe = showing(planning, shown)
        for prompt, share in turns.take(shown.label, count).items():
            yield Quota(recipe=replace(recipe, prompt=prompt), count=share)


def showing(planning: Planning, shown: Reference) -> Recipe:
    """Return the recipe that shows a real image; its prompt is still to be set."""
    return replace(
        planning.base,
        class_name=shown.label,
        class_id=class_names(planning.config, planning.generator).index(shown.label),
        adapter_id=planning.generator.adapter_of(shown.label),
        reference_id=shown.id,
        reference_sha256=shown.sha256,
    )


def reference_ids(config: GenerateConfig, references: References) -> list[str]:
    """Return the real images that a run shows, in order: those it names, else those of its classes.

    Raises:
        DataError: an id outside the train part.
        ConfigError: an id of a class that is not drawn.
    """
    label_of = dict(zip(references.dataset.ids, references.dataset.labels, strict=True))
    if not config.references:
        return [i for i in references.ids if label_of[i] in config.classes]
    references.check(config.references)
    if foreign := [i for i in config.references if label_of[i] not in config.classes]:
        raise ConfigError(
            f"references: {foreign[0]!r} is of class {label_of[foreign[0]]!r}, which is not drawn",
            remedy=f"Name images of {', '.join(config.classes)}",
        )
    return list(config.references)


def class_names(config: GenerateConfig, generator: Generator) -> tuple[str, ...]:
    """Return all class names in the order of `class_id`: the generator's, else the sorted config's.

    Raises:
        ConfigError: a class of the configuration that the generator does not know.
    """
    known = generator.class_names or tuple(sorted(config.classes))
    if unknown := sorted(set(config.classes) - set(known)):
        raise ConfigError(
            f"classes: {unknown[0]!r} is unknown to generator {generator.name!r}",
            remedy=f"Choose from {', '.join(known)}",
        )
    return known


class PromptTurns:
    """Shares the images of references out over the prompts of their class, which take turns."""

    def __init__(self, classes: Mapping[str, Prompts]) -> None:
        """`classes`: class -> prompt, or several."""
        self._classes = classes
        self._begun: Counter[str] = Counter()

    def take(self, class_name: str, count: int) -> dict[str, int]:
        """Return what the next `count` images of a class are drawn under, with their numbers.

        Raises:
            ConfigError: a prompt twice.
        """
        prompts = _distinct(class_name, self._classes[class_name])
        first = self._begun[class_name]
        self._begun[class_name] += count
        waits = [(number - first) % len(prompts) for number in range(len(prompts))]
        shares = [max(0, -(-(count - wait) // len(prompts))) for wait in waits]
        return {prompt: share for prompt, share in zip(prompts, shares, strict=True) if share}


def counts_by_reference(
    ids: Sequence[str], num_images: int, images_per_reference: int
) -> dict[str, int]:
    """Return how many images each reference serves, in order of first use.

    References are taken in the order of `ids`, each for `images_per_reference` images, and from
    the first again when all were used, until there are `num_images`.

    Raises:
        ConfigError: no references at all.
    """
    if not ids:
        raise ConfigError("there is no reference to show", remedy="Name classes that have images")
    counts: dict[str, int] = {}
    for slot, first in enumerate(range(0, num_images, images_per_reference)):
        chosen = ids[slot % len(ids)]
        share = min(images_per_reference, num_images - first)
        counts[chosen] = counts.get(chosen, 0) + share
    return counts


def split_evenly(num_images: int, parts: int) -> list[int]:
    """Return `parts` counts that sum to `num_images` and differ by at most one."""
    base, rest = divmod(num_images, parts)
    return [base + (number < rest) for number in range(parts)]


def _distinct(class_name: str, prompts: Prompts) -> tuple[str, ...]:
    """Return the prompts of a class.

    Raises:
        ConfigError: one is there twice.
    """
    prompts = (prompts,) if isinstance(prompts, str) else tuple(prompts)
    if twice := [prompt for prompt in prompts if prompts.count(prompt) > 1]:
        raise ConfigError(
            f"classes: {class_name!r} has the prompt {twice[0]!r} twice",
            remedy="Write every prompt of a class once",
        )
    return prompts
