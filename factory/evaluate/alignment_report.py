"""The figures of an alignment ablation: every training, means by weight, paired differences."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from factory.evaluate.alignment_bench import SetFigures
from factory.evaluate.drawing import Settings
from factory.evaluate.generation_accuracy import GenerationAccuracy
from factory.finetune.ablation import Arm
from factory.measure.intervals import Estimate, mean_over_seeds, paired_difference


def _accuracy(found: GenerationAccuracy | None) -> float:
    return found.overall.value if found else float("nan")


def _diversity(found: SetFigures) -> float:
    return found.diversity.value if found.diversity else float("nan")


MEASURES: Mapping[str, Callable[[SetFigures], float]] = {
    "accuracy, aligned expert": lambda found: _accuracy(found.expert),
    "accuracy, independent judge": lambda found: _accuracy(found.judge),
    "KID": lambda found: found.kid.value,
    "Frechet distance": lambda found: found.frechet,
    "1 - SSIM": _diversity,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One measure: its mean by weight, and the differences to the first weight, over the seeds."""

    measure: str
    means: Mapping[float, Estimate]
    differences: Mapping[float, Estimate]


@dataclass(frozen=True, slots=True, kw_only=True)
class AblationReport:
    """Everything that was measured. `ceiling`: expert and judge on unseen real images."""

    arms: Sequence[tuple[Arm, str, SetFigures]]
    """With the model_id of each."""
    comparisons: Sequence[Comparison]
    base: SetFigures
    floor: SetFigures
    ceiling: Mapping[str, GenerationAccuracy]
    settings: Settings
    features: str
    judge_features: str
    expert_val_accuracy: float
    split_digest: str
    per_class: int


def compare(figures: Mapping[Arm, SetFigures]) -> list[Comparison]:
    """Return a comparison for every measure; pairs share their seed.

    Seeds that lack a weight are left out, so that every mean is of the same seeds. With fewer than
    two whole seeds there is nothing to compare: the list is empty.
    """
    weights = list(dict.fromkeys(arm.weight for arm in figures))
    seeds = [
        seed
        for seed in dict.fromkeys(arm.seed for arm in figures)
        if all(Arm(weight=weight, seed=seed) in figures for weight in weights)
    ]
    if len(seeds) < 2:
        return []

    def one(measure: str, of: Callable[[SetFigures], float]) -> Comparison:
        values = {w: [of(figures[Arm(weight=w, seed=s)]) for s in seeds] for w in weights}
        first = values[weights[0]]
        return Comparison(
            measure=measure,
            means={w: mean_over_seeds(found) for w, found in values.items()},
            differences={w: paired_difference(values[w], first) for w in weights[1:]},
        )

    return [one(measure, of) for measure, of in MEASURES.items()]


def to_markdown(report: AblationReport) -> str:
    """Return the report as tables: by weight, paired, per class, and every training."""
    return "\n".join(
        [
            *_head(report),
            *_by_weight(report.comparisons),
            *_per_class(report),
            *_trainings(report),
            "",
        ]
    )


def _head(report: AblationReport) -> list[str]:
    drawn, ceiling = report.settings, report.ceiling
    return [
        f"{report.per_class} images a class and training, guidance {drawn.guidance_scale:g},"
        f" {drawn.num_inference_steps} steps {drawn.scheduler}, seed {drawn.seed}; distances to the"
        f" train part in {report.features}; judge on {report.judge_features}, fitted to the val"
        f" part; split {report.split_digest}.",
        "",
        f"On unseen real images (test part) the expert is right in {ceiling['expert'].overall},"
        f" the judge in {ceiling['judge'].overall}; the expert on val in"
        f" {report.expert_val_accuracy:.3f}.",
        "",
    ]


def _by_weight(comparisons: Sequence[Comparison]) -> list[str]:
    if not comparisons:
        return ["Fewer than two seeds are finished under every weight: nothing to compare.", ""]
    weights = list(comparisons[0].means)
    count = comparisons[0].means[weights[0]].n
    columns = [
        *(f"w = {w:g}" for w in weights),
        *(f"w = {w:g} minus {weights[0]:g}, paired" for w in weights[1:]),
    ]
    rows = [
        [
            found.measure,
            *(str(found.means[w]) for w in weights),
            *(str(found.differences[w]) for w in weights[1:]),
        ]
        for found in comparisons
    ]
    lead = f"Means over {count} seeds and paired differences, with Student's 95 % intervals:"
    return [lead, "", *_table(["", *columns], rows), ""]


def _per_class(report: AblationReport) -> list[str]:
    """Return the judge's agreement with each class, all seeds of a weight together."""
    weights = list(dict.fromkeys(arm.weight for arm, _, _ in report.arms))
    names = list(report.ceiling["judge"].by_class)

    def share(name: str, weight: float) -> str:
        found = [own.judge for arm, _, own in report.arms if arm.weight == weight]
        right = [each.by_class[name].value for each in found if each]
        return f"{sum(right) / len(right):.2f}"

    rows = [
        [name, *(share(name, w) for w in weights), f"{report.ceiling['judge'].by_class[name]}"]
        for name in names
    ]
    columns = ["judge sees", *(f"w = {w:g}" for w in weights), "real, unseen"]
    return [*_table(columns, rows), ""]


def _trainings(report: AblationReport) -> list[str]:
    rows = [_row(f"w = {arm.weight:g}, seed {arm.seed}", own) for arm, _, own in report.arms]
    rows += [_row("base before fine-tuning", report.base), _row("real, unseen", report.floor)]
    return _table(["", "n", "expert", "judge", "KID", "Frechet distance", "1 - SSIM"], rows)


def _row(name: str, found: SetFigures) -> list[str]:
    return [
        name,
        str(found.num_images),
        str(found.expert.overall) if found.expert else "",
        str(found.judge.overall) if found.judge else "",
        str(found.kid),
        f"{found.frechet:.1f}",
        str(found.diversity or ""),
    ]


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(columns), *rows)]
