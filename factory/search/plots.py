"""Plots of a search, one picture: score by number of images, two axes, importance, cost."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from factory.atomic import write_bytes
from factory.search.config import SweepConfig
from factory.search.trials import Trial, short

LEAST_FOR_IMPORTANCE = 4


def plot(path: Path, config: SweepConfig, trials: Sequence[Trial], study: optuna.Study) -> None:
    """Write the four plots of a search as a PNG.

    Only trials with all their trainings are shown where a score is read off: the others stopped
    because they scored less after fewer.

    Raises:
        OutputError: `path` cannot be written.
    """
    most = max(trial.trained for trial in trials)
    whole = [trial for trial in trials if trial.trained == most]
    figure = Figure(figsize=(11, 8), layout="constrained")
    first, second, third, fourth = figure.subplots(2, 2).flat
    _scores(first, whole)
    _two_axes(second, config, whole)
    _importance(third, study)
    _cost(fourth, trials, most)
    figure.suptitle(f"{config.name}: {len(trials)} trials, {len(whole)} with {most} trainings")
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    write_bytes(path, picture.getvalue())


def _scores(axes: Axes, trials: Sequence[Trial]) -> None:
    """Every trial, and mean and 95 % interval by number of images in up to six bins."""
    sizes = np.array([trial.num_synthetic for trial in trials], float)
    scores = np.array([trial.score for trial in trials])
    axes.scatter(sizes, scores, s=14, alpha=0.5, color="tab:blue")
    edges = np.unique(np.quantile(sizes, np.linspace(0, 1, 7)))
    bins = np.clip(np.searchsorted(edges, sizes, side="right") - 1, 0, max(0, len(edges) - 2))
    middle, mean, half = [], [], []
    for number in np.unique(bins):
        own = scores[bins == number]
        if len(own) > 1:
            middle.append(sizes[bins == number].mean())
            mean.append(own.mean())
            half.append(1.96 * own.std(ddof=1) / np.sqrt(len(own)))
    low, high = np.subtract(mean, half), np.add(mean, half)
    axes.plot(middle, mean, color="tab:blue")
    axes.fill_between(middle, low, high, color="tab:blue", alpha=0.2)
    axes.set(xlabel="synthetic images", ylabel="validation score", title="Score by number")


def _two_axes(axes: Axes, config: SweepConfig, trials: Sequence[Trial]) -> None:
    """Best score by the first two axes of the space."""
    keys = list(config.space)[:2]
    if len(keys) < 2:
        axes.set_axis_off()
        return
    columns, rows = (sorted({t.point[key] for t in trials}, key=_order) for key in keys)
    table = np.full((len(rows), len(columns)), np.nan)
    for trial in trials:
        place = rows.index(trial.point[keys[1]]), columns.index(trial.point[keys[0]])
        table[place] = np.fmax(table[place], trial.score)
    shown = axes.imshow(table, aspect="auto", origin="lower", cmap="viridis")
    axes.figure.colorbar(shown, ax=axes, label="best validation score")
    for ticks, names in ((axes.set_xticks, columns), (axes.set_yticks, rows)):
        every = max(1, len(names) // 8)
        ticks(range(0, len(names), every), [short(name) for name in names[::every]])
    axes.set(xlabel=keys[0], ylabel=keys[1], title="First two axes")


def _importance(axes: Axes, study: optuna.Study) -> None:
    """Share of the score's variance that each axis explains (fANOVA, F. Hutter et al., 2014)."""
    axes.set(title="Importance of the axes", xlabel="share of the variance")
    if len(study.trials) < LEAST_FOR_IMPORTANCE:
        axes.text(0.5, 0.5, "too few trials", ha="center", transform=axes.transAxes)
        return
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    try:
        found = optuna.importance.get_param_importances(
            study, evaluator=evaluator, target=lambda trial: trial.values[0]
        )
    except RuntimeError:  # fANOVA: no variance in any tree
        axes.text(0.5, 0.5, "trials score alike", ha="center", transform=axes.transAxes)
        return
    names = list(found)[::-1]
    axes.barh(names, [found[name] for name in names], color="tab:blue")


def _cost(axes: Axes, trials: Sequence[Trial], most: int) -> None:
    """Best score so far by the seconds that all trials took together."""
    order = sorted(trials, key=lambda trial: trial.ended)
    seconds = np.cumsum([trial.ended - trial.begun for trial in order])
    best = np.fmax.accumulate([t.score if t.trained == most else np.nan for t in order])
    axes.step(seconds / 60, best, where="post", color="tab:blue")
    axes.set(xlabel="minutes of all workers", ylabel="best score so far", title="Cost")


def _order(value: Any) -> tuple[bool, Any]:
    return isinstance(value, str), value
