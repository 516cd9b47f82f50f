"""Configuration of a judgement: what is drawn, and which real images it is measured by."""

from typing import Literal

from pydantic import Field, field_validator

from factory.config import Frozen, LocalPath
from factory.sample.config import GenerateConfig

PAGE, FIGURES = "judge.html", "judge.json"
"""What a judgement is written to."""


class JudgeConfig(Frozen):
    """What `factory judge` draws and measures; the generator and the data are its arguments."""

    generate: GenerateConfig
    """How it draws, as in a run: num_images over all classes, guidance_scale, options. Gates and
    `model`, `data` and `split` are not read."""
    part: Literal["val", "test", "held_out"] = "held_out"
    """Real images that it never saw; held_out: val and test together."""
    reference: Literal["unseen", "train"] = "unseen"
    """What distances are measured to. The other one takes the place of drawn images: the floor."""
    reference_per_class: int = Field(500, ge=4)
    """Images of a class that distances are measured to, at most; as many of every class."""
    attributes: int = Field(0, ge=0)
    """Images drawn under each of an attribute's two prompts; 0: attributes are not judged."""
    autoencoder: bool = False
    """Measure unseen real images after a round trip through the generator's autoencoder too."""
    round_trips: tuple[int, ...] = ()
    """Steps of inversions there and back of unseen real images, of a bridge."""
    corrections: tuple[int, ...] = (0,)
    """Fixed-point iterations of their steps."""
    round_trip_images: int = Field(32, ge=2)
    """At most so many of a domain."""
    features: LocalPath | None = None
    """Weights of the network whose features are compared; null: efficientnet_lite0, which is
    looked for as `factory.models.extractors` says."""
    judge_features: LocalPath | None = None
    """Weights of the network on which the judge stands; null: the same."""
    perceptual: LocalPath | None = None
    """Weights of torchvision's squeezenet1_1, alexnet or vgg16, for LPIPS; null: not measured."""
    expert: LocalPath | None = None
    """Folder of a classifier to be asked beside the judge, see `factory expert`; null: the one that
    led the training, if there was one."""
    segmenter: LocalPath | None = None
    """Folder of a segmenter that finds drawn masks again, see `factory segmenter`."""

    @field_validator("generate")
    @classmethod
    def _without_table(cls, generate: GenerateConfig) -> GenerateConfig:
        if generate.table is not None:
            raise ValueError("generate.table: a judge draws numbers of its own, and no table")
        return generate
