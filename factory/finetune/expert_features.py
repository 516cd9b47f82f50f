"""What an expert sees in the real images, computed once: it never changes while it steers.

Only for an expert that is shown the clean image. It then sees the real one and not what the
autoencoder makes of it, and a step of training costs what it costs without alignment.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from factory.digest import digest
from factory.finetune.alignment import expert_features
from factory.finetune.config import AlignmentSettings
from factory.finetune.latents import to_signed, turn
from factory.models.experts import Expert, state_digest

BATCH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class FeaturesOf:
    """Images to features of a frozen expert."""

    expert: Expert
    settings: AlignmentSettings

    @property
    def digest(self) -> str:
        """Names the expert's weights and what is read of it."""
        settings = self.settings.model_dump(mode="json", include={"expert_layer", "pooling"})
        return digest(
            [state_digest(self.expert), self.expert.spec.model_dump(mode="json"), settings]
        )

    def __call__(self, images: Tensor, *, turns: int) -> Tensor:
        """Return (N, turns, F) float16 for images (N, S, S, 3) uint8, each under so many turns."""
        rows = [
            torch.stack([self._features(turn(shown, number)) for number in range(turns)], dim=1)
            for shown in map(to_signed, torch.split(images, BATCH))
        ]
        return torch.cat(rows)

    def _features(self, images: Tensor) -> Tensor:
        return expert_features(self.expert, images, self.settings).half()


def features_of(expert: Expert | None, settings: AlignmentSettings) -> FeaturesOf | None:
    """Return what computes the features beforehand, or None where that cannot be done."""
    if expert is None or settings.weight == 0 or settings.expert_input != "clean":
        return None
    return FeaturesOf(expert=expert, settings=settings)
