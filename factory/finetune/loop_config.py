"""Lengths, rates and places of one training run, as its loop takes them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from factory.finetune.cluster import ClusterConfig
    from factory.finetune.config import TrainingConfig
    from factory.finetune.pairs_config import PairTraining


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopConfig:
    """Lengths, rates and places of one training run."""

    steps: int
    batch_size: int
    """Of all workers together."""
    learning_rate: float
    warmup_steps: int
    decay_steps: int
    weight_decay: float
    ema_decay: float
    final_fraction: float = 0.02
    accumulate: int = 1
    """Parts in which each worker computes its share of a batch, to save memory."""
    resumable: Mapping[str, Any] = field(default_factory=dict)
    """All that the weights depend on; a checkpoint of another one is refused."""
    checkpoint_dir: Path | None = None
    checkpoint_seconds: float = 180.0
    keep_checkpoints: int = 2
    best_by: str | None = None
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    betas: tuple[float, float] = (0.9, 0.99)
    measure_utilisation: bool = False


def loop_config(
    training: "TrainingConfig | PairTraining",
    cluster: "ClusterConfig",
    *,
    resumable: Mapping[str, Any],
    checkpoint_dir: Path | None,
    best_by: str | None = None,
) -> LoopConfig:
    """Return what a configuration says of its loop; its `decay_steps` null: after the warm-up."""
    known = training.model_dump(include={each.name for each in fields(LoopConfig)})
    if known["decay_steps"] is None:
        known["decay_steps"] = max(0, training.steps - training.warmup_steps)
    return LoopConfig(
        **known,
        checkpoint_seconds=cluster.checkpoint_seconds,
        resumable=resumable,
        checkpoint_dir=checkpoint_dir,
        best_by=best_by,
    )
