"""A finished search as one page: the final study, the best trials, the plots."""

from collections.abc import Iterable
from pathlib import Path

from factory.atomic import write_text
from factory.evaluate.study_html import picture, table, to_html
from factory.search.config import SweepConfig
from factory.search.finish import Outcome
from factory.search.trials import short

SHOWN = 20
"""Best trials in the table."""


def write_page(path: Path, config: SweepConfig, outcome: Outcome, plots: Path) -> None:
    """Write the page; it holds the picture that `plot` wrote to `plots`.

    Raises:
        OutputError: `path` cannot be written.
    """
    more = _parts(config, outcome, plots.read_bytes())
    write_text(path, to_html(outcome.report, more=more))


def _parts(config: SweepConfig, outcome: Outcome, plots: bytes) -> Iterable[str]:
    yield f"<h2>The search: {len(outcome.trials)} trials</h2>"
    yield (
        f"<p>Images drawn: {outcome.drawn_share:.0%} of what trials without a common catalog would"
        f" have drawn. Workers idle between trials: {outcome.idle_share:.0%}. Trials were scored on"
        " validation images; the test images were looked at once, above.</p>"
    )
    yield picture(plots, "score by number of images, first two axes, importance, cost")
    keys = list(config.space)
    rows = [
        [
            f"{trial.score:.3f}",
            *(str(count) for count in (trial.trained, trial.num_synthetic)),
            *(short(trial.point[key]) for key in keys),
        ]
        for trial in outcome.trials[:SHOWN]
    ]
    yield table(["val score", "trainings", "drawn images", *keys], rows)
