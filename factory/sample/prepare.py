"""From configuration to plan: every recipe of a run, its counts, and the run's name."""

import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import replace

from factory.digest import digest
from factory.errors import ConfigError
from factory.gate.calibration import calibration_of, gates_for
from factory.gate.pixel import PixelGates
from factory.gate.registry import sections
from factory.models.generator import CLUSTERS, Generator
from factory.models.prompts import open_reader
from factory.real.clusters import load_clusters
from factory.sample.bridge_plan import bridge_quotas
from factory.sample.config import GenerateConfig
from factory.sample.methods.bridge_options import BridgeOptions
from factory.sample.methods.pairs_options import PairsOptions
from factory.sample.options import MethodOptions, check_method, options_text, parse_options
from factory.sample.pairs_plan import Nearest, pairs_quotas
from factory.sample.plan import Plan, Quota, split_evenly
from factory.sample.recipe import Recipe
from factory.sample.references import PromptTurns, References, counts_by_reference

SURELY_READ = 40
"""Letters of a prompt that are read by every tokenizer here: a token each, of 48 or 77."""
_PLAIN = re.compile(r"[A-Za-z0-9 ,.-]*")
"""Letters that every tokenizer here knows."""
CALIBRATED_TRIES = 3
"""Of a generator whose gates know its real images: foreign ones may refuse a class altogether."""


def with_seed(config: GenerateConfig) -> GenerateConfig:
    """Return `config` with a seed: its own, or a fresh one if it has none."""
    if config.seed is not None:
        return config
    return config.model_copy(update={"seed": secrets.randbits(53)})  # 53: exact in any JSON reader


def with_classes(config: GenerateConfig, generator: Generator) -> GenerateConfig:
    """Return `config` with classes and prompts: its own, or all of the generator's.

    Raises:
        ConfigError: neither names a class.
    """
    if config.classes and isinstance(config.classes, Mapping):
        return config
    if not generator.prompts:
        raise ConfigError(
            f"generator {generator.name!r} names no classes",
            remedy="Set classes: {name: prompt, ...}",
        )
    names = tuple(config.classes) or tuple(generator.prompts)
    if unknown := [name for name in names if name not in generator.prompts]:
        raise ConfigError(
            f"classes: {unknown[0]!r} is unknown to generator {generator.name!r}",
            remedy=f"Choose from {', '.join(generator.prompts)}, or write {{name: prompt, ...}}",
        )
    return config.model_copy(update={"classes": {name: generator.prompts[name] for name in names}})


def with_gates(config: GenerateConfig, generator: Generator) -> GenerateConfig:
    """Return `config` with the thresholds that count, all named, and its tries.

    See `gates_for`: the generator's own, where it was measured on real images.
    """
    measured = calibration_of(generator)
    tries = config.max_tries or (CALIBRATED_TRIES if measured else None)
    return config.model_copy(
        update={"gates": gates_for(config.gates, measured), "max_tries": tries}
    )


def check_prompts(config: GenerateConfig, generator: Generator, *, begun: bool) -> list[str]:
    """Return what is to be said of prompts of which the generator does not read every word.

    A prompt of the job that would be cut is refused: images would be drawn, and named, under words
    that nobody read. Those that the generator was trained under, and of a run that has begun, stay.

    Raises:
        ConfigError: with the words that would be cut.
    """
    own, said = set(generator.prompts.values()), []
    asked = [("negative_prompt", config.negative_prompt)] + [
        (name, prompt)
        for name, prompts in config.prompts.items()
        for prompt in ((prompts,) if isinstance(prompts, str) else prompts)
    ]
    doubtful = [
        (name, prompt)
        for name, prompt in asked
        if len(prompt) > SURELY_READ or not (prompt in own or _PLAIN.fullmatch(prompt))
    ]
    if not doubtful:
        return []
    whole = generator.base() if generator.adapters else generator
    if (reader := open_reader(whole.folder)) is None:
        return []
    for name, prompt in doubtful:
        found = reader.read(prompt)
        if found.cut and not begun and prompt not in own:
            raise ConfigError(
                f"the prompt of {name!r} has {found.tokens} tokens, and generator"
                f" {generator.name!r} reads {found.most}: {found.cut!r} would be cut off",
                remedy="Shorten it, the most important words first",
            )
        if found.cut:
            said.append(f"{name}: of the prompt {found.cut!r} is cut off and not read")
        elif found.unknown and prompt not in own:
            said.append(f"{name}: the letters {found.unknown!r} of the prompt are not known")
    return said


def with_first_prompts(config: GenerateConfig) -> GenerateConfig:
    """Return `config` with one prompt per class, under which older runs showed all references."""
    first = {n: p if isinstance(p, str) else p[0] for n, p in config.prompts.items()}
    return config.model_copy(update={"classes": first})


def make_plan(
    config: GenerateConfig, generator: Generator, references: References | None = None
) -> Plan:
    """Return the plan of a seeded configuration: images shared evenly by classes, then prompts.

    A method that shows references gets a recipe for each of them instead, see
    `counts_by_reference`.

    Raises:
        ConfigError: a class that the generator does not know, no seed, a prompt twice, options
            that the method does not have, or no data where references are to be shown.
        ModelError: a style term whose extractor has no weights at hand.
        DataError: a reference outside the train part, or without the mask that it needs.
    """
    config = with_classes(config, generator)
    base = _base_recipe(config, generator)
    check_method(base.method, generator)
    options = parse_options(base.method, config.options)
    if isinstance(options, PairsOptions) and options.style is not None:
        from factory.sample.methods.style import with_digests

        led = with_digests(options.style, generator.folder)
        options = options.model_copy(update={"style": led})
    base = replace(base, options=options_text(options))
    if isinstance(options, BridgeOptions):
        return Plan(quotas=tuple(bridge_quotas(config, generator, base, options, references)))
    if isinstance(options, PairsOptions):
        ids = reference_ids(config, references) if references else ()
        plain = _quotas(config, generator, base)
        quotas = pairs_quotas(
            config,
            base,
            generator,
            options,
            plain=plain,
            ids=ids,
            references=references,
            nearest=_nearest(generator),
        )
        return Plan(quotas=tuple(quotas))
    if options is not None and options.shows_references:
        return Plan(quotas=tuple(_shown_quotas(config, generator, base, options, references)))
    return Plan(quotas=tuple(_quotas(config, generator, base)))


def _base_recipe(config: GenerateConfig, generator: Generator) -> Recipe:
    """Return what all recipes of a run share; class and prompt are still to be set."""
    if config.seed is None:
        raise ConfigError("the configuration has no seed", remedy="Call with_seed() first")
    size = config.size_px or generator.size_px
    return Recipe(
        model_id=generator.model_id,
        method=config.method or generator.method,
        class_name="",
        class_id=0,
        prompt="",
        negative_prompt=config.negative_prompt,
        guidance_scale=config.guidance_scale,
        num_inference_steps=config.num_inference_steps,
        scheduler=config.scheduler,
        height_px=size,
        width_px=size,
        seed=config.seed,
        batch_size=config.batch_size,
        dtype=config.dtype,
    )


def _quotas(config: GenerateConfig, generator: Generator, base: Recipe) -> Iterator[Quota]:
    names = class_names(config, generator)
    counts = split_evenly(config.num_images, len(config.prompts))
    for (class_name, prompts), count in zip(config.prompts.items(), counts, strict=True):
        prompts = (prompts,) if isinstance(prompts, str) else prompts
        if twice := [prompt for prompt in prompts if prompts.count(prompt) > 1]:
            raise ConfigError(
                f"classes: {class_name!r} has the prompt {twice[0]!r} twice",
                remedy="Write every prompt of a class once",
            )
        for prompt, share in zip(prompts, split_evenly(count, len(prompts)), strict=True):
            recipe = replace(
                base,
                class_name=class_name,
                class_id=names.index(class_name),
                prompt=prompt,
                adapter_id=generator.adapter_of(class_name),
            )
            yield Quota(recipe=recipe, count=share)


def _shown_quotas(
    config: GenerateConfig,
    generator: Generator,
    base: Recipe,
    options: MethodOptions,
    references: References | None,
) -> Iterator[Quota]:
    """Yield a quota for every reference that the run shows."""
    if references is None:
        raise ConfigError(
            f"method {base.method!r} shows real images, and the job names none",
            remedy="Set data: to the real images and split: to their split file",
        )
    names = class_names(config, generator)
    ids = reference_ids(config, references)
    counts = counts_by_reference(ids, config.num_images, config.images_per_reference)
    turns = PromptTurns(config.prompts)
    for image_id, count in counts.items():
        shown = references.get(image_id, base.height_px, masks=options.reads_masks)
        recipe = replace(
            base,
            class_name=shown.label,
            class_id=names.index(shown.label),
            adapter_id=generator.adapter_of(shown.label),
            reference_id=image_id,
            reference_sha256=shown.sha256,
        )
        for prompt, share in turns.take(shown.label, count).items():
            yield Quota(recipe=replace(recipe, prompt=prompt), count=share)


def _nearest(generator: Generator) -> Nearest | None:
    """Return what finds the most alike real image; None: the generator has no clusters."""
    path = generator.folder / CLUSTERS
    return load_clusters(path).nearest if path.is_file() else None


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


def run_id_of(plan: Plan, config: GenerateConfig) -> str:
    """Return the run's name: equal plans with equal gates are one run, wherever submitted.

    So a resubmitted run resumes, and never draws an image twice.
    """
    judged: list[object] = [plan.digest, gates_for(config.gates, None).model_dump(mode="json")]
    for gate in sections(config):  # older runs know none of these, and keep their names
        if not isinstance(gate, PixelGates) and gate != gate.default():
            judged.append({gate.key: gate.model_dump(mode="json")})
    return "run-" + digest(judged)[:12]


def lineage(generator: Generator) -> Mapping[str, str | float | None]:
    """Return the columns of provenance and field that a generator's manifest fills."""
    columns = ("base_model_id", "split_digest", "dataset_fingerprint")
    told = {name: generator.manifest.get(name) for name in columns}
    return told | {"pixel_size_um": generator.field.pixel_size_um, "crop": generator.field.crop}
