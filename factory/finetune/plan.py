"""The plan of a fine-tuning: which images it learns from, and all that its workers need to know."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from factory.atomic import write_text
from factory.errors import ConfigError, DataError
from factory.finetune.config import FinetuneConfig
from factory.finetune.pairs_config import PairsConfig
from factory.gate.calibration import Calibration
from factory.real.dataset import RealDataset
from factory.real.field import Shown
from factory.real.leaks import check_apart
from factory.real.mask_values import found_values, number_objects
from factory.real.splits import Split, n_shot

PLAN = "plan.json"
FEW = 8
"""Images of a class below which a generator repeats them rather than learns the class."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything a worker needs to know; stored as `plan.json` in the output folder."""

    config: FinetuneConfig
    base_model_id: str
    material: Path
    validation: Path | None
    targets: tuple[str, ...]
    output: Path
    gates: Calibration
    """What the images to learn from score."""
    field: Shown
    """What they show."""

    def save(self) -> None:
        """Write `plan.json`."""
        stored = {
            "config": self.config.model_dump(mode="json"),
            "base_model_id": self.base_model_id,
            "material": str(self.material),
            "validation": str(self.validation) if self.validation else None,
            "targets": list(self.targets),
            "gates": self.gates.model_dump(mode="json"),
            "field": self.field.model_dump(mode="json"),
        }
        write_text(self.output / PLAN, json.dumps(stored, indent=1))

    @classmethod
    def load(cls, output: Path) -> "Plan":
        """Return the plan in `output`."""
        stored = json.loads((output / PLAN).read_text())
        return cls(
            config=FinetuneConfig.model_validate(stored["config"]),
            base_model_id=stored["base_model_id"],
            material=Path(stored["material"]),
            validation=Path(stored["validation"]) if stored["validation"] else None,
            targets=tuple(stored["targets"]),
            output=output,
            gates=Calibration.model_validate(stored["gates"]),
            field=Shown.model_validate(stored.get("field") or {}),
        )

    def folder_of(self, target: str) -> Path:
        """Return where the checkpoints and the weights of a target lie."""
        return self.output / "targets" / target


class Choice(Protocol):
    """What of a configuration decides which images are learnt from."""

    @property
    def only(self) -> tuple[str, ...]:
        """Classes; none: all."""

    @property
    def n_shot(self) -> int | None:
        """Images of each class; None: all."""

    @property
    def seed(self) -> int:
        """Draws them."""


def choose_images(dataset: RealDataset, split: Split, config: Choice) -> tuple[str, ...]:
    """Return the ids to learn from: of the train part only, up to `n_shot` of each class if asked.

    `thin_classes` says which classes have fewer.

    Raises:
        DataError: a class without images in the train part, or a split that `check_apart` refuses.
    """
    check_apart(dataset, split)
    by_class = _train_part(dataset, split)
    wanted = config.only or tuple(sorted(set(dataset.labels)))
    if lacking := [name for name in wanted if name not in by_class]:
        raise DataError(
            f"class {lacking[0]!r} has no image in the train part",
            remedy=f"Choose of {', '.join(by_class) or 'another split'}, or leave it out"
            f" (--without {lacking[0]})",
        )
    labels = dict(zip(dataset.ids, dataset.labels, strict=True))
    if config.n_shot is None:
        return tuple(i for i in split.train if labels[i] in wanted)
    chosen: list[str] = []
    for name in sorted(wanted):
        only, shots = replace(split, train=by_class[name]), min(config.n_shot, len(by_class[name]))
        chosen += n_shot(only, labels=labels, shots=shots, seed=config.seed)[name]
    return tuple(chosen)


def check_masks(dataset: RealDataset, split: Split, config: PairsConfig) -> None:
    """Raise unless every image of the train part has a mask whose values can be classes.

    Raises:
        DataError: no mask, values that are no classes, or that number the objects of each image.
    """
    labels = dict(zip(dataset.ids, dataset.labels, strict=True))
    ids = [i for i in split.train if not config.only or labels[i] in config.only]
    contents = dict(zip(dataset.ids, dataset.contents, strict=True))
    if bare := [i for i in ids if not contents[i].mask_values]:
        raise DataError(
            f"image {bare[0]!r} has no mask ({len(bare)} of {len(ids)} to learn from have none)",
            remedy="Give masks for all, or train another method on images alone",
        )
    if config.mask_values or config.base:  # which says what they mean
        return
    values = found_values(dataset, ids)
    if number_objects(contents[i].mask_values for i in ids):
        raise DataError(
            f"the masks seem to number objects: from 0 to {values[-1]}, another number in each",
            remedy="Pass --masks object (masks='object') for one class of all objects; if they are"
            f" classes, say so with mask_values: [{', '.join(map(str, values))}]",
        )


def thin_classes(dataset: RealDataset, split: Split, config: Any) -> list[str]:
    """Return a line on every class that a training learns less of than was asked, or nothing."""
    by_class, lines = _train_part(dataset, split), []
    for name in config.only or sorted(set(dataset.labels)):
        found, shots = len(by_class.get(name, ())), getattr(config, "n_shot", None)  # pairs: all
        if shots is not None and found < shots:
            lines.append(
                f"{name}: {found} of the {shots} shots asked, its train part has no more"
                f" (--without leaves a class out)"
            )
        elif shots is None and found < FEW:
            lines.append(f"{name}: {found} images in the train part (--without leaves a class out)")
    return lines


def without_classes(config: Any, dataset: RealDataset, names: Sequence[str]) -> Any:
    """Return `config` without these classes of the dataset; itself where none is named.

    Raises:
        ConfigError: a class that the dataset has not, or nothing is left.
    """
    known = sorted(set(dataset.labels))
    if unknown := sorted(set(names) - set(known)):
        raise ConfigError(
            f"--without {unknown[0]!r}: the dataset has no such class",
            remedy=f"Its classes are {', '.join(known)}",
        )
    if not names:
        return config
    left = tuple(name for name in config.only or known if name not in names)
    if not left:
        raise ConfigError("--without leaves no class to train", remedy="Name fewer classes")
    return config.model_copy(update={"only": left})


def _train_part(dataset: RealDataset, split: Split) -> dict[str, tuple[str, ...]]:
    """Return class -> its ids in the train part, classes without any left out."""
    labels, members = dict(zip(dataset.ids, dataset.labels, strict=True)), defaultdict(list)
    for image_id in split.train:
        members[labels[image_id]].append(image_id)
    return {name: tuple(members[name]) for name in sorted(members)}
