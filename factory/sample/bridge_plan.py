"""The plan of a bridge run: a recipe for every source image and direction, a request per depth."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path

from factory.errors import ConfigError
from factory.models.domains import domains_of
from factory.models.expert_file import read_notes
from factory.models.generator import Generator
from factory.sample.config import GenerateConfig
from factory.sample.methods.bridge_options import BridgeOptions
from factory.sample.options import options_text
from factory.sample.plan import Quota
from factory.sample.recipe import Recipe
from factory.sample.references import References


def bridge_quotas(
    config: GenerateConfig,
    generator: Generator,
    base: Recipe,
    options: BridgeOptions,
    references: References | None,
) -> Iterator[Quota]:
    """Yield a quota of m images for each source and direction, the directions taking turns.

    `class_name` is the target, index k - 1 the k-th depth. All m images of a source lie in one
    batch, so that they come from one inversion.

    Raises:
        ConfigError: a domain that the generator or the expert does not know or that has no images,
            another scheduler than ddim, numbers that are no multiples of m, or fewer steps than m.
        DataError: a reference outside the train part.
    """
    _check(config, generator, options)
    if references is None:
        raise ConfigError(
            "a bridge starts from real images, and the job names none",
            remedy="Set data: to the real images and split: to their split file",
        )
    pairs = options.pairs or tuple(permutations(generator.class_names, 2))
    sources = {pair: _sources(config, generator, references, options, pair) for pair in pairs}
    expert_id = _expert_id(options, pairs)
    turns: Counter[tuple[str, str]] = Counter()
    for pair, image_id in _taking_turns(sources, config.num_images // options.depths):
        shown = references.get(image_id, base.height_px, masks=False)
        source, target = (_prompt(config, generator, name, turns[pair]) for name in pair)
        turns[pair] += 1
        told = options.model_copy(
            update={
                "pairs": (pair,),
                "labels": {},
                "expert_id": expert_id,
                "source_prompt": source if options.source_prompt is None else options.source_prompt,
            }
        )
        recipe = replace(
            base,
            class_name=pair[1],
            class_id=generator.class_names.index(pair[1]),
            prompt=target,
            negative_prompt=source if options.away_from_source else base.negative_prompt,
            adapter_id=generator.adapter_of(pair[1]),
            reference_id=image_id,
            reference_sha256=shown.sha256,
            options=options_text(told),
        )
        yield Quota(recipe=recipe, count=options.depths)


def _taking_turns(
    sources: dict[tuple[str, str], list[str]], count: int
) -> Iterator[tuple[tuple[str, str], str]]:
    """Yield `count` of (pair, source): the first source of every pair, then the second, ..."""
    turns = [
        (place, number, pair, image_id)
        for number, (pair, ids) in enumerate(sources.items())
        for place, image_id in enumerate(ids)
    ]
    if len(turns) < count:
        raise ConfigError(
            f"the job asks for {count} progressions, its data has {len(turns)} sources",
            remedy=f"Set num_images to {len(turns)} times the number of depths, or fewer",
        )
    for _, _, pair, image_id in sorted(turns)[:count]:
        yield pair, image_id


def _sources(
    config: GenerateConfig,
    generator: Generator,
    references: References,
    options: BridgeOptions,
    pair: tuple[str, str],
) -> list[str]:
    """Return the ids of the real images of a pair's source that may be shown, in order."""
    for name in pair:
        if name not in generator.class_names:
            raise ConfigError(
                f"generator {generator.name!r} has no domain {name!r}",
                remedy=f"Choose of {', '.join(generator.class_names) or 'none: bind some first'}",
            )
    references.check(config.references)
    wanted = options.labels.get(pair[0], (pair[0],))
    label_of = dict(zip(references.dataset.ids, references.dataset.labels, strict=True))
    found = [i for i in config.references or references.ids if label_of[i] in wanted]
    if not found:
        raise ConfigError(
            f"no image to show has a label of domain {pair[0]!r} ({', '.join(wanted)})",
            remedy="Say which labels belong to it with options.labels: {domain: [label, ...]}",
        )
    return found


def _check(config: GenerateConfig, generator: Generator, options: BridgeOptions) -> None:
    if config.scheduler != "ddim":
        raise ConfigError(
            f"scheduler {config.scheduler!r} cannot be run backwards", remedy="Set scheduler: ddim"
        )
    methods = {domain.generator.method for domain in domains_of(generator).values()}
    if options.away_from_source and methods != {"text"}:
        raise ConfigError(
            f"options.away_from_source needs prompts, generators of {', '.join(sorted(methods))}"
            " read none",
            remedy="Leave it out",
        )
    if options.away_from_source and config.guidance_scale <= 1:
        raise ConfigError(
            f"options.away_from_source does nothing at guidance_scale {config.guidance_scale:g}",
            remedy="Set guidance_scale above 1",
        )
    if config.images_per_reference not in (1, options.depths):
        raise ConfigError(
            f"images_per_reference {config.images_per_reference}: a bridge draws"
            f" {options.depths} of each source and direction",
            remedy="Leave it out, and set options.depths",
        )
    for name in ("num_images", "batch_size"):
        if getattr(config, name) % options.depths:
            raise ConfigError(
                f"{name} {getattr(config, name)} is no multiple of the {options.depths} depths"
                " of a source",
                remedy=f"Set {name} to a multiple of options.depths",
            )
    if config.num_inference_steps < options.depths:
        raise ConfigError(
            f"{options.depths} depths do not fit into {config.num_inference_steps} inversion steps",
            remedy="Set num_inference_steps to options.depths or more, or ask for fewer depths",
        )
    if unknown := sorted(set(options.labels) - set(generator.class_names)):
        raise ConfigError(
            f"options.labels: {unknown[0]!r} is no domain of generator {generator.name!r}",
            remedy=f"Its domains are {', '.join(generator.class_names)}",
        )


def _prompt(config: GenerateConfig, generator: Generator, domain: str, turn: int) -> str:
    """Return what a domain is inverted and drawn under: the job's prompt, else the generator's.

    Several take turns from source to source.
    """
    prompts = config.prompts.get(domain, generator.prompts.get(domain, ""))
    return prompts if isinstance(prompts, str) else prompts[turn % len(prompts)]


def _expert_id(options: BridgeOptions, pairs: Sequence[tuple[str, str]]) -> str | None:
    """Return the digest of the expert that is asked; it labels no class that it does not know."""
    if not options.asks_expert or options.expert is None:
        return None
    known = read_notes(Path(options.expert).expanduser()).spec.class_names
    unknown = sorted({name for pair in pairs for name in pair} - set(known))
    if options.soft_label == "expert" and unknown:
        raise ConfigError(
            f"the expert in {options.expert} knows no class {unknown[0]!r}, so it cannot label it",
            remedy=f"It knows {', '.join(known)}; name the domains so, or set soft_label: feature",
        )
    from factory.sample.methods.bridge_expert import open_expert

    return open_expert(options.expert)[1]
