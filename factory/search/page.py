"""A finished search as one page: the final study, the best trials, the plots."""

from pathlib import Path

from factory.atomic import write_text
from factory.evaluate.study_html import TEMPLATE as STUDY
from factory.evaluate.study_html import Beside, Made, page_values
from factory.measure.page import rendered
from factory.search.config import SweepConfig
from factory.search.finish import Outcome
from factory.search.plots import Plots
from factory.search.trials import short

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
