"""The designs that a study can compare, each a small configuration: `rows.py` makes their arms."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from factory.config import Frozen
from factory.evaluate.arms import Colouring, RealShare, Ways


class Arm(Frozen):
    """What all designs share."""

    augment: bool = True
    """Vary the training images by flips, crops, colour and stain."""
    strong: bool = False
    """Vary them much more, of a probe: views in other colours and crops (`learner.varied`), and
    mixtures of two images' features (V. Verma et al., Manifold Mixup, ICML 2019)."""
    shots: int | Literal["all"] | None = Field(None)
    """Real training images per class, 'all', or null: as many as the study says."""
    unlabelled: float | None = Field(None, gt=0, lt=1)
    """Of a probe: also learn from the images of the train part whose labels the arm does not know,
    with this share of the weight. A head of all others names them, and is fitted again with those
    it was surest of (D.-H. Lee, Pseudo-Label, 2013): three rounds, with more of them each."""
    expert: str | None = None
    """Of a probe: one of `learner.experts`, whose features stand beside those of the backbone."""
    autoencoder: str | None = None
    """Of a probe, name of a generator: real images are also seen as its autoencoder shows them,
    those that are judged as well, and the mean chance of both counts; a source's images in no other
    way. Drawn ones come out of it as they are: so all are equally sharp, once."""

    @field_validator("shots")
    @classmethod
    def _some(cls, value: Any) -> Any:
        if isinstance(value, int) and value < 1:
            raise ValueError("1 or more, all, or null")
        return value


class OfOthers(Arm):
    """What a probe can do with images that are not the study's own real ones: drawn, a source's."""

    colour: Colouring | None = None
    """Bring them to the colours of the own real images, all together (`derived.py`)."""
    stain: bool = False
    """See them in other stains and lights too (`learner.staining`), own real ones as ever."""
    stages: tuple[Literal["drawn"], Literal["real"]] | None = None
    """Fit the head to them first, then on the own real images, held to what it was."""
    stacked: bool = False
    """Fit a head to them, and a second one, on the own real images alone, to its scores beside the
    features: they tell what sets classes apart, the real ones where the borders lie."""
    select: Literal["agree", "uncertain"] | None = None
    """'agree': only those that a head fitted to the other half of them names as they are labelled;
    'uncertain': of these the half of which a head of the own real images is least sure."""

    @model_validator(mode="after")
    def _one_after_the_other(self) -> "OfOthers":
        if self.stages and self.stacked:
            raise ValueError("stages and stacked are two ways to use the same images: choose one")
        return self


class Real(Arm):
    """The real training images, once each."""

    design: Literal["real"] = "real"


class SampledFeatures(Arm):
    """Real images, and features drawn around each class's mean, of a probe: no image at all.

    Gaussian, with the covariance that views of all classes have within them; what cheap sampling
    in a feature space gives, a generator has to beat (D. Samuel et al., arXiv 2308.00994).
    """

    design: Literal["sampled_features"] = "sampled_features"
    per_class: int = Field(ge=1)
    real_share: RealShare | None = 0.5


class CopyPaste(Arm):
    """Real pairs, and pairs in which the object of one lies in another: turned, scaled, moved.

    What costs nothing and draws nothing (G. Ghiasi et al., Simple Copy-Paste, CVPR 2021); of
    learners with masks.
    """

    design: Literal["copy_paste"] = "copy_paste"
    per_class: int = Field(ge=1)
    real_share: RealShare | None = 0.5


class Source(OfOthers):
    """Real images of another lab, as they are: what a study knows whose images may travel."""

    design: Literal["source"] = "source"
    source: str
    """Name of a source that the study is given."""
    per_class: int | None = Field(None, ge=1)
    """null: all there are."""
    real: bool = True
    """Beside the own real images."""
    real_share: RealShare | None = 0.5


class SelfTraining(Arm):
    """Real images, and those of a source without their labels, which a first head names.

    The head is fitted again on what it was surest of (D.-H. Lee, Pseudo-Label, 2013); of a probe.
    """

    design: Literal["self_training"] = "self_training"
    source: str
    """Name of a source, such as the images that a generator learnt from."""
    per_class: int | None = Field(None, ge=1)
    """How many unlabelled images are taken, of each class that they really have; null: all."""
    keep: float = Field(0.5, gt=0, le=1)
    """RealShare of those called a class that are kept for it, the surest first."""
    real_share: RealShare | None = 0.5


class Duplicate(Arm):
    """Real images repeated until every class has as many rows as in another arm.

    Tells more rows from new images: a 2026 study of chest films saw this control win.
    """

    design: Literal["duplicate"] = "duplicate"
    like: str
    """Name of the arm with synthetic images that this one controls."""


class Oversample(Arm):
    """Real images repeated until every class has as many rows as the largest one."""

    design: Literal["oversample"] = "oversample"


class Drawing(OfOthers):
    """What designs with drawn images share."""

    synthetic_weight: float = Field(1.0, gt=0)
    """Weight of a synthetic row's loss; a real row's is 1."""
    real_share: RealShare | None = None
    """null: what follows from the rows."""
    shuffled_labels: bool = False
    """Give the synthetic images each other's labels: what then still helps was not their label."""
    hard_labels: bool = False
    """Give each synthetic image its likeliest class alone: the arm beside one of soft labels."""
    where: str | None = None
    """SQL condition on the columns of `samples`: which of the study's synthetic images."""


class SyntheticOnly(Drawing):
    """No real image at all."""

    design: Literal["synthetic"] = "synthetic"
    per_class: int | None = Field(None, ge=1)
    """null: all there are."""


class Add(Drawing):
    """All real images and N synthetic ones per class (CytoDiff's +N)."""

    design: Literal["add"] = "add"
    per_class: int = Field(ge=1)
    quota: Mapping[str, int] = Field(default_factory=dict)
    """Another N for single classes, 0 included."""


class TopUp(Drawing):
    """Synthetic images fill every class up to T rows (CytoDiff's balanced design)."""

    design: Literal["top_up"] = "top_up"
    to: int = Field(ge=1)
    cut: bool = False
    """Also cut larger classes down to T, as CytoDiff does."""


class Ratio(Drawing):
    """All real images and r times as many synthetic ones, class by class, rounded up."""

    design: Literal["ratio"] = "ratio"
    ratio: float | None = Field(gt=0, le=1000)
    """null: as many as the synthetic images of every class allow, at most 1."""


class PerReference(Drawing):
    """Each real image brings, with chance alpha, r synthetic images made from it (diffuse-gen)."""

    design: Literal["per_reference"] = "per_reference"
    alpha: float = Field(0.5, ge=0, le=1)
    r: int = Field(1, ge=1)


Design = Annotated[
    Real
    | Duplicate
    | Oversample
    | SampledFeatures
    | CopyPaste
    | SyntheticOnly
    | Add
    | TopUp
    | Ratio
    | PerReference
    | Source
    | SelfTraining,
    Field(discriminator="design"),
]
WAYS: Mapping[str, Any] = {
    **dict.fromkeys(("expert", "autoencoder", "colour", "stages", "select", "unlabelled")),
    "stain": False,
    "stacked": False,
}
"""Keys of what a probe does with rows, and what they say of an arm that asks for nothing."""
LATER_OF_ARMS: Mapping[str, Any] = {
    **WAYS,
    "strong": False,
    "shots": None,
    "real_share": None,
    "shuffled_labels": False,
    "hard_labels": False,
    "where": None,
}
"""Keys that arms learnt later, and what they say of an arm that does not use them."""
CONTROLS = (Real, Duplicate, Oversample, SampledFeatures, CopyPaste)
"""Designs without a synthetic image: what the others must beat."""
BOUNDS = (Source, SelfTraining)
"""Designs that know images of another lab: shown beside the others, beaten by none of them."""
OF_MASKS = (CopyPaste,)
"""Designs of learners with masks."""
OF_PROBES = (SampledFeatures, SelfTraining)
"""Designs whose rows are no images with labels: only a probe can be fitted to them."""


def ways_of(arm: Design) -> Ways:
    """Return what an arm asks of a probe beyond its rows."""
    names = ("expert", "autoencoder", "colour", "stain", "stacked", "select")
    asked = {name: value for name in names if (value := getattr(arm, name, None))}
    return Ways(**asked, stages=getattr(arm, "stages", None) is not None)
