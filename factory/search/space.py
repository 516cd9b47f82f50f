"""The space of a search as Optuna has it, and whether everything in it means something."""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from factory.errors import ConfigError
from factory.models.generator import Generator
from factory.search.config import Choices, Point, Range, SweepConfig, Value, setting_at

if TYPE_CHECKING:  # what is wrong in a space is told before optuna is imported
    from optuna.distributions import BaseDistribution


DRAWING = "generate."
"""Begins the axes that are keys of a generation run."""


def without_settled(config: SweepConfig, generator: Generator) -> SweepConfig:
    """Return a search without the axes that have one value alone for its generator.

    Guidance, where it has no condition to follow; solver, steps and guidance of a distilled one.

    Raises:
        ConfigError: nothing else is searched.
    """
    still = {DRAWING + key for key in generator.settled}
    if not still & set(config.space) or f"{DRAWING}model" in config.space:
        return config
    space = {key: axis for key, axis in config.space.items() if key not in still}
    if not space:
        raise ConfigError(
            f"generator {generator.name!r} is drawn in one way alone: {', '.join(sorted(still))}"
            " move nothing",
            remedy="Search another axis, e.g. arm.ratio",
        )
    start = [{key: v for key, v in point.items() if key not in still} for point in config.start]
    kept = {
        "space": space,
        "start": tuple(point for n, point in enumerate(start) if point not in start[:n]),
        "generate": config.generate.model_copy(update=generator.settled),
    }
    return config.model_copy(update=kept)


def distributions(config: SweepConfig) -> "dict[str, BaseDistribution]":
    """Return the space as Optuna has it."""
    return {key: distribution_of(axis) for key, axis in config.space.items()}


def check_space(config: SweepConfig) -> None:
    """Raise unless every choice, both ends of every range and all points to start with are valid.

    Raises:
        ConfigError: naming the axis.
    """
    for point in corners(config):
        setting_at(config, point)


def corners(config: SweepConfig) -> Iterator[Point]:
    """Yield points that have every choice and both ends of every range, and those to start with."""
    yield from config.start
    first = {key: _ends(axis)[0] for key, axis in config.space.items()}
    for key, axis in config.space.items():
        for value in _ends(axis):
            yield {**first, key: value}


def values_of(axis: Choices | Range) -> Sequence[Value] | None:
    """Return all values of an axis, each once; None where they are not to be counted."""
    if isinstance(axis, Choices):
        return tuple(dict.fromkeys(axis.choices))
    if axis.whole:
        return range(int(axis.low), int(axis.high) + 1, int(axis.step or 1))
    if axis.step is None:
        return None
    count = int((axis.high - axis.low) / axis.step + 1e-9) + 1
    return [axis.low + number * axis.step for number in range(count)]


def num_points(config: SweepConfig) -> int | None:
    """Return how many points the space has; None: more than can be tried."""
    counts = [None if v is None else len(v) for v in map(values_of, config.space.values())]
    return None if None in counts else math.prod(count for count in counts if count is not None)


def distribution_of(axis: Choices | Range) -> "BaseDistribution":
    """Return an axis as Optuna has it."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(axis, Choices):
        return CategoricalDistribution(axis.choices)
    if axis.whole:
        return IntDistribution(int(axis.low), int(axis.high), axis.log, int(axis.step or 1))
    return FloatDistribution(axis.low, axis.high, axis.log, axis.step)


def _ends(axis: Choices | Range) -> Sequence[Any]:
    return axis.choices if isinstance(axis, Choices) else (axis.low, axis.high)
