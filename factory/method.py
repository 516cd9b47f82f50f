"""Methods by name: a folder of `factory.methods` each, and one line here.

Models, sampler and trainer ask for a method by its name and never import one, so that imports go
down only, and torch waits until it is needed. What is asked: `factory.sample.method.Method`.
"""

from importlib import import_module
from typing import Any

from factory.errors import ConfigError

METHODS: dict[str, str] = {
    "text": "factory.methods.text",
    "class_conditional": "factory.methods.class_conditional",
    "pairs": "factory.methods.pairs",
    "bridge": "factory.methods.bridge",
}
"""Name -> the package whose `METHOD` is a `Method`."""


def find_method(name: str) -> Any:
    """Return the method of that name.

    Raises:
        ConfigError: an unknown one.
    """
    if name not in METHODS:
        raise ConfigError(
            f"unknown method {name!r}",
            remedy=f"Choose one of {', '.join(METHODS)}; a newer factory may know others",
        )
    return import_module(METHODS[name]).METHOD


def invertible_methods() -> list[str]:
    """Return the methods whose generators can carry an image to its noise and back."""
    return [name for name in METHODS if find_method(name).invertible]
