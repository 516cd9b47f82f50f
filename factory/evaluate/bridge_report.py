"""The figures of a judged bridge as Markdown tables."""

from collections.abc import Sequence

from factory.evaluate.bridge_figures import BetweenFigures, DirectionFigures
from factory.evaluate.judge_bridge import BridgeReport, TripFigures


def to_markdown(report: BridgeReport) -> str:
    """Return the report as text and tables."""
    lines = [
        f"Run {report.run_id} of generator {report.model_id}. Means with Student's 95 % intervals"
        f" over sources; expert: {report.expert_val_accuracy:.3f} of unseen real images right."
        f" Network evaluations per source and direction: {report.evaluations.value:.0f}.",
        "",
        *([report.scale, ""] if report.scale else ()),
        *_directions(report.directions),
    ]
    for each in report.directions:
        lines += _by_k(each)
    for each, scored in zip(report.directions, report.between, strict=False):
        lines += _between(each, scored)
    return "\n".join([*lines, *(_trips(report.trips) if report.trips else ()), ""])


def _directions(found: Sequence[DirectionFigures]) -> list[str]:
    rows = [
        [
            f"{each.source} to {each.target}",
            str(each.num_sources),
            str(each.expert_rises),
            str(each.ssim_falls),
            str(each.steps_ssim_falls),
            str(each.odds_rise),
            str(each.label_follows),
            str(each.arrived),
        ]
        for each in found
    ]
    columns = [
        "direction",
        "sources",
        "Spearman of k and the expert's p(target)",
        "Spearman of k and -SSIM",
        "steps at which SSIM falls",
        "Spearman of k and the odds",
        "Spearman of label and p(target)",
        "deepest is seen as target",
    ]
    return [*_table(columns, rows), ""]


def _by_k(found: DirectionFigures) -> list[str]:
    rows = [
        [str(k), *(f"{each.value:.3f} ± {each.value - each.low:.3f}" for each in column)]
        for k, column in enumerate(
            zip(
                *(found.depth, found.label, found.target_probability, found.odds, found.ssim),
                strict=True,
            ),
            1,
        )
    ]
    columns = ["k", "depth", "label", "expert's p(target)", "odds", "SSIM to source"]
    return [f"{found.source} to {found.target}:", "", *_table(columns, rows), ""]


def _between(pair: DirectionFigures, found: BetweenFigures) -> list[str]:
    rows = [
        [
            name,
            str(score.n),
            str(score),
            f"{found.above_source[name]:.3f}" if name in found.above_source else "",
            f"{found.below_target[name]:.3f}" if name in found.below_target else "",
        ]
        for name, score in found.scores.items()
    ]
    columns = ["unseen real", "n", f"odds of {pair.target}", f"above {pair.source}"]
    return [*_table([*columns, f"below {pair.target}"], rows), ""]


def _trips(found: Sequence[TripFigures]) -> list[str]:
    rows = [
        [
            each.domain,
            str(each.to_kept.n),
            str(each.steps),
            str(each.corrections),
            str(each.evaluations),
            *(f"{e.value:.1f} [{e.low:.1f}, {e.high:.1f}]" for e in (each.to_kept, each.to_real)),
            f"{each.autoencoder.value:.1f}",
        ]
        for each in found
    ]
    columns = [
        "unseen real, there and back",
        "n",
        "steps",
        "corrections",
        "evaluations",
        "PSNR dB to the autoencoder's image",
        "PSNR dB to the real image",
        "autoencoder alone",
    ]
    return _table(columns, rows)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(columns), *rows)]
