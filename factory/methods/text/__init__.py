"""Text: prompts to images with a latent diffusion pipeline and guidance."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from factory.config import Frozen
from factory.sample.method import Drawer, Loaded, Method

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

    def open(self, loaded: Loaded) -> Drawer:
        """Return what draws with a `StableDiffusionPipeline`."""
        from factory.methods.text.draw import TextMethod

        return TextMethod(loaded.pipeline, loaded.device)


METHOD = Text()
