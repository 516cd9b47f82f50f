"""Text: prompts to images with a latent diffusion pipeline and guidance."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from factory.config import Frozen
from factory.errors import ConfigError
from factory.models.families import GENERIC, STABLE_DIFFUSION, family_named
from factory.models.generator import Generator
from factory.sample.method import Drawer, Loaded, Method
from factory.sample.plan import Quota
from factory.sample.quotas import Planning
from factory.sample.recipe import Recipe

if TYPE_CHECKING:  # torch waits until something is trained
    from factory.finetune.method import Training


class Text(Method):
    """Draws what the recipe's prompt says, away from what its negative prompt says."""

    name = "text"
    invertible = True

    def configuration(self, stored: Mapping[str, Any]) -> type[Frozen]:
        """Return that of a base which is adapted, or of one from scratch: `base: null`."""
        from factory.methods.text.config import BaseConfig, FinetuneConfig

        scratch = stored.get("base", "") is None or "denoiser" in stored
        return BaseConfig if scratch else FinetuneConfig

    def training(self, config: Any) -> "Training":
        """Return what adapts a base, or makes one."""
        if config.base is None:
            from factory.methods.text import base

            return base
        from factory.methods.text import train

        return train

    def quotas(self, planning: Planning, options: Any) -> Iterator[Quota]:
        """Yield a recipe for every class and prompt.

        Raises:
            ConfigError: what the generator's family does not draw, see `check_drawing`.
        """
        check_drawing(planning.base, planning.generator)
        yield from super().quotas(planning, options)

    def open(self, loaded: Loaded) -> Drawer:
        """Return what draws with a pipeline: part by part, or as a whole."""
        family = family_named(type(loaded.pipeline).__name__)
        if family is not STABLE_DIFFUSION:
            from factory.methods.text.pipeline import PipelineMethod

            return PipelineMethod(loaded.pipeline, family, loaded.device)
        from factory.methods.text.draw import TextMethod

        return TextMethod(loaded.pipeline, loaded.device)


def check_drawing(recipe: Recipe, generator: Generator) -> None:
    """Refuse what a family other than Stable Diffusion 1.x/2.x does not draw.

    Raises:
        ConfigError: naming the setting, and what may stand there.
    """
    family, scale = generator.family, recipe.guidance_scale
    if family is STABLE_DIFFUSION:
        return
    if recipe.height_px % family.multiple_px:
        raise ConfigError(
            f"size_px {recipe.height_px} is no multiple of {family.multiple_px}, as {family.name}"
            " needs",
            remedy=f"Set size_px to one, such as {_nearest(recipe.height_px, family.multiple_px)}",
        )
    if recipe.negative_prompt and not family.guided:
        raise ConfigError(
            f"negative_prompt {recipe.negative_prompt!r}: {family.name} is told its guidance and"
            " is led away from nothing",
            remedy="Leave negative_prompt out",
        )
    if family.guided and scale < 1 and (scale > 0 or family is GENERIC):
        raise ConfigError(
            f"guidance_scale {scale:g}: pipelines of {family.name} models guide above 1 alone",
            remedy="Set guidance_scale to 1 (the prompt alone) or more"
            + ("" if family is GENERIC else ", or to 0 (no prompt)"),
        )


def _nearest(size_px: int, multiple_px: int) -> int:
    return max(1, round(size_px / multiple_px)) * multiple_px


METHOD = Text()
