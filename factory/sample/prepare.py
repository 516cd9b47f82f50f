"""From configuration to plan: every recipe of a run, its counts, and the run's name."""

import secrets
from collections.abc import Mapping

from factory.config import GenerateConfig
from factory.digest import digest
from factory.errors import ConfigError
from factory.models.generator import Generator
from factory.sample.plan import Plan, Quota, split_evenly
from factory.sample.recipe import Recipe


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
    if config.classes:
        return config
    if not generator.prompts:
        raise ConfigError(
            f"generator {generator.name!r} names no classes",
            remedy="Set classes: {name: prompt, ...}",
        )
    return config.model_copy(update={"classes": dict(generator.prompts)})


def make_plan(config: GenerateConfig, generator: Generator) -> Plan:
    """Return the plan of a seeded configuration: images shared evenly by classes, then prompts.

    Raises:
        ConfigError: a class that the generator does not know, no seed, or a prompt twice.
    """
    config = with_classes(config, generator)
    names = class_names(config, generator)
    if config.seed is None:
        raise ConfigError("the configuration has no seed", remedy="Call with_seed() first")
    size = config.size_px or generator.size_px
    quotas = []
    counts = split_evenly(config.num_images, len(config.classes))
    for (class_name, prompts), count in zip(config.classes.items(), counts, strict=True):
        prompts = (prompts,) if isinstance(prompts, str) else prompts
        if twice := [prompt for prompt in prompts if prompts.count(prompt) > 1]:
            raise ConfigError(
                f"classes: {class_name!r} has the prompt {twice[0]!r} twice",
                remedy="Write every prompt of a class once",
            )
        for prompt, share in zip(prompts, split_evenly(count, len(prompts)), strict=True):
            recipe = Recipe(
                model_id=generator.model_id,
                method=config.method or generator.method,
                class_name=class_name,
                class_id=names.index(class_name),
                prompt=prompt,
                negative_prompt=config.negative_prompt,
                guidance_scale=config.guidance_scale,
                num_inference_steps=config.num_inference_steps,
                scheduler=config.scheduler,
                height_px=size,
                width_px=size,
                seed=config.seed,
                batch_size=config.batch_size,
                dtype=config.dtype,
                adapter_id=generator.adapter_of(class_name),
            )
            quotas.append(Quota(recipe=recipe, count=share))
    return Plan(quotas=tuple(quotas))


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
    return "run-" + digest([plan.digest, config.gates.model_dump(mode="json")])[:12]


def lineage(generator: Generator) -> Mapping[str, str | None]:
    """Return the provenance columns that a generator's manifest fills."""
    columns = ("base_model_id", "split_digest", "dataset_fingerprint")
    return {name: generator.manifest.get(name) for name in columns}
