"""The class-conditional method: class names to images, without a prompt."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from factory.device import up
from factory.errors import ConfigError, DataError
from factory.methods.text.draw import TextMethod
from factory.models.class_conditioning import labels_of, mask_classes, mask_planes
from factory.sample.drawn import Drawn
from factory.sample.guidance import GuidedMethod, sides, to_uint8
from factory.sample.recipe import Request
from factory.sample.references import Reference


class ClassConditionalMethod(GuidedMethod):
    """Draws the recipe's class with a `ClassUNet`; guidance leads away from its null condition.

    A network whose conditioning is 'text' reads the recipe's prompts instead; an empty text is
    the null condition there, as it was in training.
    """

    def __init__(self, pipeline: Any, device: str) -> None:
        """`pipeline`: a `ClassConditionalPipeline` on `device`; only its parts are used."""
        super().__init__(pipeline, device)
        self.conditioning: str = self.unet.config.conditioning
        self.class_names = tuple(self.unet.config.class_names)
        self._text = TextMethod(pipeline, device) if self.conditioning == "text" else None

    def drawn(self, requests: Sequence[Request], shown: Sequence[Reference]) -> Drawn:
        """Return images, and with 'concat' the masks over which they were drawn.

        Raises:
            ConfigError: a network that is shown masks, and none are there; or the other way round.
            DataError: a mask with values that the network does not know.
        """
        if bool(shown) != (self.conditioning == "concat"):
            raise ConfigError(
                f"a network of conditioning {self.conditioning!r} is"
                f" {'not ' if shown else ''}drawn over masks",
                remedy=f"Set options.masks to {'none' if shown else 'reference'}",
            )
        if not shown:
            return super().drawn(requests, shown)
        masks = torch.from_numpy(np.stack([_mask_of(reference) for reference in shown]))
        values = tuple(self.unet.config.mask_values)
        images = self.draw(requests, self._over(masks, values, requests[0].recipe.guidance_scale))
        return Drawn(images=to_uint8(images), masks=mask_classes(masks, values).numpy())

    def _over(
        self, masks: Tensor, values: Sequence[int], guidance_scale: float
    ) -> tuple[Tensor, Tensor]:
        given = sides(guidance_scale)
        planes = mask_planes(masks, values, side=masks.shape[1] // self.latents_per_side)
        present = torch.tensor(given).repeat_interleave(len(masks))
        return up(planes.repeat(len(given), 1, 1, 1), self.device), up(present, self.device)

    def conditions(
        self, requests: Sequence[Request], given: Sequence[bool]
    ) -> tuple[Tensor, Tensor]:
        """Return labels or embeddings (len(given) * B, ...), and bools: whose are not null.

        Raises:
            ConfigError: a class that the network does not know, a negative prompt for one that
                reads no text, or a network that is shown masks, which requests do not hold.
        """
        if self.conditioning == "concat":
            raise ConfigError(
                "conditioning 'concat' draws over masks, and none are at hand",
                remedy="Draw with method class_conditional and options.masks: reference",
            )
        if self._text is not None:
            texts = self._text.prompts(requests, given)
            present = torch.tensor([text != "" for text in texts])
            return torch.stack([self._text.embed(text) for text in texts]), up(present, self.device)
        if unread := requests[0].recipe.negative_prompt:
            raise ConfigError(
                f"negative_prompt {unread!r}: this generator reads classes, no text",
                remedy="Leave negative_prompt empty",
            )
        labels = labels_of([request.recipe.class_name for request in requests], self.class_names)
        present = torch.tensor(given).repeat_interleave(len(requests))
        return up(labels.repeat(len(given)), self.device), up(present, self.device)


def _mask_of(reference: Reference) -> NDArray[np.uint8]:
    if reference.mask is None:
        raise DataError(
            f"image {reference.id!r} has no mask to draw over", remedy="Choose one that has"
        )
    return reference.mask
