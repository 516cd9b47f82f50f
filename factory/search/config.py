"""Configuration of a sweep: the space, the study that scores a point of it, how long to look."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from catalog.schema import SAMPLES
from factory.config import Frozen, Shots, parse_config
from factory.digest import digest
from factory.errors import ConfigError
from factory.evaluate.config import Classifier, Learner, StudyConfig, SyntheticChoice, plain
from factory.evaluate.designs import CONTROLS, Design, Duplicate, Oversample, Real, SyntheticOnly
from factory.gate.copies import CopyGate
from factory.sample.config import GenerateConfig

Value = bool | int | float | str
Point = Mapping[str, Value]
"""A place in the space: a value for every axis."""
SCORES = tuple(name for name in SAMPLES.names if name.endswith("_score"))
"""Columns of the catalog that `gate.` axes may name."""
GROWING = ("trials", "final_seeds", "gpus_per_training")
"""Keys of a search that may change when it goes on: how long it looks, and where."""
WINNER, TRIED, DUPLICATE, DEFAULT = "winner", "tried", "duplicate", "default"
PLAIN, ALONE = "plain", "synthetic"
"""Arms of the last study: real images that nothing varies, and the winner's images alone."""


class Choices(Frozen):
    """An axis of single values."""

    choices: tuple[Value, ...] = Field(min_length=1)


class Range(Frozen):
    """An axis from `low` to `high`, both included; of whole numbers where all three are."""

    low: int | float
    high: int | float
    step: int | float | None = Field(None, gt=0)
    """null: every number in between; of whole numbers 1."""
    log: bool = False

    @model_validator(mode="after")
    def _spans(self) -> "Range":
        if not self.low < self.high:
            raise ValueError(f"low {self.low} is not below high {self.high}")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log: it needs a low above 0, and no step")
        return self

    @property
    def whole(self) -> bool:
        """Whether the axis has whole numbers only."""
        return all(isinstance(v, int) for v in (self.low, self.high, self.step or 1))


def _kind_of(axis: Any) -> str:
    """Return 'choices' or 'range' of an axis, read or not."""
    listed = "choices" in axis if isinstance(axis, dict) else isinstance(axis, Choices)
    return "choices" if listed else "range"


Axis = Annotated[
    Annotated[Choices, Tag("choices")] | Annotated[Range, Tag("range")], Discriminator(_kind_of)
]


class Halving(Frozen):
    """Asynchronous successive halving: poor points stop after few of their trainings."""

    grace: int = Field(1, ge=1)
    """Trainings that every point gets."""
    factor: int = Field(3, ge=2)
    """One in so many goes on at each rung."""


class SweepConfig(Frozen):
    """What is searched.

    Axes are dotted keys of `generate`, `arm` and `learner`, or `gate.<column>`: the least value
    that a row must have in a score column of the catalog, e.g. `gate.blur_score`.
    """

    name: str = Field("sweep", min_length=1)
    generate: GenerateConfig
    """How images are drawn; its `num_images` grow to what the largest arm asks for, its seed is
    fixed."""
    arm: Design
    """The design with synthetic images whose numbers are searched."""
    learner: Learner = Classifier()
    controls: Mapping[str, Design] = Field(
        {"real": Real(), "oversampled": Oversample()}, min_length=1
    )
    """What the winner is held against in the end, beside real images that nothing varies, and such
    as are repeated to its size. Its drawn images alone are asked as well."""
    space: Mapping[str, Axis] = Field(min_length=1)
    start: tuple[Mapping[str, Value], ...] = ()
    """Points to begin with, such as published recipes: a value for every axis each. The first is
    what everybody would have taken: the winner is tested against it too, under its name 'default'.
    """
    trials: int = Field(60, ge=1)
    objective: Literal["score", "score_and_size"] = "score"
    """The mean validation score, or that and the number of synthetic images, fewer being better."""
    halving: Halving | None = Halving()
    """null: every point gets all its trainings; so it is with two objectives."""
    seeds: tuple[int, ...] = Field((0, 1), min_length=1)
    """Trainings of a point per fold."""
    final_seeds: tuple[int, ...] = Field((0, 1, 2, 3, 4), min_length=2)
    """Of the winner and the controls on the test part."""
    shots: Shots | None = None
    shots_seed: int | None = Field(None, ge=0)
    draws: int | None = Field(None, ge=2, le=1000)
    equal_information: bool = True
    without: tuple[str, ...] = ()
    """These five as in a study."""
    gpus_per_training: float | None = Field(None, ge=0, le=1)
    """Of each trial, as of a study's trainings; a probe's look at images then. Names nothing."""
    synthetic: SyntheticChoice = SyntheticChoice()
    seed: int = Field(0, ge=0)
    """Of the search."""

    @model_validator(mode="after")
    def _fits(self) -> "SweepConfig":
        if self.generate.seed is None:
            raise ValueError("generate.seed: fix it, so that images are found again")
        if self.generate.table is not None:
            raise ValueError("generate.table: a search draws numbers of its own, and no table")
        if isinstance(self.arm, CONTROLS):
            raise ValueError("arm: choose one with synthetic images, e.g. add")  # noqa: TRY004
        if taken := sorted({WINNER, TRIED, DUPLICATE, DEFAULT, ALONE} & self.controls.keys()):
            raise ValueError(f"controls: {taken[0]} is the name of another arm")
        for point in self.start:
            if other := sorted(point.keys() ^ self.space.keys()):
                raise ValueError(f"start: {other[0]} is no axis, or an axis is missing there")
        return self

    @property
    def digest(self) -> str:
        """Names the search; how long it looks may grow, and where it does may change."""
        told = self.model_dump(mode="json", exclude=set(GROWING))
        if self.generate.copies == CopyGate.default():  # searches keep the name of before it was on
            told["generate"]["copies"] = None
        return digest(plain(told))


class _Parts(Frozen):
    generate: GenerateConfig
    arm: Design
    learner: Learner


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a point means: a way of drawing, a training set, a learner."""

    generate: GenerateConfig
    arm: Design
    learner: Learner
    least: Mapping[str, float]
    """Score column -> least value."""

    def where(self, run_id: str, also: str | None) -> str:
        """Return the SQL condition on the rows that the point may take."""
        bounds = [f"{column} >= {value!r}" for column, value in sorted(self.least.items())]
        kept = [f"({also})"] if also else []
        return " AND ".join([f"run_id = '{run_id}'", *bounds, *kept])


def setting_at(config: SweepConfig, point: Point) -> Setting:
    """Return what a point means.

    Raises:
        ConfigError: an axis that names no key, or a value that the key refuses.
    """
    stored: dict[str, Any] = config.model_dump(mode="json", include={"generate", "arm", "learner"})
    least = {}
    for key, value in point.items():
        section, _, path = key.partition(".")
        if section == "gate" and path in SCORES:
            least[path] = _bound(key, value)
            continue
        if section not in stored or not path:
            raise ConfigError(
                f"axis {key!r} is no key of generate, arm or learner, and no gate",
                remedy="Write e.g. generate.guidance_scale, arm.per_class or gate.blur_score;"
                f" scores are {', '.join(SCORES)}",
            )
        *above, last = path.split(".")
        node = stored[section]
        for name in above:
            node[name] = dict(node.get(name) or {})
            node = node[name]
        node[last] = value
    parts = parse_config(_Parts, stored, where="the space")
    for column, gate in (("agreement_score", "agreement"), ("copy_score", "copies")):
        if column in least and getattr(parts.generate, gate) is None:
            raise ConfigError(
                f"axis 'gate.{column}': no image is judged by that gate",
                remedy=f"Set generate.{gate}, or leave this axis out",
            )
    return Setting(generate=parts.generate, arm=parts.arm, learner=parts.learner, least=least)


def _bound(key: str, value: Value) -> float:
    if isinstance(value, bool | str):
        raise ConfigError(
            f"axis {key!r} is {value!r}",
            remedy="Give numbers: the least score of a row",
        )
    return float(value)


def study_of(
    config: SweepConfig, setting: Setting, run_id: str, *, arm_name: str, final: bool
) -> StudyConfig:
    """Return the study of a point: its arm beside real images alone, or in the end all controls."""
    same = {"shots", "shots_seed", "draws", "equal_information", "without", "gpus_per_training"}
    stored = config.model_dump(mode="json", include=same)
    arms: dict[str, Design] = {arm_name: setting.arm}
    controls: dict[str, Design] = dict(config.controls) if final else {"real": Real()}
    if final:
        controls = {PLAIN: Real(augment=False)} | controls
        controls[DUPLICATE] = Duplicate(like=arm_name)
        arms[ALONE] = SyntheticOnly()
    where = setting.where(run_id, config.synthetic.where)
    return StudyConfig(
        name=config.name,
        learner=setting.learner,
        arms=controls | arms,
        seeds=config.final_seeds if final else config.seeds,
        synthetic=config.synthetic.model_copy(update={"where": where}),
        **stored,
    )


def beside_default(
    study: StudyConfig, config: SweepConfig, drawn: Mapping[str, tuple[Setting, str]]
) -> StudyConfig:
    """Return the last study with a second arm, as the first starting point would have it.

    Args:
        study: of the winner and the controls.
        config: of the search.
        drawn: of `WINNER` and `DEFAULT`, what they mean and the run that drew for them.
    """
    arms: dict[str, Design] = {
        name: setting.arm.model_copy(update={"where": setting.where(run, _own_where(setting))})
        for name, (setting, run) in drawn.items()
    }
    best, run = drawn[WINNER]
    arms[ALONE] = SyntheticOnly(where=best.where(run, _own_where(best)))
    runs = ", ".join(sorted({f"'{run}'" for _, run in drawn.values()}))
    kept = [f"({config.synthetic.where})"] if config.synthetic.where else []
    where = " AND ".join([f"run_id IN ({runs})", *kept])
    return study.model_copy(
        update={
            "arms": {**study.arms, **arms},
            "synthetic": config.synthetic.model_copy(update={"where": where}),
            "primary": f"{WINNER} minus {DEFAULT}",
        }
    )


def _own_where(setting: Setting) -> str | None:
    found: str | None = getattr(setting.arm, "where", None)
    return found
