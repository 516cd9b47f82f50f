"""What a study compares, by which learner: read and checked before torch and Arrow are there."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    field_validator,
    model_serializer,
    model_validator,
)

from factory.config import Frozen, LocalPath, Shots
from factory.digest import digest
from factory.errors import ModelError
from factory.evaluate.designs import (
    BOUNDS,
    CONTROLS,
    LATER_OF_ARMS,
    OF_MASKS,
    OF_PROBES,
    WAYS,
    Design,
    ways_of,
)
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

    def check(self) -> None:
        """Raise where what it starts from is not there; paths are found by `check_places`.

        Raises:
            ModelError: see `ClipLora.check`.
        """


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

    def check(self) -> None:
        """Raise where there is no model in the folder.

        Raises:
            ModelError: naming it.
        """
        if not (Path(self.folder).expanduser() / "config.json").is_file():
            raise ModelError(
                f"no CLIP model at {self.folder!r}",
                remedy="Give the folder that transformers' save_pretrained wrote",
            )


class Classifier(Learning):
    """What is trained on every arm, and how."""

    task: Literal["classify"] = "classify"
    backbone: str = "resnet18"
    """A name of timm."""
    clip: ClipLora | None = None
    """CLIP with a LoRA instead; `backbone`, `weights` and `head_only` are then not used."""
    size_px: int = Field(64, ge=8, le=1024)
    weights: LocalPath | None = None
    """Of the backbone, as safetensors; null: random ones."""
    head_only: bool = False
    """Train the classifying layer alone."""
    frozen_norm: bool = False
    """Leave the statistics of batch norm as the weights brought them: a few images, and those of
    one hospital, tell others."""
    mixing: Mixing = Mixing()
    """Of arms with `augment`."""

    @model_serializer(mode="wrap")
    def _without_later_keys(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave them out while they say nothing: finished trainings are found by what is told."""
        dumped: dict[str, Any] = handler(self)
        return {k: v for k, v in dumped.items() if k != "frozen_norm" or v}

    def check(self) -> None:
        """Raise where its CLIP model, if any, is not there."""
        if self.clip is not None:
            self.clip.check()


class SegmenterLearner(Learning, SegmenterSpec):
    """What is trained on every arm, and how."""

    task: Literal["segment"] = "segment"
    size_px: int = Field(64, ge=32, le=1024, multiple_of=32)
    mask_values: tuple[int, ...] = ()
    """Stored value of every class in real masks, background first; empty: those that are found."""


STAINING = Augmentation(
    min_crop=0.9, brightness=0.3, contrast=0.3, saturation=0.6, hed=0.15, blur=0.3
)
"""Of views in other stains and lights, as far as those of several hospitals lie apart."""


class Probe(Frozen):
    """A frozen network and a linear head on what it says of turned views: seconds, not minutes.

    Of few images it names more right than a network that is fine-tuned on them, and it is fitted
    again for every draw of the shots at no cost: features are kept by pixels and backbone.
    """

    task: Literal["probe"] = "probe"
    backbone: str | None = None
    """A name of timm, or 'colours': means and spreads of colours and edges, without any weights.
    null: tf_efficientnet_lite0 where its weights are found, else 'colours', and that is said."""
    weights: LocalPath | None = None
    """Of the backbone, as safetensors; null: <backbone>.safetensors where extractors are kept."""
    input_px: int = Field(224, ge=32, le=1024)
    """Side of what the backbone is shown."""
    size_px: int = Field(64, ge=8, le=1024)
    """Side to which real and drawn images are brought first: equally sharp, all of them."""
    head: Literal["logistic", "ridge"] = "logistic"
    strength: float | None = Field(None, gt=0)
    """C of the head; null: the one by which real rows are named best that were left out, one of
    each class at a time."""
    turns: int = Field(8, ge=1, le=8)
    """Views of a real training image: flips and quarter turns ..."""
    varied: int = Field(8, ge=0, le=64)
    """... and in arms that are `strong` so many with other colours, stain and crop."""
    drawn_turns: int = Field(1, ge=1, le=8)
    """Views of a drawn training image: there are many of these."""
    tta: int = Field(4, ge=1, le=8)
    """Turns under which a test image is looked at; the mean chance counts."""
    augmentation: Augmentation = Augmentation()
    """Of varied views."""
    staining: Augmentation = STAINING
    """Of views of drawn and source images in other stains, in arms that say `stain`."""
    stained: int = Field(4, ge=1, le=64)
    """So many of them of each."""
    experts: Mapping[str, LocalPath] = Field(default_factory=dict)
    """Networks that were trained on other labelled images (`factory expert`), by name, for arms
    that say `expert`: what a lab would do that may use another lab's images."""

    @model_serializer(mode="wrap")
    def _without_later_keys(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave them out while they say nothing: finished trainings are found by what is told."""
        dumped: dict[str, Any] = handler(self)
        later = {"staining": STAINING, "stained": 4, "experts": {}}
        return {k: v for k, v in dumped.items() if k not in later or getattr(self, k) != later[k]}

    def check(self) -> None:
        """Raise where an expert is not there.

        Raises:
            ModelError: naming it.
        """
        from factory.models.expert_file import read_notes

        for folder in self.experts.values():
            read_notes(folder)


class MaskProbe(Frozen):
    """A linear decoder on a frozen encoder's maps: masks, solved in a moment.

    Beside a network that is trained (`task: segment`) it says whether pairs bring anything new to
    features that know much already, for many draws of the shots.
    """

    task: Literal["probe_masks"] = "probe_masks"
    backbone: str | None = None
    """A name of timm that gives maps, or 'colours'; null: as a probe's."""
    weights: LocalPath | None = None
    """As a probe's."""
    input_px: int = Field(224, ge=32, le=1024)
    """Side of what the encoder is shown."""
    size_px: int = Field(64, ge=16, le=1024, multiple_of=2)
    """Side at which masks are compared; the decoder sees every other pixel."""
    strength: float = Field(1000.0, gt=0)
    """The penalty is the mean square of a feature over this."""
    turns: int = Field(4, ge=1, le=8)
    """Views of a real training pair."""
    drawn_turns: int = Field(1, ge=1, le=8)
    """Views of a drawn one."""
    mask_values: tuple[int, ...] = ()
    """Stored value of every class in real masks, background first; empty: those that are found."""

    def check(self) -> None:
        """Nothing to look for: see `factory.evaluate.mask_probe`."""


def _task_of(learner: Any) -> str:
    """Return 'classify' where a configuration names no task."""
    if isinstance(learner, dict):
        return str(learner.get("task", "classify"))
    return str(getattr(learner, "task", "classify"))


Learner = Annotated[
    Annotated[Classifier, Tag("classify")]
    | Annotated[SegmenterLearner, Tag("segment")]
    | Annotated[Probe, Tag("probe")]
    | Annotated[MaskProbe, Tag("probe_masks")],
    Discriminator(
        _task_of,
        custom_error_type="task",
        custom_error_message="task is probe, classify or segment, or probe_masks",
    ),
]


OLD_SHOTS_SEED = 42
"""Of studies without a generator of few shots, from before a study asked its generators."""


class SyntheticChoice(Frozen):
    """Which rows of the catalog the arms may take; rejected ones never."""

    where: str | None = None
    """SQL condition on the columns of `samples`, e.g. "guidance_scale = 2"."""
    classes: Mapping[str, str] = Field(default_factory=dict)
    """Class of the catalog -> class of the real dataset, where their names differ."""
    foreign: tuple[str, ...] = ()
    """Models of other real datasets (by name, or the fingerprint of those) whose training images
    share none with this one: your word for it, where nothing can be compared."""

    @field_validator("foreign", mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    def within(self, condition: str) -> "SyntheticChoice":
        """Return the choice among rows that also satisfy `condition`."""
        where = condition if self.where is None else f"({condition}\n) AND ({self.where})"
        return self.model_copy(update={"where": where})


class StudyConfig(Frozen):
    """What is compared, by which learner."""

    name: str = Field("study", min_length=1)
    learner: Learner = Classifier()
    arms: Mapping[str, Design] = Field(min_length=2)
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)
    """Each is one training per arm and fold: its weights, order of images and choice of rows."""
    shots: Shots | None = None
    """Real training images of each class, drawn from each train part: a number, or one for each
    class ({basophil: 4}; of the others all: a long tail); null: all of it."""
    shots_seed: int | None = Field(None, ge=0)
    """Draws them; null: as the generators drew theirs (`n_shot`), 42 where none did."""
    draws: int | None = Field(None, ge=2, le=1000)
    """So many draws of the shots in each fold, from `shots_seed` on: what another choice of real
    images would give is then part of every interval. null: one."""
    generators: tuple[str, ...] = ()
    """Trainings of the generator, by name or id: each is an arm's drawn images in turn, and what
    another training would give is part of every interval. Empty: all images are one pool."""
    primary: str | None = None
    """The one comparison that the study is made for, 'ARM minus CONTROL', named beforehand."""
    margin: float = Field(0.02, gt=0, le=1)
    """A difference whose interval stays below it is said to be no gain (and above -it no loss)."""
    equal_information: bool = True
    """Refuse synthetic images of generators that learnt from real images, or were shown some, which
    the real arms do not hold: their controls would know less. false: compared, and said."""
    without: tuple[str, ...] = ()
    """Classes that are left out, such as one of two images."""
    baseline: str | None = None
    """The control that verdicts are about; null: the one with the best val score."""
    synthetic: SyntheticChoice = SyntheticChoice()
    gpus_per_training: float | None = Field(None, ge=0, le=1)
    """On Ray; null: a share where the cluster has GPUs and the learner gains. Names no result."""
    subgroups: str | None = None
    """An attribute of the real images, such as their hospital: test images of each value are also
    scored apart."""

    @model_validator(mode="after")
    def _complete(self) -> "StudyConfig":
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: one stands there twice")
        if not self.controls:
            raise ValueError("arms: a control is needed, e.g. real: {design: real}")
        if self.baseline is not None and self.baseline not in self.controls:
            raise ValueError(f"baseline: choose a control of {', '.join(self.controls)}")
        if self.primary is not None:
            arm, _, other = self.primary.partition(" minus ")
            if arm == other or not {arm, other} <= self.arms.keys():
                raise ValueError(
                    f"primary: write 'ARM minus ARM', of {', '.join(self.arms)}: mostly a control"
                )
        strange = [
            n
            for n, a in self.arms.items()
            if isinstance(a, OF_PROBES) or a.strong or a.unlabelled or ways_of(a).told
        ]
        if strange and not isinstance(self.learner, Probe):
            raise ValueError(f"arms: {strange[0]} is for a probe (learner: {{task: probe}})")
        pastes = [n for n, a in self.arms.items() if isinstance(a, OF_MASKS)]
        if pastes and not isinstance(self.learner, SegmenterLearner | MaskProbe):
            raise ValueError(f"arms: {pastes[0]} lays objects into other images, and is for masks")
        known = getattr(self.learner, "experts", {})
        if lost := [a.expert for a in self.arms.values() if a.expert and a.expert not in known]:
            raise ValueError(f"arms: the learner knows no expert {lost[0]!r} (learner.experts)")
        if self.draws and not any(self.shots_of(name) for name in self.arms):
            raise ValueError("draws: of which shots? Set shots, for all arms or for some")
        return self

    @property
    def primary_digest(self) -> str:
        """Names the primary comparison, the margin and the whole study it is part of."""
        return digest([self.primary, self.margin, self.digest])[:12]

    def shots_of(self, arm: str) -> Shots | None:
        """Return the real training images of each class of an arm; None: the whole train part."""
        own = self.arms[arm].shots
        return None if own == "all" else own or self.shots

    def controls_of(self, arm: str) -> tuple[str, ...]:
        """Return the controls that know as many real images as an arm, else all of them.

        One that also learns from unlabelled images knows more than an arm that does not.
        """
        even = [c for c in self.controls if self.shots_of(c) == self.shots_of(arm)]
        even = [c for c in even if not self._knows_more(c, arm)]
        return tuple(even) or self.controls

    def bounds_of(self, arm: str) -> tuple[str, ...]:
        """Return the arms that know more than an arm of as many labels: see `controls_of`."""
        wider = [c for c in self.controls if self._knows_more(c, arm)]
        return tuple(b for b in (*wider, *self.bounds) if self.shots_of(b) == self.shots_of(arm))

    def _knows_more(self, control: str, arm: str) -> bool:
        own, other = (self.arms[name].unlabelled is not None for name in (control, arm))
        return own and not other

    @property
    def controls(self) -> tuple[str, ...]:
        """Arms without a synthetic image."""
        return tuple(
            n for n, arm in self.arms.items() if isinstance(arm, CONTROLS) and not arm.expert
        )

    @property
    def mixed(self) -> tuple[str, ...]:
        """Arms with synthetic images."""
        return tuple(n for n, a in self.arms.items() if not isinstance(a, (*CONTROLS, *BOUNDS)))

    @property
    def bounds(self) -> tuple[str, ...]:
        """Arms that know images of another lab, which the others do not."""
        return tuple(n for n in self.arms if n not in (*self.controls, *self.mixed))

    @property
    def digest(self) -> str:
        """Names the configuration."""
        return digest(plain(self.model_dump(mode="json")))


def plain(told: dict[str, Any]) -> dict[str, Any]:
    """Return a dumped study or search without the keys that it learnt later and does not use."""
    told = {k: v for k, v in told.items() if k != "gpus_per_training"}  # where, not what
    if told["shots_seed"] is None:
        told["shots_seed"] = OLD_SHOTS_SEED
    later = {"equal_information": True, "without": [], **LATER}
    return {k: v for k, v in _without_unused(told).items() if k not in later or v != later[k]}


LATER: Mapping[str, Any] = {"draws": None, "generators": [], "primary": None, "margin": 0.02}
"""Keys that studies learnt later, and what they say of a study that does not use them."""


def _without_unused(told: dict[str, Any]) -> dict[str, Any]:
    """Return a study or search whose arms lack the keys that they learnt later and do not use."""
    arms = {name: _used(arm) for name, arm in told.get("arms", {}).items()}
    arm = {"arm": _used(told["arm"])} if "arm" in told else {}
    controls = {
        name: {k: v for k, v in own.items() if k not in WAYS or v != WAYS[k]}
        for name, own in told.get("controls", {}).items()  # of a search: the rest of them stays
    }
    found = {"arms": arms, "controls": controls}
    return {**told, **{name: own for name, own in found.items() if own}, **arm}


def _used(arm: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in arm.items() if k not in LATER_OF_ARMS or v != LATER_OF_ARMS[k]}
