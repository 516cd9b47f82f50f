"""Pairs: images drawn together with their masks, from noise, from a real pair, or inside one."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from factory.config import Frozen
from factory.methods.pairs.options import PairsOptions
from factory.methods.pairs.plan import pairs_quotas
from factory.models.generator import Generator
from factory.sample.method import Drawer, Loaded, Method, MethodOptions
from factory.sample.plan import Quota
from factory.sample.quotas import Planning

if TYPE_CHECKING:  # torch waits until something is trained
    from factory.finetune.method import Training


class Pairs(Method):
    """Draws an image and its mask at once."""

    name = "pairs"
    options = PairsOptions

    def draws_masks(self, options: MethodOptions | None) -> bool:  # noqa: ARG002
        """Always."""
        return True

    def pipeline(self) -> tuple[Any, dict[str, Any]]:
        """Return ours: a `PairUNet`, with an autoencoder where its image part is latents."""
        from factory.models.pair_unet import PairPipeline

        return PairPipeline, {}

    def resolved(self, options: PairsOptions, generator: Generator) -> PairsOptions:
        """Return the options with the digests of the extractors that lead a style pass.

        Raises:
            ModelError: a style term whose extractor has no weights at hand.
        """
        if options.style is None:
            return options
        from factory.methods.pairs.style import with_digests

        led = with_digests(options.style, generator.folder)
        return options.model_copy(update={"style": led})

    def quotas(self, planning: Planning, options: PairsOptions) -> Iterator[Quota]:
        """Yield a recipe for every real image, target and cluster that is shown."""
        return pairs_quotas(planning, options)

    def configuration(self, stored: Mapping[str, Any]) -> type[Frozen]:  # noqa: ARG002
        """Return its one."""
        from factory.methods.pairs.config import PairsConfig

        return PairsConfig

    def training(self, config: Any) -> "Training":  # noqa: ARG002
        """Return what trains pairs."""
        from factory.methods.pairs import train

        return train

    def open(self, loaded: Loaded) -> Drawer:
        """Return what draws with a `PairPipeline`."""
        from factory.methods.pairs.draw import PairsMethod

        return PairsMethod(loaded.pipeline, loaded.device)


METHOD = Pairs()
