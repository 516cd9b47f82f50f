"""The images that a base generator is measured by, with their features."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from factory.digest import digest_bytes
from factory.evaluate.attributes import Contrast
from factory.evaluate.drawing import Order, Settings, draw
from factory.measure.cache import ArrayCache
from factory.measure.features import TURNS, Features, FeatureSpace, Images, turned
from factory.models.generator import Generator
from factory.models.prompts import PromptGrammar
from factory.sample.engine import Engine

Report = Callable[[int, int], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """Images (N, S, S, 3), the class asked for, and the features (8, N, D) of all turns."""

    images: Images
    labels: Sequence[str]
    turns: Features


def grammar_of(generator: Generator) -> PromptGrammar:
    """Return the prompt grammar that the generator was trained with, or the plain one."""
    stored = generator.manifest.get("config", {}).get("prompt", {})
    return PromptGrammar.model_validate(stored)


def draw_classes(
    engine: Engine,
    class_names: Sequence[str],
    settings: Settings,
    *,
    per_class: int,
    space: FeatureSpace,
    cache: ArrayCache,
    report: Report,
) -> Drawn:
    """Draw `per_class` images of every class under its plain prompt, class after class."""
    grammar = grammar_of(engine.generator)
    orders = [Order(class_name=n, prompt=grammar.compose(n), count=per_class) for n in class_names]
    images = np.concatenate(draw(engine, orders, settings, cache=cache, report=report))
    labels = [name for name in class_names for _ in range(per_class)]
    return Drawn(images=images, labels=labels, turns=all_turns(images, space, cache))


def draw_contrasts(
    engine: Engine,
    contrasts: Sequence[Contrast],
    settings: Settings,
    *,
    per_value: int,
    space: FeatureSpace,
    cache: ArrayCache,
    report: Report,
) -> list[tuple[Drawn, Drawn]]:
    """Draw `per_value` images under both prompts of every contrast."""
    asked = [(contrast.class_name, prompt) for contrast in contrasts for prompt in contrast.prompts]
    distinct = list(dict.fromkeys(asked))  # two attributes may lead to one prompt
    orders = [Order(class_name=n, prompt=prompt, count=per_value) for n, prompt in distinct]
    images = dict(
        zip(distinct, draw(engine, orders, settings, cache=cache, report=report), strict=True)
    )

    def drawn(class_name: str, prompt: str) -> Drawn:
        found = images[class_name, prompt]
        labels = [class_name] * per_value
        return Drawn(images=found, labels=labels, turns=all_turns(found, space, cache))

    return [
        (drawn(c.class_name, c.prompts[0]), drawn(c.class_name, c.prompts[1])) for c in contrasts
    ]


def all_turns(images: Images, space: FeatureSpace, cache: ArrayCache) -> Features:
    """Return the features (8, N, D) of all turns of the images, kept by the images' digest."""
    key = ["features", space.digest, digest_bytes(images.tobytes()), list(images.shape)]

    def features(number: int) -> Features:
        return cache.get([*key, number], lambda: space.extract(turned(images, number)))

    return np.stack([features(number) for number in range(TURNS)])
