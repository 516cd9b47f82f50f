"""The plan of a fine-tuning: all that its workers need to know, in one file."""

import json
from dataclasses import dataclass
from pathlib import Path

from factory.atomic import write_text
from factory.finetune.config import FinetuneConfig

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

    def save(self) -> None:
        """Write `plan.json`."""
        stored = {
            "config": self.config.model_dump(mode="json"),
            "base_model_id": self.base_model_id,
            "material": str(self.material),
            "validation": str(self.validation) if self.validation else None,
            "targets": list(self.targets),
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
        )

    def folder_of(self, target: str) -> Path:
        """Return where the checkpoints and the weights of a target lie."""
        return self.output / "targets" / target
