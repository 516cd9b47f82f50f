"""Generation accuracy: how often a classifier sees in a drawn image the class that was asked for.

By the expert that steered the training it is circular: give it beside that of an independent judge,
which knows other images through other features.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from factory.errors import DataError
from factory.finetune.latents import to_signed
from factory.measure.features import Images
from factory.measure.intervals import Estimate, proportion
from factory.measure.judge import recalls
from factory.models.experts import Expert

BATCH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationAccuracy:
    """Share of images of the class asked for: over all images, and class by class."""

    overall: Estimate
    by_class: Mapping[str, Estimate]
    called: Mapping[str, Mapping[str, int]]
    """Class asked for -> what was seen -> how often."""


def generation_accuracy(found: Sequence[str], wanted: Sequence[str]) -> GenerationAccuracy:
    """Return how often `found` is `wanted`, with Wilson intervals over the images.

    They say how sure the figure of these weights is, not how much another training would differ.

    Raises:
        DataError: no images, or not one class seen for every image.
    """
    if not found or len(found) != len(wanted):
        raise DataError(
            f"{len(found)} classes were seen in {len(wanted)} images",
            remedy="Give one class for every drawn image",
        )
    pairs = list(zip(found, wanted, strict=True))
    return GenerationAccuracy(
        overall=proportion(sum(seen == asked for seen, asked in pairs), len(pairs)),
        by_class=recalls(found, wanted),
        called={
            name: dict(Counter(seen for seen, asked in pairs if asked == name).most_common())
            for name in sorted(set(wanted))
        },
    )


@torch.inference_mode()
def expert_names(expert: Expert, images: Images) -> list[str]:
    """Return the class that `expert` sees in each of the images (N, H, W, 3)."""
    device = expert.mean.device
    seen = [
        expert(to_signed(chunk.to(device))).argmax(1).tolist()
        for chunk in torch.split(torch.from_numpy(images), BATCH)
    ]
    return [expert.spec.class_names[number] for part in seen for number in part]
