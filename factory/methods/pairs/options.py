"""Options of pairs: from what they start, what is re-drawn, how styled, how their masks are tidied.

Lengths are shares of the image's side, so that one preset serves 64 and 256 px: diffuse-gen's 20 px
at 256 are 20/256.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from factory.config import Frozen
from factory.errors import ConfigError
from factory.sample.method import MethodOptions


class Inpaint(Frozen):
    """Re-draw the objects of a real pair, and what surrounds them, by RePaint."""

    jump_length: int = Field(10, ge=1)
    repeats: int = Field(5, ge=1)
    """How often each span is walked; 1: never back."""
    dilation_share: float = Field(20 / 256, ge=0, lt=1)
    """Diameter of the disc by which the mask grows."""
    paste: Literal["hard", "blend", "none"] = "hard"
    """What outside the region becomes in the end: 'hard' and 'blend' the real pixels, bit for bit;
    'none' what the network made of them (the original)."""
    blend_share: float = Field(4 / 256, ge=0, lt=1)
    """Width of the ramp of 'blend', within the region."""
    keep_mask: bool = False
    """The mask is known as well, and only the image drawn anew under it. Else the network may heal
    the object away (the original keeps no mask)."""

    @model_serializer(mode="wrap")
    def _named_as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what recipes learnt later: without it they keep the name they had."""
        told: dict[str, Any] = dump(self)
        if not self.keep_mask:
            told.pop("keep_mask")
        return told


class Style(Frozen):
    """Terms that lead a second pass towards the look of a target; a weight of 0 is not computed.

    Of diffuse-gen are 'feature', 'direction', 'target' and 'range' (from DiffuseIT), 'patch',
    'perceptual' and 'source' (from ZeCon); its weights: 10000, 40000, 10000, 200, 500, 100, 5000.
    """

    feature: float = Field(0, ge=0)
    """Distance of the extractor's features to the target's."""
    direction: float = Field(0, ge=0)
    """Moving on in features from step to step (subtracted), while the level is above `until`."""
    patch: float = Field(0, ge=0)
    """Contrast of patches of the generator's own features, source against current."""
    perceptual: float = Field(0, ge=0)
    """Distance of early feature maps to the source's."""
    target: float = Field(0, ge=0)
    """Squared distance to the target's pixels."""
    source: float = Field(0, ge=0)
    """Squared distance to the source's pixels."""
    range: float = Field(0, ge=0)
    """Squared excess beyond [-1, 1]."""
    until: int = Field(50, ge=0)
    """Number of a level, the least noisy one being 0 here as in the original."""
    num_inference_steps: int | None = Field(None, ge=1, le=1000)
    """null: those of the recipe."""
    skip_timesteps: int = Field(80, ge=0)
    noise_mix: Literal["none", "patch", "all"] = "patch"
    """Which terms see sqrt(1 - a) x0 + (1 - sqrt(1 - a)) x_t in place of x0, a = alphas_cumprod."""
    gradient: Literal["network", "x0"] = "network"
    """With respect to the noisy sample, through the network (the original), or to x0 alone: a
    third of the time."""
    extractor: str = "efficientnet_lite0"
    """Of 'feature' and 'direction', see `factory.models.extractors`; the original: dino_vitb8."""
    perceptual_extractor: str = "squeezenet1_0"
    """Of 'perceptual'; the original: vgg19."""
    extractor_digests: Mapping[str, str] = Field(default_factory=dict)
    """Name -> digest of its weights; written down when a run is planned."""

    @property
    def weights(self) -> dict[str, float]:
        """The terms that are computed."""
        names = ("feature", "direction", "patch", "perceptual", "target", "source", "range")
        return {name: getattr(self, name) for name in names if getattr(self, name)}

    @property
    def extractors(self) -> dict[str, str]:
        """Extractor -> its use, 'vector' or 'maps': of those that some term needs."""
        weights = self.weights
        found = {self.extractor: "vector"} if {"feature", "direction"} & set(weights) else {}
        return found | ({self.perceptual_extractor: "maps"} if "perceptual" in weights else {})

    @model_validator(mode="after")
    def _leads(self) -> "Style":
        if not self.weights:
            raise ValueError("every weight is 0: name a term, or leave style out")
        return self


class MaskShape(Frozen):
    """How drawn masks become class indices."""

    threshold: float = Field(0.0, gt=-1, lt=1)
    """A class is where its channel, -1 outside and 1 inside, exceeds this and all others."""
    opening_share: float = Field(0.0, ge=0, lt=1)
    """Diameter of the disc of a morphological opening; diffuse-gen: 16/256."""
    min_area_share: float = Field(0.0, ge=0, lt=1)
    """Of the image's area: smaller objects are dropped."""
    fill_holes: bool = False


class PairsOptions(MethodOptions):
    """A recipe holds all of them, so that its images can be drawn again."""

    start: Literal["noise", "reference", "grey"] = "noise"
    """'reference': a real pair with the noise of the first level that is not skipped; 'grey': the
    original's empty image in its place."""
    skip_timesteps: int = Field(0, ge=0)
    """Of `num_inference_steps`: the noisiest levels, left out; they must be 0 from noise."""
    inpaint: Inpaint | None = None
    style: Style | None = None
    match_colours: bool = False
    """Move the colours to the target's mean and covariance."""
    target: Literal["reference", "sequential", "random", "nearest"] = "reference"
    """Which real image leads style and colours: the reference itself, the next ones in turn, seeded
    random ones, or the one most like the reference."""
    order: Literal["sequential", "random"] = "sequential"
    """In which order references are taken; 'random' by the job's seed."""
    mask: MaskShape = MaskShape()
    clip: bool = True
    """Keep x0 within [-1, 1] at every step, in pixel form."""

    @property
    def needs_target(self) -> bool:
        """Whether another image leads the last stages."""
        return self.style is not None or self.match_colours

    @property
    def shows_references(self) -> bool:
        """Whether any real image is shown."""
        return self.start == "reference" or self.inpaint is not None or self.needs_target

    @property
    def reads_masks(self) -> bool:
        """Whether the real mask is shown too."""
        return self.start == "reference" or self.inpaint is not None

    @model_validator(mode="after")
    def _whole(self) -> "PairsOptions":
        if self.inpaint is not None and self.skip_timesteps:
            raise ValueError("skip_timesteps: inpainting begins with noise, leave it 0")
        if self.inpaint is not None and self.start == "grey":
            raise ValueError("start 'grey' has no object to inpaint")
        if self.start == "noise" and self.skip_timesteps:
            raise ValueError("skip_timesteps needs start: reference or grey")
        if self.target != "reference" and not self.needs_target:
            raise ValueError(f"target {self.target!r}: neither style nor match_colours needs one")
        return self


def first_level(num_inference_steps: int, skip_timesteps: int) -> int:
    """Return the level at which a sampling from an image begins: as many steps remain.

    Of 200 steps with 80 skipped it is 120, which is number 119 in diffuse-gen's count from 0.

    Raises:
        ConfigError: nothing would remain.
    """
    if not 0 <= skip_timesteps < num_inference_steps:
        raise ConfigError(
            f"skip_timesteps {skip_timesteps} of {num_inference_steps} steps leaves none",
            remedy=f"Choose 0 to {num_inference_steps - 1}",
        )
    return num_inference_steps - skip_timesteps
