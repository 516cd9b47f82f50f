"""Draws the images of an evaluation with the engine itself: no cluster, no catalog, no gates."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from factory.errors import ConfigError
from factory.measure.cache import ArrayCache
from factory.measure.features import Images
from factory.models.generator import Generator
from factory.sample.engine import Engine
from factory.sample.plan import Batch, Plan, Quota
from factory.sample.recipe import Recipe
from factory.sample.schedulers import check_scheduler


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to draw; the defaults of `factory.config.GenerateConfig`."""

    guidance_scale: float = 2.0
    num_inference_steps: int = 20
    scheduler: str = "dpmpp_2m"
    seed: int = 0
    batch_size: int = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to draw: `count` images of a class under a prompt."""

    class_name: str
    prompt: str
    count: int


def draw(
    engine: Engine,
    orders: Sequence[Order],
    settings: Settings,
    *,
    cache: ArrayCache,
    report: Callable[[int, int], object] = lambda _done, _of: None,
) -> list[Images]:
    """Return the images (count, S, S, 3) of every order, image i from the order's request i.

    Batches are kept in `cache`, so a killed or repeated evaluation draws none of them again.

    Args:
        report: told after each batch how many batches are done, and of how many.

    Raises:
        ConfigError: a class that the generator does not know, or an order given twice.
    """
    recipes = [recipe_of(engine.generator, order, settings) for order in orders]
    quotas = [Quota(recipe=r, count=o.count) for r, o in zip(recipes, orders, strict=True)]
    plan = Plan(quotas=tuple(quotas))
    size = engine.generator.size_px
    images = {
        recipe.digest: np.empty((order.count, size, size, 3), np.uint8)
        for recipe, order in zip(recipes, orders, strict=True)
    }
    for batch in plan.batches():
        pixels = _drawn(engine, batch, cache)
        for request, image in zip(batch.requests, pixels, strict=True):
            images[request.recipe.digest][request.index] = image
        report(batch.index + 1, plan.num_batches)
    return [images[recipe.digest] for recipe in recipes]


def _drawn(engine: Engine, batch: Batch, cache: ArrayCache) -> Images:
    names = [request.image_id for request in batch.requests]
    return cache.get(
        ["drawn", names, batch.size, dict(engine.fingerprint)], lambda: engine.draw(batch).images
    )


def recipe_of(generator: Generator, order: Order, settings: Settings) -> Recipe:
    """Return the recipe that draws an order with a generator."""
    if order.class_name not in generator.class_names:
        raise ConfigError(
            f"class {order.class_name!r} is unknown to generator {generator.name!r}",
            remedy=f"Choose from {', '.join(generator.class_names)}",
        )
    return Recipe(
        model_id=generator.model_id,
        method=generator.method,
        class_name=order.class_name,
        class_id=generator.class_names.index(order.class_name),
        prompt=order.prompt,
        guidance_scale=settings.guidance_scale,
        num_inference_steps=settings.num_inference_steps,
        scheduler=check_scheduler(settings.scheduler),
        height_px=generator.size_px,
        width_px=generator.size_px,
        seed=settings.seed,
        batch_size=settings.batch_size,
        adapter_id=generator.adapter_of(order.class_name),
    )
