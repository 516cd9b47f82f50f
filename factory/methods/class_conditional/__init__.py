"""Class-conditional: class names to images without a prompt, also over the masks of real ones."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from factory.config import Frozen
from factory.sample.method import Drawer, Loaded, Method, MethodOptions

if TYPE_CHECKING:  # torch waits until something is trained
    from factory.finetune.method import Training


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

    def configuration(self, stored: Mapping[str, Any]) -> type[Frozen]:  # noqa: ARG002
        """Return its one."""
        from factory.methods.class_conditional.config import ClassConditionalConfig

        return ClassConditionalConfig

    def training(self, config: Any) -> "Training":  # noqa: ARG002
        """Return what trains autoencoder and denoiser."""
        from factory.methods.class_conditional import train

        return train

    def open(self, loaded: Loaded) -> Drawer:
        """Return what draws with a `ClassConditionalPipeline`."""
        from factory.methods.class_conditional.draw import ClassConditionalMethod

        return ClassConditionalMethod(loaded.pipeline, loaded.device)


METHOD = ClassConditional()
