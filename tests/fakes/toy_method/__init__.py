"""A method that is one folder and one line: trained as text is, its images drawn darker."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from pydantic import Field

from factory.methods.text import Text
from factory.methods.text.config import FinetuneConfig
from factory.sample.drawn import Drawn
from factory.sample.method import Drawer, Loaded, MethodOptions, options_from
from factory.sample.recipe import Request
from factory.sample.references import Reference


class ToyOptions(MethodOptions):
    """A recipe holds them."""

    shade: float = Field(0.5, ge=0, le=1)


class ToyConfig(FinetuneConfig):
    """Of its training."""

    method: Literal["toy"] = "toy"  # type: ignore[assignment]


class Toy(Text):
    """Trains and draws with a pipeline of Stable Diffusion."""

    name = "toy"
    options = ToyOptions
    invertible = False

    def configuration(self, _stored: Mapping[str, Any]) -> type[FinetuneConfig]:
        return ToyConfig

    def open(self, loaded: Loaded) -> Drawer:
        return _Shaded(super().open(loaded))


class _Shaded:
    def __init__(self, text: Drawer) -> None:
        self._text = text

    def drawn(self, requests: Sequence[Request], shown: Sequence[Reference]) -> Drawn:
        options = options_from("toy", requests[0].recipe.options)
        assert isinstance(options, ToyOptions)
        drawn = self._text.drawn(requests, shown)
        return replace(drawn, images=(drawn.images * options.shade).astype(np.uint8))


METHOD = Toy()
