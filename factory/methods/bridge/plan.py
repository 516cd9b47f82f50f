"""Options and plan of a bridge: a recipe for every source and direction, a request per depth."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from factory.errors import ConfigError
from factory.models.domains import check_invertible, domains_of
from factory.models.expert_file import read_notes
from factory.models.generator import Generator
from factory.sample.config import GenerateConfig
from factory.sample.method import MethodOptions, options_text
from factory.sample.plan import Quota
from factory.sample.quotas import Planning
from factory.sample.references import References


class BridgeOptions(MethodOptions):
    """A recipe holds them with its one pair, and with the prompt that its source is inverted under.

    Names: `depths.POLICIES`, `measures.MEASURES` and 'expert', `soft_labels.LABELS`.
    """

    pairs: tuple[tuple[str, str], ...] = ()
    """(source, target) domains; empty: every ordered pair that the generator has."""
    depths: int = Field(10, ge=1, le=1000)
    """m, images of each source and direction, from nearly the source to wholly migrated."""
    policy: Literal["uniform", "adaptive", "adaptive_full", "reversed"] = "adaptive"
    """How deep they are inverted; 'reversed' is the original's rule, which draws no shallow one."""
    measure: Literal["centre_row", "radial", "expert"] = "radial"
    """The feature whose way adaptive depths and 'feature' labels follow."""
    soft_label: Literal["depth", "feature", "expert"] = "feature"
    """What says how far an image has come: depth, feature's range, an expert's probability."""
    corrections: int = Field(0, ge=0, le=10)
    """Fixed-point iterations of an inversion step: better round trips, as many more evaluations."""
    min_psnr_db: float | None = Field(None, gt=0)
    """Reject the images of a source that its own generator cannot bring back from full depth to so
    much PSNR against the autoencoder's reconstruction; null: not tried, which saves N evaluations
    per source."""
    slots: int | None = Field(None, ge=1)
    """Images in a denoising forward; null: half of the batch size."""
    away_from_source: bool = False
    """Guide away from the prompt of the source's domain, instead of from the job's negative_prompt:
    a stronger pull into the target where both are drawn by one network."""
    source_prompt: str | None = None
    """Text under which sources are inverted; null: the prompt of their domain."""
    expert: str | None = None
    """Folder of an expert, for the measure or label of that name ..."""
    expert_id: str | None = None
    """... and the digest of its weights; filled in by the plan."""
    labels: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)
    """Domain -> labels of the real images that belong to it; by default the one of its own name."""

    @property
    def shows_references(self) -> bool:
        """A bridge starts from a real image."""
        return True

    @property
    def asks_expert(self) -> bool:
        """Whether an expert is needed."""
        return "expert" in (self.measure, self.soft_label)

    @model_validator(mode="after")
    def _whole(self) -> "BridgeOptions":
        if self.asks_expert and self.expert is None:
            raise ValueError("measure or soft_label 'expert' needs expert: FOLDER")
        if loops := [pair for pair in self.pairs if pair[0] == pair[1]]:
            raise ValueError(f"pairs: {loops[0][0]!r} leads to itself")
        if len(set(self.pairs)) < len(self.pairs):
            raise ValueError("pairs: one is named twice")
        return self


def bridge_quotas(planning: Planning, options: BridgeOptions) -> Iterator[Quota]:
    """Yield a quota of m images for each source and direction, the directions taking turns.

    `class_name` is the target, index k - 1 the k-th depth. All m images of a source lie in one
    batch, so that they come from one inversion.

    Raises:
        ConfigError: a domain that the generator or the expert does not know or that has no images,
            another scheduler than ddim, numbers that are no multiples of m, or fewer steps than m.
        DataError: a reference outside the train part.
    """
    config, generator, base = planning.config, planning.generator, planning.base
    _check(config, generator, options)
    references = planning.shown("a bridge starts from real images")
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
    domains = domains_of(generator).values()
    for domain in domains:
        check_invertible(domain)
    methods = {domain.generator.method for domain in domains}
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
    from factory.methods.bridge.draw import open_expert  # torch: only where an expert is asked

    return open_expert(options.expert)[1]
