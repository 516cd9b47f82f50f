"""Finished trials, and the Optuna study that keeps them for other tools."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.study import StudyDirection

from factory.search.config import SweepConfig
from factory.search.space import distributions

SCORE, SIZE, TRAINED = "score", "num_synthetic", "trained"
"""Fields of a trial that a search steers by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A finished trial: its point, what it scored, what it cost."""

    point: dict[str, Any]
    score: float
    trained: int
    num_synthetic: int
    drawn: int
    """Images that it had to draw."""
    asked: int
    """Images that it would have drawn without the catalog."""
    begun: float
    ended: float
    """Seconds since 1970."""


def store_study(trials: Sequence[Trial], config: SweepConfig, output: Path) -> optuna.Study:
    """Write the trials into `output`/optuna.db, which optuna-dashboard opens; an older one goes."""
    path = output.resolve() / "optuna.db"
    path.unlink(missing_ok=True)
    two = config.objective == "score_and_size"
    directions = [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE][: 1 + two]
    study = optuna.create_study(
        storage=f"sqlite:///{path}",
        study_name=config.name,
        directions=directions,
    )
    for trial in trials:
        study.add_trial(as_optuna(trial, config))
    return study


def as_optuna(trial: Trial, config: SweepConfig) -> optuna.trial.FrozenTrial:
    """Return a trial as Optuna has it, with one value or two."""
    two = config.objective == "score_and_size"
    facts = asdict(trial) | {"seconds": trial.ended - trial.begun}
    return optuna.trial.create_trial(
        params=trial.point,
        distributions=distributions(config),
        values=[trial.score, float(trial.num_synthetic)][: 1 + two],
        user_attrs={key: facts[key] for key in ("trained", "drawn", SIZE, "seconds")},
    )


def short(value: Any) -> str:
    """Return a value of a point as text, numbers to three digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
