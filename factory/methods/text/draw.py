"""The text method: prompts to images with a latent diffusion pipeline and guidance."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from factory.device import up
from factory.models.conditioning import tokenize
from factory.sample.guidance import GuidedMethod
from factory.sample.recipe import Request


class TextMethod(GuidedMethod):
    """Draws what the recipe's prompt says, away from what its negative prompt says."""

    def __init__(self, pipeline: Any, device: str) -> None:
        """`pipeline`: a diffusers `StableDiffusionPipeline`; only its parts are used."""
        super().__init__(pipeline, device)
        self.tokenizer, self.text_encoder = pipeline.tokenizer, pipeline.text_encoder
        self._embeddings: dict[str, Tensor] = {}

    def conditions(self, requests: Sequence[Request], given: Sequence[bool]) -> tuple[Tensor]:
        """Return the context (len(given) * B, tokens, width)."""
        prompts = self.prompts(requests, given)
        return (torch.stack([self.embed(prompt) for prompt in prompts]),)

    def prompts(self, requests: Sequence[Request], given: Sequence[bool]) -> list[str]:
        """Return the prompts of every request, or the negative ones, side after side."""
        return [
            request.recipe.prompt if side else request.recipe.negative_prompt
            for side in given
            for request in requests
        ]

    def embed(self, prompt: str) -> Tensor:
        """Return (tokens, width); every distinct prompt is encoded once, alone."""
        if prompt not in self._embeddings:
            tokens = tokenize(self.tokenizer, [prompt])
            self._embeddings[prompt] = self.text_encoder(up(tokens, self.device))[0][0]
        return self._embeddings[prompt]
