"""The search itself: trials on Ray Tune, led by Optuna; what they lack is drawn once and stays."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import optuna
import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from factory.atomic import write_text
from factory.config import load_config, to_yaml
from factory.errors import ConfigError, FactoryError, SearchError
from factory.evaluate.study_run import Tell
from factory.search.config import Setting, SweepConfig
from factory.search.drawer import Drawer
from factory.search.objective import Ground, score_point
from factory.search.space import check_space, distributions
from factory.search.trials import SCORE, SIZE, TRAINED, Trial, short


class Teller(tune.Callback):  # type: ignore[misc]
    """Says what every trial scored."""

    def __init__(self, tell: Tell, asked: int) -> None:
        """`asked`: trials of the whole search."""
        self._tell, self._asked = tell, asked

    def on_trial_complete(self, trials: list[Any], trial: Any, **_: Any) -> None:
        """Tell a trial that ended well; Ray calls it."""
        others = (each for each in trials if each is not trial)
        finished = 1 + sum(each.status == "TERMINATED" for each in others)
        found = trial.last_result
        point = ", ".join(f"{key} {short(value)}" for key, value in found["point"].items())
        self._tell(
            f"trial {finished}/{self._asked}: val {found[SCORE]:.3f} after {found[TRAINED]}"
            f" trainings, {found[SIZE]} drawn images ({point})"
        )


def run_trials(
    ground: Ground, *, at_once: int | None = None, tell: Tell = lambda _line: None
) -> list[Trial]:
    """Search, or go on where a killed search stopped; return the finished trials, best first.

    Needs Ray. Every trial takes a core; where the cluster has GPUs, images are drawn on them.

    Args:
        ground: what is searched and on what.
        at_once: trials side by side; None: one per core.
        tell: gets lines to show.

    Raises:
        ConfigError: an axis that fits nowhere, or a search of another space in `ground.output`.
        SearchError: every trial failed; it says why the first one did.
    """
    config = ground.config
    check_space(config)
    _claim(ground)
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # else Tune prints tables at any verbosity
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"  # relative places mean in trials what they mean here
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    resources = ray.cluster_resources()
    drawer = (ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Drawer)).remote(
        ground.catalog_uri, ground.storage, on_ray=resources.get("GPU", 0) > 0
    )
    trainable = tune.with_resources(
        tune.with_parameters(_trial, ground=ground, drawer=drawer), {"cpu": 1}
    )
    folder = ground.output.resolve() / "tune"
    if tune.Tuner.can_restore(str(folder)):
        tuner = tune.Tuner.restore(str(folder), trainable=trainable, restart_errored=True)
    else:
        tuner = tune.Tuner(
            trainable,
            tune_config=_tune_config(ground, at_once or max(1, int(resources.get("CPU", 1)))),
            run_config=tune.RunConfig(
                name=folder.name,
                storage_path=str(folder.parent),
                verbose=0,
                callbacks=[Teller(tell, config.trials)],
            ),
        )
    tell(f"{config.trials} trials in {folder}")
    results = tuner.fit()
    trials = [_told(result.metrics) for result in results if TRAINED in (result.metrics or {})]
    if not trials:
        raise SearchError(
            f"all {len(results)} trials failed, the first with {_cause(results.errors)}",
            remedy="Mend the cause and run the same command again",
        )
    if failed := len(results.errors):
        tell(f"{failed} trials failed, the first with {_cause(results.errors)}")
    return sorted(trials, key=lambda trial: (-trial.trained, -trial.score))


def _trial(point: dict[str, Any], *, ground: Ground, drawer: Any) -> None:
    """Score a point on a worker, reporting after every training."""
    import torch

    torch.set_num_threads(1)
    begun = time.time()

    def draw(setting: Setting) -> tuple[str, int]:
        told: tuple[str, int] = ray.get(drawer.draw.remote(setting.generate))
        return told

    for scored in score_point(ground, point, draw):
        tune.report({**asdict(scored), "point": point, "begun": begun, "ended": time.time()})


def _tune_config(ground: Ground, at_once: int) -> tune.TuneConfig:
    config = ground.config
    two = config.objective == "score_and_size"
    search = OptunaSearch(
        space=distributions(config),
        metric=[SCORE, SIZE] if two else SCORE,
        mode=["max", "min"] if two else "max",
        points_to_evaluate=[dict(point) for point in config.start],
        seed=config.seed,
    )
    most = len(config.seeds) * len(ground.splits)
    scheduler = None
    if config.halving is not None and not two and most > config.halving.grace:
        scheduler = ASHAScheduler(
            time_attr=TRAINED,
            metric=SCORE,
            mode="max",
            max_t=most,
            grace_period=config.halving.grace,
            reduction_factor=config.halving.factor,
        )
    return tune.TuneConfig(
        search_alg=search,
        scheduler=scheduler,
        num_samples=config.trials,
        max_concurrent_trials=at_once,
        reuse_actors=True,  # a worker takes seconds to import what it needs
    )


def _claim(ground: Ground) -> None:
    """Note what is searched in the output folder, or check that it is the same.

    Raises:
        ConfigError: it is not.
    """
    path = ground.output / "sweep.yaml"
    if not path.exists():
        write_text(path, to_yaml(ground.config))
        return
    before = load_config(SweepConfig, path)
    if before.digest != ground.config.digest or before.trials != ground.config.trials:
        old, new = (c.model_dump(mode="json") for c in (before, ground.config))
        key = next(key for key in old if old[key] != new[key])
        raise ConfigError(
            f"{ground.output} holds a search with another {key} ({old[key]!r}, now {new[key]!r})",
            remedy="Go on with the configuration it began with, or give another --output",
        )


def _told(metrics: Mapping[str, Any]) -> Trial:
    return Trial(**{name: metrics[name] for name in Trial.__slots__})


def _cause(errors: Sequence[BaseException]) -> str:
    """Return what the first trial's worker raised, without Ray's copy of its traceback."""
    first = errors[0] if errors else None
    cause = getattr(first, "cause", None) or first
    if isinstance(cause, FactoryError):
        return str(cause)
    lines = [line for line in str(cause).splitlines() if line.strip()]
    return lines[-1].strip() if lines else repr(cause)
