"""The end of a search: the winner and the controls on the test part, once; what is written down."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from factory.atomic import write_text
from factory.config import to_yaml
from factory.evaluate.config import StudyConfig
from factory.evaluate.placement import Room
from factory.evaluate.study import plan_study
from factory.evaluate.study_report import Part, StudyReport, Table, as_markdown, parts_of
from factory.evaluate.study_run import Execute, record_study, run_study
from factory.search.config import DEFAULT, WINNER, Setting, beside_default, study_of
from factory.search.objective import Draw, Ground, setting_of
from factory.search.trials import Trial, short
from factory.terminal import Tell


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A finished search."""

    trials: tuple[Trial, ...]
    """Best first."""
    report: StudyReport
    """Of the winner and the controls on the test part."""

    @property
    def drawn_share(self) -> float:
        """Images drawn, as a share of what the trials would have drawn each for itself."""
        return sum(t.drawn for t in self.trials) / max(1, sum(t.asked for t in self.trials))

    @property
    def idle_share(self) -> float:
        """Share of the workers' time without a trial, see `idle_share`."""
        return idle_share([(t.begun, t.ended) for t in self.trials])


def idle_share(spans: list[tuple[float, float]]) -> float:
    """Return the share of workers' time in which none of `spans` (begin, end) ran.

    As many workers are counted as spans ever overlap, until the last begin: a worker that has
    nothing more to do is not idle between trials.
    """
    events = sorted([(b, 1) for b, _ in spans] + [(e, -1) for _, e in spans])
    running = most = 0
    for _, change in events:
        running += change
        most = max(most, running)
    first, last = min(b for b, _ in spans), max(b for b, _ in spans)
    busy = sum(max(0.0, min(e, last) - b) for b, e in spans)
    return 1 - busy / (most * (last - first)) if last > first else 0.0


def finish(
    ground: Ground,
    trials: list[Trial],
    draw: Draw,
    execute: Execute,
    *,
    room: Room | None = None,
    tell: Tell | None = None,
) -> Outcome:
    """Test the best point against the controls and the first starting point, and write all down.

    `best.yaml` is a job that `jobs/generate_wbc.py` takes: how the winner's images are drawn.

    Raises:
        FactoryError: see `plan_study` and `run_study`.
    """
    study, setting = _last_study(ground, trials[0], draw)
    planned = plan_study(study, ground.inputs())
    place = ground.output / "final"
    report = run_study(planned, place, execute, room=room, tell=tell)
    record_study(planned, report, place, ground.catalog, now=datetime.now(UTC))
    outcome = Outcome(trials=tuple(trials), report=report)
    write_text(ground.output / "best.yaml", to_yaml(setting.generate))
    stored = {
        "trials": [asdict(trial) for trial in trials],
        "drawn_share": outcome.drawn_share,
        "idle_share": outcome.idle_share,
        "final": report.to_json(),
    }
    write_text(ground.output / "sweep.json", json.dumps(stored, indent=1) + "\n")
    write_text(ground.output / "sweep.md", as_markdown(summary(ground, outcome)))
    return outcome


def _last_study(ground: Ground, best: Trial, draw: Draw) -> tuple[StudyConfig, Setting]:
    """Return the study that touches the test part, and what the best point means.

    The default stands beside the winner where the two are not one, and one learner serves both.
    """
    setting = setting_of(ground, best.point)
    run_id, _ = draw(setting)
    study = study_of(ground.config, setting, run_id, arm_name=WINNER, final=True)
    if not ground.config.start:
        return study, setting
    default = setting_of(ground, ground.config.start[0])
    if default == setting or default.learner != setting.learner:
        return study, setting
    drawn = {WINNER: (setting, run_id), DEFAULT: (default, draw(default)[0])}
    return beside_default(study, ground.config, drawn), setting


def summary(ground: Ground, outcome: Outcome, *, shown: int = 10) -> Iterator[Part]:
    """Yield what the search found: the final study first, then the best trials."""
    keys = list(ground.config.space)
    yield from parts_of(outcome.report)
    yield f"## The search: {len(outcome.trials)} trials"
    yield (
        f"Images drawn: {outcome.drawn_share:.0%} of what trials without a common catalog would"
        f" have drawn. Workers idle between trials: {outcome.idle_share:.0%}."
    )
    yield Table(
        heads=["val score", "trainings", "synthetic", *keys],
        rows=[
            [
                f"{trial.score:.3f}",
                str(trial.trained),
                str(trial.num_synthetic),
                *(short(trial.point[key]) for key in keys),
            ]
            for trial in outcome.trials[:shown]
        ],
    )
