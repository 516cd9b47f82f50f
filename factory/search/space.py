"""The space of a search as Optuna has it, and whether everything in it means something."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from factory.search.config import Choices, Range, SweepConfig, setting_at

if TYPE_CHECKING:  # what is wrong in a space is told before optuna is imported
    from optuna.distributions import BaseDistribution


def distributions(config: SweepConfig) -> "dict[str, BaseDistribution]":
    """Return the space as Optuna has it."""
    return {key: _distribution(axis) for key, axis in config.space.items()}


def check_space(config: SweepConfig) -> None:
    """Raise unless every choice, both ends of every range and all points to start with are valid.

    Raises:
        ConfigError: naming the axis.
    """
    middle = {key: _ends(axis)[0] for key, axis in config.space.items()}
    for key, axis in config.space.items():
        for value in _ends(axis):
            setting_at(config, {**middle, key: value})
    for point in config.start:
        setting_at(config, point)


def _distribution(axis: Choices | Range) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(axis, Choices):
        return CategoricalDistribution(axis.choices)
    if axis.whole:
        return IntDistribution(int(axis.low), int(axis.high), axis.log, int(axis.step or 1))
    return FloatDistribution(axis.low, axis.high, axis.log, axis.step)


def _ends(axis: Choices | Range) -> Sequence[Any]:
    return axis.choices if isinstance(axis, Choices) else (axis.low, axis.high)
