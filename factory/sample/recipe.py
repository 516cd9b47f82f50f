"""A recipe: everything that decides the pixels of its images; a request: one image of it."""

import json
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from factory.digest import digest, digest_bytes
from factory.errors import ConfigError
from factory.sample.config import BatchSize, Prompt, Steps

SEED_BITS = 63
"""Seeds are non-negative int64, the widest integer that every table reader knows."""

OPTIONAL = frozenset(
    {
        "adapter_id",
        "reference_id",
        "reference_sha256",
        "target_id",
        "target_sha256",
        "cluster_id",
        "options",
        "attributes",
    }
)
"""Fields of a recipe that may be missing from its plain form."""
PER_IMAGE = (
    "class_name",
    "class_id",
    "prompt",
    "reference_id",
    "reference_sha256",
    "target_id",
    "target_sha256",
    "cluster_id",
    "seed",
    "attributes",
)
"""Fields in which the images of one batch may differ: each draws its noise from a seed of its own,
see `Request.seed`."""


SidePx = Annotated[int, Field(ge=1, le=8192)]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What is drawn and how. Equal recipes give equal ids everywhere, equal pixels on one engine.

    `batch_size` and `dtype` belong to it because they decide bits: a network's result for a slot
    depends on the shape of its batch, though not on its neighbours (measured; see docs/draw.md).
    """

    model_id: str
    method: str = "text"
    class_name: str
    class_id: Annotated[int, Field(ge=0, lt=2**31)]
    prompt: Prompt
    negative_prompt: Prompt = ""
    guidance_scale: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    num_inference_steps: Steps
    scheduler: str
    height_px: SidePx
    width_px: SidePx
    seed: Annotated[int, Field(ge=0, lt=2**SEED_BITS)]
    batch_size: BatchSize
    dtype: str = "float32"
    adapter_id: str | None = None
    """Digest of the LoRA folded into the base; None: the generator has none."""
    reference_id: str | None = None
    """The real image that is shown to the method, if any ..."""
    reference_sha256: str | None = None
    """... and the hash of its pixels (and mask) as they are shown."""
    target_id: str | None = None
    """Another real image whose look is wanted, if it is not the reference ..."""
    target_sha256: str | None = None
    """... and the hash of its pixels."""
    cluster_id: int | None = None
    """The cluster of training pairs that is drawn; None: the generator knows none."""
    options: str | None = None
    """Canonical JSON of the method's own options; None: it has none."""
    attributes: str | None = None
    """Canonical JSON {column: text} of the row of a table that asked for it; None: no row did."""

    @cached_property
    def digest(self) -> str:
        """The recipe's name, the same on any machine."""
        return digest(self.to_dict())

    @property
    def settings(self) -> tuple[Any, ...]:
        """What all requests of one batch must share; what is asked for and shown may differ."""
        shared = self.to_dict()
        for name in PER_IMAGE:
            shared.pop(name, None)
        return tuple(shared.items())

    def to_dict(self) -> dict[str, Any]:
        """Return the plain form that a catalog row stores; `recipe_from` reads it back.

        Optional parts that are not there are left out, so that a part that recipes learn later
        changes the name of none that does without it.
        """
        return {k: v for k, v in asdict(self).items() if k not in OPTIONAL or v is not None}


def recipe_from(text: str) -> Recipe:
    """Return the recipe that a row stores: the canonical JSON of `Recipe.to_dict`.

    A catalog may come from anywhere: values of other kinds or out of all bounds are refused, so
    that no row makes an engine ask for the memory of a million pixels squared.

    Raises:
        ConfigError: no JSON object, fields missing, unknown or of another kind, numbers that no
            configuration could ask for.
    """
    try:
        stored = json.loads(text)
        if not isinstance(stored, dict):
            raise ConfigError("a recipe is no JSON object", remedy=_OTHER_VERSION)
        unknown = sorted(set(stored) - {field.name for field in fields(Recipe)})
        if unknown:
            raise ConfigError(f"recipe has unknown fields {unknown}", remedy=_OTHER_VERSION)
        _KIND.validate_json(text, strict=True)
        return Recipe(**stored)  # as it stands: 2 and 2.0 have names of their own
    except (ValueError, RecursionError) as error:  # pydantic's and json's are ValueErrors
        told = error.errors()[0] if isinstance(error, ValidationError) else None
        reason = f"{'.'.join(map(str, told['loc']))}: {told['msg']}" if told else str(error)
        raise ConfigError(f"recipe cannot be read ({reason})", remedy=_OTHER_VERSION) from error


_KIND = TypeAdapter(Recipe)
"""Checks kinds and bounds; what is made here itself needs no check."""
_OTHER_VERSION = "Use the factory version that drew this image (column code_version)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One image to draw: number `index` of a recipe."""

    recipe: Recipe
    index: int

    @property
    def image_id(self) -> str:
        """digest(recipe, index): never a counter, never a clock."""
        return digest([self.recipe.digest, self.index])

    @property
    def seed(self) -> int:
        """The image's own seed, from which all its noise is derived."""
        raw = digest_bytes(b"seed", self.recipe.digest.encode(), str(self.index).encode())
        return int(raw[:16], 16) >> (64 - SEED_BITS)
