"""The plan of a fine-tuning: which images it learns from, and all that its workers need to know."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from factory.atomic import write_text
from factory.errors import DataError
from factory.evaluate.leaks import check_apart
from factory.finetune.config import FinetuneConfig
from factory.gate.calibration import Calibration
from factory.real.dataset import RealDataset
from factory.real.splits import Split, n_shot

PLAN = "plan.json"


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

    def save(self) -> None:
        """Write `plan.json`."""
        stored = {
            "config": self.config.model_dump(mode="json"),
            "base_model_id": self.base_model_id,
            "material": str(self.material),
            "validation": str(self.validation) if self.validation else None,
            "targets": list(self.targets),
            "gates": self.gates.model_dump(mode="json"),
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
    """Return the ids to learn from: of the train part only, `n_shot` of each class if asked.

    Raises:
        DataError: a class without images in the train part, or with fewer than `n_shot`; or a split
            that `check_apart` refuses.
    """
    check_apart(dataset, split)
    labels = dict(zip(dataset.ids, dataset.labels, strict=True))
    wanted = config.only or tuple(sorted(set(dataset.labels)))
    ids = [i for i in split.train if labels[i] in wanted]
    have = {labels[i] for i in ids}
    if lacking := sorted(set(wanted) - have):
        raise DataError(
            f"class {lacking[0]!r} has no image in the train part",
            remedy=f"Choose of {', '.join(sorted(have)) or 'another split'}",
        )
    if config.n_shot is None:
        return tuple(ids)
    only = replace(split, train=tuple(ids))
    chosen = n_shot(only, labels=labels, shots=config.n_shot, seed=config.seed)
    return tuple(image_id for members in chosen.values() for image_id in members)
