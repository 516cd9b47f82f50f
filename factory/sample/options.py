"""Options of a method beside the common ones: frozen, checked, and recorded whole in the recipe."""

import json
from collections.abc import Mapping
from typing import Any

from factory.config import parse_config
from factory.digest import canonical_json
from factory.errors import ConfigError
from factory.models.domains import BRIDGED
from factory.models.generator import Generator
from factory.sample.method_options import MethodOptions as MethodOptions
from factory.sample.methods.bridge_options import BridgeOptions
from factory.sample.methods.class_options import ClassConditionalOptions
from factory.sample.methods.pairs_options import PairsOptions

METHOD_OPTIONS: Mapping[str, type[MethodOptions]] = {
    "bridge": BridgeOptions,
    "class_conditional": ClassConditionalOptions,
    "pairs": PairsOptions,
}
"""Method -> its options; a method that is not here has none."""


DRAWS_WITH: Mapping[str, frozenset[str]] = {"bridge": frozenset({*BRIDGED, "bridge"})}
"""Method -> the methods of generators that it draws with, where that is not its own name alone."""


def check_method(method: str, generator: Generator) -> None:
    """Raise unless `generator` can be drawn with by `method`.

    Raises:
        ConfigError: it is of another method.
    """
    if generator.method not in DRAWS_WITH.get(method, {method}):
        raise ConfigError(
            f"method {method!r} is not that of generator {generator.name!r}",
            remedy=f"Leave method out, or set it to {generator.method!r}",
        )


def parse_options(method: str, stored: Mapping[str, Any]) -> MethodOptions | None:
    """Return a method's options from plain data; None for a method that has none.

    Raises:
        ConfigError: an unknown or wrong option, or options for a method without any.
    """
    kind = METHOD_OPTIONS.get(method)
    if kind is None:
        if stored:
            raise ConfigError(
                f"method {method!r} has no options, {sorted(stored)[0]!r} was given",
                remedy="Leave options out",
            )
        return None
    return parse_config(kind, stored, where="options")


def options_text(options: MethodOptions | None) -> str | None:
    """Return the canonical JSON that a recipe records: every option, defaults included."""
    return None if options is None else canonical_json(options.model_dump(mode="json"))


def options_from(method: str, text: str | None) -> MethodOptions | None:
    """Return the options that a recipe records; options it does not know yet have their defaults.

    Raises:
        ConfigError: options of another version or method.
    """
    return parse_options(method, json.loads(text)) if text is not None else None


def draws_masks(method: str, stored: Mapping[str, Any]) -> bool:
    """Return whether a method with these options gives every image a mask.

    Raises:
        ConfigError: see `parse_options`.
    """
    options = parse_options(method, stored)
    return method == "pairs" or (options is not None and options.reads_masks)
