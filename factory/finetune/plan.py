"""The plan of a training: which images it learns from, and all that its workers need to know."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factory.atomic import write_text
from factory.errors import ConfigError, DataError
from factory.finetune.config import MethodConfig
from factory.finetune.data import Material, save_material
from factory.gate.calibration import Calibration
from factory.real.field import Shown

PLAN = "plan.json"
FEWEST = 4
"""Images that a KID needs on either side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything a worker needs to know; stored as `plan.json` in the output folder."""

    method: str
    config: Any
    """The `MethodConfig` of the method, completed by what its base and its images say."""
    learn: Path
    """File of the images to learn from, see `factory.finetune.data`."""
    held_out: Path | None
    """File of those of the val part; None: there are none that tell anything."""
    gates: Calibration
    """What the images to learn from score."""
    field: Shown
    """What they show."""
    targets: tuple[str, ...]
    output: Path
    stages: Path
    """Where images, autoencoders and latents lie; several trainings may share them."""
    facts: Mapping[str, Any]
    """What else the method found, as JSON."""

    def save(self) -> None:
        """Write `plan.json`."""
        stored = {
            "method": self.method,
            "config": self.config.model_dump(mode="json"),
            "learn": str(self.learn),
            "held_out": str(self.held_out) if self.held_out else None,
            "gates": self.gates.model_dump(mode="json"),
            "field": self.field.model_dump(mode="json"),
            "targets": list(self.targets),
            "stages": str(self.stages),
            "facts": dict(self.facts),
        }
        write_text(self.output / PLAN, json.dumps(stored, indent=1))

    def folder_of(self, target: str) -> Path:
        """Return where the checkpoints, the samples and the weights of a target lie."""
        return self.output / "targets" / target


def read_plan(output: Path) -> dict[str, Any]:
    """Return what `Plan.save` wrote into `output`, its configuration not yet parsed.

    Raises:
        ConfigError: there is none, or one of older code.
    """
    try:
        stored: dict[str, Any] = json.loads((output / PLAN).read_text())
        held_out = stored["held_out"]
        return stored | {
            "learn": Path(stored["learn"]),
            "held_out": Path(held_out) if held_out else None,
            "gates": Calibration.model_validate(stored["gates"]),
            "field": Shown.model_validate(stored["field"]),
            "targets": tuple(stored["targets"]),
            "output": output,
            "stages": Path(stored["stages"]),
        }
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"{output} holds no plan of a training that this version reads",
            remedy="Give the command of the training itself: it goes on where it was",
        ) from error


def planned(
    config: MethodConfig,
    learn: Material,
    held_out: Material | None,
    *,
    field: Shown,
    targets: Sequence[str],
    output: Path,
    stages: Path | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Plan:
    """Write the images where every worker finds them and return the plan, not saved yet.

    Raises:
        DataError: the best checkpoint is asked for, and the val part is too small to tell it.
    """
    _check_validation(config, held_out, targets)
    place = stages or output
    return Plan(
        method=config.method,
        config=config,
        learn=save_material(learn, place),
        held_out=save_material(held_out, place) if held_out is not None else None,
        gates=learn.measured(),
        field=field,
        targets=tuple(targets),
        output=output,
        stages=place,
        facts=dict(facts or {}),
    )


def _check_validation(
    config: MethodConfig, held_out: Material | None, targets: Sequence[str]
) -> None:
    """Raise unless every target has the images of the val part that its best checkpoint needs."""
    best_by = config.validation.best_by
    needed = {None: 0, "val_loss": 1, "val_kid": FEWEST}[best_by]
    found = Counter(held_out.labels if held_out is not None else ())
    for target in targets:
        own = found[target] if target in found else sum(found.values()) if len(targets) == 1 else 0
        if own < needed:
            raise DataError(
                f"validation.best_by {best_by} needs {needed} images in the val part, and target"
                f" {target!r} has {own} that it can use",
                remedy="Hold out more, or set validation.best_by to null",
            )
