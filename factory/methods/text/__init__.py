"""Text: prompts to images with a latent diffusion pipeline and guidance."""

from factory.sample.method import Drawer, Loaded, Method


class Text(Method):
    """Draws what the recipe's prompt says, away from what its negative prompt says."""

    name = "text"
    invertible = True

    def open(self, loaded: Loaded) -> Drawer:
        """Return what draws with a `StableDiffusionPipeline`."""
        from factory.methods.text.draw import TextMethod

        return TextMethod(loaded.pipeline, loaded.device)


METHOD = Text()
