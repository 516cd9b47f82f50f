"""A finished search as one page: the final study, the best trials, the plots."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from factory.atomic import write_text
from factory.evaluate.study_html import TEMPLATE as STUDY
from factory.evaluate.study_html import Beside, Made, page_values
from factory.measure.charts import Line, Span, bars, scatter
from factory.measure.page import rendered
from factory.search.config import SweepConfig
from factory.search.finish import Outcome
from factory.search.trials import Trial, short

LEAST_FOR_IMPORTANCE = 4
MOST_BINS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Best score by two axes: a row for each value of the second, None where none was tried."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[float | None, ...]], ...]
    across: str
    down: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plots:
    """What can be drawn of a search: title -> SVG; `grid` where it has two axes."""

    drawings: Mapping[str, str]
    grid: Grid | None
    best: float
    least: float


def plots_of(config: SweepConfig, trials: Sequence[Trial], study: optuna.Study) -> Plots:
    """Return the drawings of a search; those that would be empty are left out.

    Only trials with all their trainings are shown where a score is read off: the others stopped
    because they scored less after fewer.
    """
    most = max(trial.trained for trial in trials)
    whole = [trial for trial in trials if trial.trained == most]
    drawings = {"Score by number of drawn images": _scores(whole)}
    if shares := _importance(study):
        drawings["Importance of the axes"] = bars(shares, title="share of the score's variance")
    drawings["Best score by time"] = _cost(trials, most)
    scores = [trial.score for trial in whole]
    return Plots(drawings=drawings, grid=_grid(config, whole), best=max(scores), least=min(scores))


def _scores(trials: Sequence[Trial]) -> str:
    """Every trial, and mean and 95 % interval by number of images in up to six bins."""
    sizes = np.array([trial.num_synthetic for trial in trials], float)
    scores = np.array([trial.score for trial in trials])
    edges = np.unique(np.quantile(sizes, np.linspace(0, 1, MOST_BINS + 1)))
    bins = np.clip(np.searchsorted(edges, sizes, side="right") - 1, 0, max(0, len(edges) - 2))
    points = []
    for number in np.unique(bins):
        own = scores[bins == number]
        if len(own) > 1:
            half = 1.96 * own.std(ddof=1) / np.sqrt(len(own))
            span = Span(low=own.mean() - half, value=own.mean(), high=own.mean() + half)
            points.append((float(sizes[bins == number].mean()), span))
    line = Line(name="mean", kind="drawn", points=tuple(points))
    return scatter(
        list(zip(sizes.tolist(), scores.tolist(), strict=True)),
        line if len(points) > 1 else None,
        x_title="drawn images",
        y_title="validation score",
    )


def _grid(config: SweepConfig, trials: Sequence[Trial]) -> Grid | None:
    """Best score by the first two axes of the space; None: it has one."""
    keys = list(config.space)[:2]
    if len(keys) < 2:
        return None
    columns, rows = (sorted({t.point[key] for t in trials}, key=_order) for key in keys)
    best: dict[tuple[Any, Any], float] = {}
    for trial in trials:
        place = trial.point[keys[0]], trial.point[keys[1]]
        best[place] = max(trial.score, best.get(place, -np.inf))
    return Grid(
        columns=tuple(map(short, columns)),
        rows=tuple((short(row), tuple(best.get((c, row)) for c in columns)) for row in rows),
        across=keys[0],
        down=keys[1],
    )


def _importance(study: optuna.Study) -> dict[str, float]:
    """Share of the score's variance that each axis explains (fANOVA, F. Hutter et al., 2014).

    Empty where there are too few trials, or all score alike.
    """
    if len(study.trials) < LEAST_FOR_IMPORTANCE:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    try:
        return optuna.importance.get_param_importances(
            study, evaluator=evaluator, target=lambda trial: trial.values[0]
        )
    except RuntimeError:  # fANOVA: no variance in any tree
        return {}


def _cost(trials: Sequence[Trial], most: int) -> str:
    """Best score so far by the minutes that all trials took together."""
    return scatter(
        list(_so_far(trials, most)), None, steps=True, x_title="minutes of all workers",
        y_title="best score so far",
    )  # fmt: skip


def _so_far(trials: Sequence[Trial], most: int) -> Iterator[tuple[float, float]]:
    minutes, best = 0.0, -np.inf
    for trial in sorted(trials, key=lambda trial: trial.ended):
        minutes += (trial.ended - trial.begun) / 60
        if trial.trained == most:
            best = max(best, trial.score)
            yield minutes, best


def _order(value: Any) -> tuple[bool, Any]:
    return isinstance(value, str), value


TEMPLATE = Path(__file__).parent / "templates" / "sweep.html"
SHOWN = 20
"""Best trials in the table."""


def write_page(
    path: Path, config: SweepConfig, outcome: Outcome, plots: Plots, made: Made | None = None
) -> None:
    """Write the page of a search.

    Raises:
        OutputError: `path` cannot be written.
    """
    keys = list(config.space)
    rows = [
        [
            f"{trial.score:.3f}",
            *(str(count) for count in (trial.trained, trial.num_synthetic)),
            *(short(trial.point[key]) for key in keys),
        ]
        for trial in outcome.trials[:SHOWN]
    ]
    values = page_values(outcome.report, Beside(made=made or Made())) | {
        "title": config.name,
        "outcome": outcome,
        "plots": plots,
        "trial_heads": ["val score", "trainings", "drawn images", *keys],
        "trial_rows": rows,
    }
    write_text(path, rendered(TEMPLATE, values, also=[STUDY.parent]))
