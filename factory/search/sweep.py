"""The search itself: trials on Ray Tune, led by Optuna; what they lack is drawn once and stays."""

import json
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import optuna
import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from factory.atomic import write_text
from factory.config import load_config, to_yaml
from factory.device import cluster_gpus
from factory.errors import ConfigError, FactoryError, SearchError
from factory.evaluate.placement import gpus_per_training, told_share, usual_share
from factory.measure.intervals import counted
from factory.search.config import GROWING, Setting, SweepConfig, Value
from factory.search.drawer import Drawer
from factory.search.objective import Ground, score_point
from factory.search.shares import ClusterShare, Wishes, planned
from factory.search.space import check_space, distributions, num_points, values_of
from factory.search.trials import SCORE, SIZE, TRAINED, Trial, as_optuna, short
from factory.terminal import Tell

Key = tuple[tuple[str, str], ...]
"""Names a point."""
TELL_SECONDS = 5.0
"""Between two lines on what is being drawn."""
PATIENCE_SECONDS = 30.0
"""For what draws to start, before it is said that a cluster that grows is waited for."""
TRIES = 20
"""Suggestions of Optuna, all of them tried before, after which what is left is looked through."""
MOST_POINTS = 10_000
"""Of a space that is looked through."""


class Telling:
    """How `Teller`s of this process speak, and of whose drawing.

    A search that goes on has its callbacks from a file, which can hold neither.
    """

    tell: ClassVar[Tell] = print
    drawer: ClassVar[Any] = None


class Teller(tune.Callback):  # type: ignore[misc]
    """Says how drawing goes on, and what every trial scored."""

    _next = 0.0
    _said = ""
    _asking: Any = None

    def __init__(self, asked: int) -> None:
        """`asked`: trials of this part of the search."""
        self._asked = asked

    def on_step_end(self, iteration: int, trials: list[Any], **_: Any) -> None:  # noqa: ARG002
        """Tell of images that are being drawn, now and then; Ray calls it all the time."""
        if self._asking is None and time.monotonic() >= self._next:
            self._next = time.monotonic() + TELL_SECONDS
            ask = Telling.drawer.progress.options(concurrency_group="telling")
            self._asking = ask.remote()
        if self._asking is None or not ray.wait([self._asking], timeout=0)[0]:
            return
        asking, self._asking = self._asking, None
        with suppress(ray.exceptions.RayActorError):  # it is started again
            line = ray.get(asking)
            if line and line != self._said:
                Telling.tell(line)
                self._said = line

    def on_trial_complete(self, trials: list[Any], trial: Any, **_: Any) -> None:
        """Tell a trial that ended well; Ray calls it."""
        others = (each for each in trials if each is not trial)
        finished = 1 + sum(each.status == "TERMINATED" for each in others)
        found = trial.last_result
        point = ", ".join(f"{key} {short(value)}" for key, value in found["point"].items())
        Telling.tell(
            f"trial {finished}/{self._asked}: val {found[SCORE]:.3f} after"
            f" {counted(found[TRAINED], 'training')}, {found[SIZE]} drawn images ({point})"
        )


def run_trials(
    ground: Ground, *, at_once: int | None = None, tell: Tell = lambda _line: None
) -> list[Trial]:
    """Search, or go on where a killed or shorter one stopped; return finished trials, best first.

    See `check_plans` for what is better known before.

    Needs Ray. Every trial takes a core; where the cluster has GPUs, images are drawn on them and
    trials take shares, see `planned`.

    Args:
        ground: what is searched and on what.
        at_once: trials side by side; None: as many as `planned`.
        tell: gets lines to show.

    Raises:
        ConfigError: an axis that fits nowhere, a search of another space in `ground.output`, or
            GPUs that the cluster does not have.
        SearchError: every trial failed; it says why the first one did.
    """
    check_space(ground.config)
    share = _share(ground.config)
    stages = _claim(ground)
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # else Tune prints tables at any verbosity
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"  # relative places mean in trials what they mean here
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # which ends a search as if it were complete
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if share.actors or share.gpus_per_trial:
        tell(f"{share}")
    at_once = at_once or share.trials
    trials: list[Trial] = []
    errors: list[BaseException] = []
    with (
        _quiet("ray.tune.execution.tune_controller"),  # tracebacks
        _quiet("ray.tune.tune"),
        _drawing(ground, share, tell) as drawer,
    ):
        trainable = tune.with_resources(
            tune.with_parameters(_trial, ground=ground, drawer=drawer),
            {"cpu": share.cpus_per_trial, "gpu": share.gpus_per_trial},
        )
        for number, count in enumerate(stages):
            folder = ground.output.resolve() / (f"tune-{number}" if number else "tune")
            tell(f"{count} trials in {folder}")
            results = _tuner(ground, trainable, folder, count, at_once, trials).fit()
            errors += results.errors
            trials += [_told(r.metrics) for r in results if TRAINED in (r.metrics or {})]
    if not trials:
        raise SearchError(
            f"all {sum(stages)} trials failed, the first with {_cause(errors)}",
            remedy="Mend the cause and run the same command again",
        )
    if errors:
        tell(f"{len(errors)} trials failed, the first with {_cause(errors)}")
    return sorted(trials, key=lambda t: (-t.trained, -t.score, t.num_synthetic))


def _share(config: SweepConfig) -> ClusterShare:
    """Return how trials and drawing share the Ray joined.

    Raises:
        ConfigError: see `gpus_per_training` and `planned`.
    """
    gpus_per_training(config.learner, config.gpus_per_training)
    wishes = Wishes(
        actor=config.generate.stream.gpus_per_actor,
        trial=config.gpus_per_training,
        usual=usual_share(config.learner),
    )
    return planned(int(ray.cluster_resources().get("CPU", 1)), cluster_gpus()[1], wishes)


@contextmanager
def _drawing(ground: Ground, share: ClusterShare, tell: Tell) -> Iterator[Any]:
    """Yield the actor that draws for trials, which has what it needs before they begin.

    It ends with them, and with it what samples: the winner's test may want the same GPUs.
    """
    drawer = ray.remote(
        num_cpus=0, max_restarts=-1, max_task_retries=-1, concurrency_groups={"telling": 1}
    )(Drawer).remote(ground.catalog, actors=share.actors, gpus_per_actor=share.gpus_per_actor)
    Telling.tell, Telling.drawer = tell, drawer
    try:
        begun = drawer.begin.remote()
        if not ray.wait([begun], timeout=PATIENCE_SECONDS)[0]:
            tell(f"waiting for a core and {told_share(share.gpus_per_actor)} to draw with")
        ray.get(begun)
        yield drawer
    finally:
        Telling.drawer = None
        ray.kill(drawer)


def _tuner(
    ground: Ground,
    trainable: Any,
    folder: Path,
    count: int,
    at_once: int,
    earlier: Sequence[Trial],
) -> tune.Tuner:
    """Return what tries `count` further points, or goes on trying them."""
    if tune.Tuner.can_restore(str(folder)):
        return tune.Tuner.restore(str(folder), trainable=trainable, restart_errored=True)
    return tune.Tuner(
        trainable,
        tune_config=_tune_config(ground, count, at_once, earlier),
        run_config=tune.RunConfig(
            name=folder.name,
            storage_path=str(folder.parent),
            verbose=0,
            callbacks=[Teller(count)],
        ),
    )


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


class NewPoints(OptunaSearch):  # type: ignore[misc]
    """Optuna's choice, but for points that were tried: those are not tried again while any is left.

    What it knows lies in its Optuna study alone, which Ray saves and restores.
    """

    values: Sequence[Sequence[Value] | None] = ()
    """Of every axis, None where they are not to be counted."""

    def learn(self, trial: optuna.trial.FrozenTrial) -> None:
        """Take a trial of an earlier part of the search into account."""
        self._ot_study.add_trial(trial)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the next point, or `FINISHED` where every one was tried; Ray calls it."""
        for _ in range(TRIES):
            point: dict[str, Any] = super().suggest(trial_id)
            if _key(point) not in self._tried(besides=trial_id):
                return point
            again = self._ot_trials.pop(trial_id)
            self._ot_study.tell(again, state=optuna.trial.TrialState.FAIL)
        untried = self._untried()
        if untried == []:
            return str(self.FINISHED)
        if untried:
            rng = np.random.Generator(np.random.Philox(key=[self._seed or 0, len(untried)]))
            self._ot_study.enqueue_trial(untried[rng.integers(len(untried))])
        return dict(super().suggest(trial_id))

    def _tried(self, *, besides: str | None = None) -> set[Key]:
        own = self._ot_trials[besides].number if besides else None
        failed = optuna.trial.TrialState.FAIL
        trials = self._ot_study.get_trials(deepcopy=False)
        return {_key(t.params) for t in trials if t.number != own and t.state != failed}

    def _untried(self) -> list[dict[str, Any]] | None:
        """Return the points that are left; None where there are too many to be counted."""
        axes = [values for values in self.values if values is not None]
        if len(axes) < len(self.values) or math.prod(map(len, axes)) > MOST_POINTS:
            return None
        tried = self._tried()
        points = (dict(zip(self._space, values, strict=True)) for values in product(*axes))
        return [point for point in points if _key(point) not in tried]


def _key(point: Mapping[str, Any]) -> Key:
    """Return what names a point, however its numbers were rounded."""
    told = {k: f"{v:.10g}" if isinstance(v, float) else str(v) for k, v in point.items()}
    return tuple(sorted(told.items()))


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


def _tune_config(
    ground: Ground, count: int, at_once: int, earlier: Sequence[Trial]
) -> tune.TuneConfig:
    config = ground.config
    two = config.objective == "score_and_size"
    search = NewPoints(
        space=distributions(config),
        metric=[SCORE, SIZE] if two else SCORE,
        mode=["max", "min"] if two else "max",
        points_to_evaluate=[] if earlier else [dict(point) for point in config.start],
        seed=config.seed + len(earlier),
    )
    search.values = [values_of(axis) for axis in config.space.values()]
    for trial in earlier:
        search.learn(as_optuna(trial, config))
    scheduler = None
    if config.halving is not None and not two and ground.trainings > config.halving.grace:
        scheduler = ASHAScheduler(
            time_attr=TRAINED,
            metric=SCORE,
            mode="max",
            max_t=ground.trainings,
            grace_period=config.halving.grace,
            reduction_factor=config.halving.factor,
        )
    return tune.TuneConfig(
        search_alg=search,
        scheduler=scheduler,
        num_samples=count,
        max_concurrent_trials=at_once,
        reuse_actors=True,  # a worker takes seconds to import what it needs
    )


def _claim(ground: Ground) -> list[int]:
    """Return how many trials the search has in each of its parts: it was extended after each.

    What is searched is noted in the output folder, or checked to be the same.

    Raises:
        ConfigError: it is not, or fewer trials are asked for than it has.
    """
    config, path = ground.config, ground.output / "sweep.yaml"
    noted, size = ground.output / "parts.json", num_points(config)
    asked = config.trials if size is None else min(config.trials, size)
    stages: list[int] = []
    if path.exists():
        before = load_config(SweepConfig, path)
        if before.digest != config.digest:
            old, new = (c.model_dump(mode="json") for c in (before, config))
            key = next(key for key in old if old[key] != new[key] and key not in GROWING)
            raise ConfigError(
                f"{ground.output} holds a search with another {key}"
                f" ({old[key]!r}, now {new[key]!r})",
                remedy="Go on with the configuration it began with, or give another --output",
            )
        stages = json.loads(noted.read_text()) if noted.exists() else [before.trials]
        if asked < sum(stages) and config.trials < before.trials:
            raise ConfigError(
                f"{ground.output} holds a search of {sum(stages)} trials, not {config.trials}",
                remedy=f"Ask for {sum(stages)} or more, or give another --output",
            )
    if asked > sum(stages):
        stages.append(asked - sum(stages))
    write_text(noted, json.dumps(stages) + "\n")
    write_text(path, to_yaml(config))
    return stages


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
