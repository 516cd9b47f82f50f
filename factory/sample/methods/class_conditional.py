"""The class-conditional method: class names to images, without a prompt."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from factory.errors import ConfigError
from factory.models.class_conditioning import labels_of
from factory.sample.methods.guided import GuidedMethod
from factory.sample.methods.text import TextMethod
from factory.sample.recipe import Request


class ClassConditionalMethod(GuidedMethod):
    """Draws the recipe's class with a `ClassUNet`; guidance leads away from its null condition.

    A network whose conditioning is 'text' reads the recipe's prompts instead; an empty text is
    the null condition there, as it was in training.
    """

    def __init__(self, pipeline: Any, device: str) -> None:
        """`pipeline`: a `ClassConditionalPipeline` on `device`; only its parts are used.

        Raises:
            ConfigError: a network that wants maps beside the latents, which recipes do not hold.
        """
        super().__init__(pipeline, device)
        self.conditioning: str = self.unet.config.conditioning
        self.class_names = tuple(self.unet.config.class_names)
        self._text = TextMethod(pipeline, device) if self.conditioning == "text" else None
        if self.conditioning == "concat":
            raise ConfigError(
                "conditioning 'concat' needs images or masks, and a recipe names none",
                remedy="Call `denoise` of factory.sample.methods.guided with the maps bound",
            )

    def conditions(
        self, requests: Sequence[Request], given: Sequence[bool]
    ) -> tuple[Tensor, Tensor]:
        """Return labels or embeddings (len(given) * B, ...), and bools: whose are not null.

        Raises:
            ConfigError: a class that the network does not know, or a negative prompt for one that
                reads no text.
        """
        if self._text is not None:
            texts = self._text.prompts(requests, given)
            present = torch.tensor([text != "" for text in texts])
            return torch.stack([self._text.embed(text) for text in texts]), present.to(self.device)
        if unread := requests[0].recipe.negative_prompt:
            raise ConfigError(
                f"negative_prompt {unread!r}: this generator reads classes, no text",
                remedy="Leave negative_prompt empty",
            )
        labels = labels_of([request.recipe.class_name for request in requests], self.class_names)
        present = torch.tensor(given).repeat_interleave(len(requests))
        return labels.repeat(len(given)).to(self.device), present.to(self.device)
