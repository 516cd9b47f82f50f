"""The plan of a class-conditional training: all that its workers need to know, in one file."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from factory.atomic import write_text
from factory.finetune.class_config import ClassConditionalConfig
from factory.finetune.plan import PLAN
from factory.real.field import Shown


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassPlan:
    """What is trained on what; stored as `plan.json` in the output folder."""

    config: ClassConditionalConfig
    class_names: tuple[str, ...]
    train: Path
    """File of `factory.finetune.pixels`."""
    held_out: Path | None
    mask_values: tuple[int, ...]
    autoencoder_id: str
    """Names everything that the autoencoder depends on."""
    field: Shown
    """What the images to learn from show."""
    output: Path

    @property
    def autoencoder(self) -> Path:
        """Folder of the finished first stage."""
        return self.output / f"autoencoder-{self.autoencoder_id}"

    @property
    def checkpoints(self) -> Path:
        """Folder of the second stage's checkpoints."""
        return self.output / "denoiser-checkpoints"

    def latents(self, pixels: str) -> Path:
        """Return the folder of the cached latents of pixels with this digest."""
        turns = "turned" if self.config.turns else "upright"
        return self.output / f"latents-{self.autoencoder_id}-{pixels}-{turns}"

    def save(self) -> None:
        """Write `plan.json`."""
        stored: dict[str, Any] = asdict(self) | {
            "config": self.config.model_dump(mode="json"),
            "field": self.field.model_dump(mode="json"),
            "train": self.train.name,
            "held_out": self.held_out.name if self.held_out else None,
        }
        del stored["output"]
        write_text(self.output / PLAN, json.dumps(stored, indent=1))

    @classmethod
    def load(cls, output: Path) -> "ClassPlan":
        """Return the plan in `output`."""
        stored = json.loads((output / PLAN).read_text())
        held_out = stored.pop("held_out")
        return cls(
            config=ClassConditionalConfig.model_validate(stored.pop("config")),
            class_names=tuple(stored.pop("class_names")),
            train=output / stored.pop("train"),
            held_out=output / held_out if held_out else None,
            mask_values=tuple(stored.pop("mask_values")),
            field=Shown.model_validate(stored.pop("field", None) or {}),
            output=output,
            **stored,
        )
