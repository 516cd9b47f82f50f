"""Class-conditional: class names to images without a prompt, also over the masks of real ones."""

from typing import Any, Literal

from factory.sample.method import Drawer, Loaded, Method, MethodOptions


class ClassConditionalOptions(MethodOptions):
    """Where masks come from, if a network is shown any; part of the recipe."""

    masks: Literal["none", "reference"] = "none"
    """'reference': each image is drawn over the mask of a real one, whose mask it then has."""

    @property
    def shows_references(self) -> bool:
        """Whether any real image's mask is shown; its pixels never are."""
        return self.masks == "reference"

    @property
    def reads_masks(self) -> bool:
        """The same: nothing else of a reference is used."""
        return self.shows_references


class ClassConditional(Method):
    """Draws the recipe's class, away from the null condition."""

    name = "class_conditional"
    options = ClassConditionalOptions
    invertible = True

    def pipeline(self) -> tuple[Any, dict[str, Any]]:
        """Return ours: a `ClassUNet` with its autoencoder."""
        from factory.models.class_unet import ClassConditionalPipeline

        return ClassConditionalPipeline, {}

    def open(self, loaded: Loaded) -> Drawer:
        """Return what draws with a `ClassConditionalPipeline`."""
        from factory.methods.class_conditional.draw import ClassConditionalMethod

        return ClassConditionalMethod(loaded.pipeline, loaded.device)


METHOD = ClassConditional()
