"""What a study may train: settings of classifiers and segmenters, checked before torch is there."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from factory.config import Frozen, Place
from factory.models.config import SegmenterSpec


class Fitting(Frozen):
    """Lengths and rates; the same for every arm of a study."""

    steps: int = Field(400, ge=1)
    """Optimiser steps, whatever the size of the training set."""
    batch_size: int = Field(32, ge=2)
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    warmup_steps: int = Field(20, ge=0)
    """Over so many the rate rises, all of them: with more than `steps` it never gets there."""
    validate_every: int = Field(50, ge=1)


class Augmentation(Frozen):
    """How far training images vary; all 0 and false leaves them as they are."""

    turns: bool = True
    """All eight flips and quarter turns: cells have no up."""
    min_crop: float = Field(0.8, gt=0, le=1)
    """Smallest share of the side that a random square crop keeps."""
    brightness: float = Field(0.15, ge=0, le=1)
    contrast: float = Field(0.15, ge=0, le=1)
    saturation: float = Field(0.2, ge=0, le=1)
    hed: float = Field(0.03, ge=0, le=1)
    """Each stain's amount is scaled and shifted by up to this much."""
    blur: float = Field(0.1, ge=0, le=1)
    """Chance of a slight Gaussian blur (sigma 0.7 px)."""


class PooledLoss(Frozen):
    """Weigh real against synthetic rows of a batch."""

    real_weight: float = Field(0.8, ge=0, le=1)
    """Lambda: of the real rows' mean loss; the synthetic rows' has 1 - lambda."""
    batch_shares: bool = False
    """Also multiply each mean by the share of the batch that it is of (CytoDiff)."""


class Mixing(Frozen):
    """MixUp or CutMix on some of the batches."""

    probability: float = Field(0.2, ge=0, le=1)
    kind: Literal["mixup", "cutmix", "either"] = "either"
    alpha: float = Field(1.0, gt=0)
    """Of the Beta distribution that the proportion is drawn from."""


class Learning(Fitting):
    """What classifiers and segmenters share."""

    augmentation: Augmentation = Augmentation()
    """Of arms with `augment`."""
    pooled: PooledLoss | None = None
    """null: one mean over all rows."""


class ClipLora(Frozen):
    """A CLIP model and the LoRA that is trained in it; the numbers are CytoDiff's."""

    folder: str
    """Of the model, as transformers saves it, with its tokenizer; safetensors."""
    rank: int = Field(16, ge=1)
    alpha: float = Field(32, gt=0)
    dropout: float = Field(0.1, ge=0, lt=1)
    targets: tuple[str, ...] = Field(("q_proj", "v_proj"), min_length=1)
    """Linear layers of both towers, by the end of their name."""
    prompts: Mapping[str, str] = Field(default_factory=dict)
    """Class -> text; a class without one: 'a photo of a <class>'."""


class Classifier(Learning):
    """What is trained on every arm, and how."""

    task: Literal["classify"] = "classify"
    backbone: str = "resnet18"
    """A name of timm."""
    clip: ClipLora | None = None
    """CLIP with a LoRA instead; `backbone`, `weights` and `head_only` are then not used."""
    size_px: int = Field(64, ge=8, le=1024)
    weights: Place | None = None
    """Of the backbone, as safetensors; null: random ones."""
    head_only: bool = False
    """Train the classifying layer alone."""
    mixing: Mixing = Mixing()
    """Of arms with `augment`."""


class SegmenterLearner(Learning, SegmenterSpec):
    """What is trained on every arm, and how."""

    task: Literal["segment"] = "segment"
    size_px: int = Field(64, ge=32, le=1024, multiple_of=32)
    mask_values: tuple[int, ...] = ()
    """Stored value of every class in real masks, background first; empty: those that are found."""


def _task_of(learner: Any) -> str:
    """Return 'classify' where a configuration names no task."""
    if isinstance(learner, dict):
        return str(learner.get("task", "classify"))
    return str(getattr(learner, "task", "classify"))


Learner = Annotated[
    Annotated[Classifier, Tag("classify")] | Annotated[SegmenterLearner, Tag("segment")],
    Discriminator(_task_of),
]
