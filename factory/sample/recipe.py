"""A recipe: everything that decides the pixels of its images; a request: one image of it."""

from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

from factory.digest import digest, digest_bytes
from factory.errors import ConfigError

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
)
"""Fields in which the images of one batch may differ."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What is drawn and how. Equal recipes give equal ids everywhere, equal pixels on one engine.

    `batch_size` and `dtype` belong to it because they decide bits: a network's result for a slot
    depends on the shape of its batch, though not on its neighbours (measured; see README).
    """

    model_id: str
    method: str = "text"
    class_name: str
    class_id: int
    prompt: str
    negative_prompt: str = ""
    guidance_scale: float
    num_inference_steps: int
    scheduler: str
    height_px: int
    width_px: int
    seed: int
    batch_size: int
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


def recipe_from(stored: dict[str, Any]) -> Recipe:
    """Return the recipe that `Recipe.to_dict` wrote.

    Raises:
        ConfigError: fields missing or unknown (written by another version).
    """
    known = {field.name for field in fields(Recipe)}
    if unknown := sorted(set(stored) - known):
        raise ConfigError(
            f"recipe has unknown fields {unknown}",
            remedy="Use the factory version that drew this image (column code_version)",
        )
    try:
        return Recipe(**stored)
    except TypeError as error:
        raise ConfigError(
            f"recipe is incomplete ({error})",
            remedy="Use the factory version that drew this image (column code_version)",
        ) from error


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
