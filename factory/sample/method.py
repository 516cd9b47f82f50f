"""What a method of drawing says of itself: its options, its plan, what draws with it.

A method is a folder of `factory.methods` whose `METHOD` is one of these, and a line in
`factory.method.METHODS`: what is not said there is as it is here.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from factory.config import Frozen, parse_config
from factory.digest import canonical_json
from factory.errors import ConfigError
from factory.method import METHODS, find_method
from factory.models.generator import Generator
from factory.sample.drawn import Drawn
from factory.sample.plan import Quota
from factory.sample.quotas import Planning, by_class, by_reference
from factory.sample.recipe import Request
from factory.sample.references import Reference

if TYPE_CHECKING:  # torch waits until a plan is made
    from factory.sample.guidance import GuidedMethod


class MethodOptions(Frozen):
    """Base of the options of one method."""

    @property
    def shows_references(self) -> bool:
        """Whether each image starts from, or is led by, a real one."""
        return False

    @property
    def reads_masks(self) -> bool:
        """Whether the references' masks are shown too."""
        return False


class Drawer(Protocol):
    """How an engine asks for a batch."""

    def drawn(self, requests: Sequence[Request], shown: Sequence[Reference]) -> Drawn:
        """Draw `requests`, which share their settings; `shown` has the reference of each.

        `shown` is empty where the recipes name no reference.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """A domain in memory. `open` folds its LoRA in, if it has one: one side is open at a time."""

    class_name: str
    open: Callable[[], "GuidedMethod"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A generator in memory, as a method gets it."""

    pipeline: Any
    """As diffusers loaded it, on `device`; None where the generator binds others."""
    device: str
    sides: Mapping[str, Side] = field(default_factory=dict)
    """Domain -> what draws it, for a method that draws `by_sides`."""


class Method(ABC):
    """One way to draw."""

    name: ClassVar[str]
    options: ClassVar[type[MethodOptions] | None] = None
    """Its own options; None: it has none."""
    invertible: ClassVar[bool] = False
    """Whether what it draws with is a `GuidedMethod`, which a bridge can invert."""
    by_sides: ClassVar[bool] = False
    """Whether it draws through the sides of a generator, and not with its pipeline itself."""
    draws_on: ClassVar[bool] = True
    """Whether refused images may be replaced by further indices of their recipes."""

    def draws_with(self, generator: Generator) -> bool:
        """Return whether a generator is one of its own."""
        return generator.method == self.name

    def draws_masks(self, options: MethodOptions | None) -> bool:
        """Return whether every image gets a mask."""
        return options is not None and options.reads_masks

    def pipeline(self) -> tuple[Any, dict[str, Any]]:
        """Return the class of its generators' pipeline, and arguments of its own for it."""
        from diffusers import StableDiffusionPipeline

        unused = {"safety_checker": None, "feature_extractor": None}
        return StableDiffusionPipeline, {**unused, "requires_safety_checker": False}

    def resolved(self, options: Any, generator: Generator) -> Any:  # noqa: ARG002
        """Return the options as recipes hold them: with digests of what they name."""
        return options

    def quotas(self, planning: Planning, options: Any) -> Iterator[Quota]:
        """Yield every recipe of a run with its number of images.

        Raises:
            ConfigError, DataError: what cannot be drawn so.
        """
        shown = options is not None and options.shows_references
        return by_reference(planning, masks=options.reads_masks) if shown else by_class(planning)

    def configuration(self, stored: Mapping[str, Any]) -> type[Frozen] | None:  # noqa: ARG002
        """Return the model of a training's configuration, given as data; None: it is not trained.

        It is a `factory.finetune.config.MethodConfig`.
        """
        return None

    def training(self, config: Any) -> Any:  # noqa: ARG002
        """Return how a training of that configuration goes: a `factory.finetune.method.Training`.

        Raises:
            ConfigError: it is not trained.
        """
        raise ConfigError(
            f"method {self.name!r} is not trained", remedy="Train the generators that it binds"
        )

    @abstractmethod
    def open(self, loaded: Loaded) -> Drawer:
        """Return what draws with a generator in memory."""


def method_of(name: str) -> Method:
    """Return the method of that name.

    Raises:
        ConfigError: an unknown one.
    """
    found: Method = find_method(name)
    return found


def check_method(name: str, generator: Generator) -> Method:
    """Return the method of that name, if `generator` can be drawn with by it.

    Raises:
        ConfigError: it is of another method.
    """
    if name not in METHODS or not method_of(name).draws_with(generator):
        raise ConfigError(
            f"method {name!r} is not that of generator {generator.name!r}",
            remedy=f"Leave method out, or set it to {generator.method!r}",
        )
    return method_of(name)


def parse_options(name: str, stored: Mapping[str, Any]) -> MethodOptions | None:
    """Return a method's options from plain data; None for a method that has none.

    Raises:
        ConfigError: an unknown or wrong option, or options for a method without any.
    """
    kind = method_of(name).options
    if kind is None:
        if stored:
            raise ConfigError(
                f"method {name!r} has no options, {sorted(stored)[0]!r} was given",
                remedy="Leave options out",
            )
        return None
    return parse_config(kind, stored, where="options")


def options_text(options: MethodOptions | None) -> str | None:
    """Return the canonical JSON that a recipe records: every option, defaults included."""
    return None if options is None else canonical_json(options.model_dump(mode="json"))


@lru_cache(maxsize=256)  # read once, and not for every batch
def options_from(name: str, text: str | None) -> MethodOptions | None:
    """Return the options that a recipe records; options it does not know yet have their defaults.

    Raises:
        ConfigError: options of another version or method.
    """
    return parse_options(name, json.loads(text)) if text is not None else None


def draws_masks(name: str, stored: Mapping[str, Any]) -> bool:
    """Return whether a method with these options gives every image a mask.

    Raises:
        ConfigError: see `parse_options`.
    """
    return method_of(name).draws_masks(parse_options(name, stored))
