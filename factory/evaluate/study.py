"""A study: arms x folds x seeds on one real dataset, planned before anything is trained."""

from collections.abc import Mapping, Sequence

from pydantic import Field, model_validator

from factory.config import Frozen
from factory.digest import digest
from factory.errors import ConfigError
from factory.evaluate.arms import Drawn, Stock
from factory.evaluate.designs import CONTROLS, Design, make_arms
from factory.evaluate.learner_config import Classifier, Learner
from factory.evaluate.synthetic import SyntheticChoice
from factory.evaluate.units import Unit
from factory.real.dataset import RealDataset
from factory.real.splits import Split, n_shot


class StudyConfig(Frozen):
    """What is compared, by which learner."""

    name: str = Field("study", min_length=1)
    learner: Learner = Classifier()
    arms: Mapping[str, Design] = Field(min_length=2)
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)
    """Each is one training per arm and fold: its weights, order of images and choice of rows."""
    shots: int | None = Field(None, ge=1)
    """Real training images per class, drawn from each train part; null: all of it."""
    shots_seed: int = Field(42, ge=0)
    baseline: str | None = None
    """The control that verdicts are about; null: the one with the best val score."""
    synthetic: SyntheticChoice = SyntheticChoice()
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
        return self

    @property
    def controls(self) -> tuple[str, ...]:
        """Arms without a synthetic image."""
        return tuple(name for name, arm in self.arms.items() if isinstance(arm, CONTROLS))

    @property
    def mixed(self) -> tuple[str, ...]:
        """Arms with synthetic images."""
        return tuple(name for name in self.arms if name not in self.controls)

    @property
    def digest(self) -> str:
        """Names the configuration."""
        return digest(self.model_dump(mode="json"))


def plan_units(
    config: StudyConfig,
    dataset: RealDataset,
    splits: Sequence[Split],
    drawn: Sequence[Sequence[Drawn]],
) -> list[Unit]:
    """Return every training, seed by seed: a study that is cut off still has pairs.

    Args:
        config: what is compared.
        dataset: the real images.
        splits: one per fold, of `dataset`.
        drawn: what the arms of each fold may take.

    Raises:
        ConfigError: no fold, or an arm that names what is not there.
        DataError: too few real or synthetic images for an arm.
    """
    if not splits:
        raise ConfigError("a study without a split", remedy="Give one or more --split files")
    labels = dict(zip(dataset.ids, dataset.labels, strict=True))
    units = []
    for seed in config.seeds:
        for fold, split in enumerate(splits):
            stock = Stock(
                class_names=dataset.class_names,
                real={i: labels[i] for i in train_ids(config, split, labels)},
                drawn=drawn[fold],
                seed=seed,
            )
            units += [
                Unit(
                    learner=config.learner,
                    manifest=manifest,
                    fold=fold,
                    seed=seed,
                    split_digest=split.digest,
                    val=split.val,
                    test=split.test,
                )
                for manifest in make_arms(config.arms, stock).values()
            ]
    return units


def train_ids(config: StudyConfig, split: Split, labels: Mapping[str, str]) -> tuple[str, ...]:
    """Return the real training images: the train part, or its shots.

    Raises:
        DataError: a class with fewer images than shots.
    """
    if config.shots is None:
        return split.train
    shots = n_shot(split, labels=labels, shots=config.shots, seed=config.shots_seed)
    return tuple(i for ids in shots.values() for i in ids)
