"""What a study found: verdicts, floor and controls, differences in pairs."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from catalog.results import Effect
from factory.evaluate.compare import ONE_GROUP, Comparison, Repeat, Tally, compare, crossed, holm
from factory.evaluate.config import StudyConfig
from factory.evaluate.scores import MajorityRate, majority_rate
from factory.evaluate.study_drawn import (
    DrawnFigures,
    copies_warning,
    diversity_rows,
    measure_drawn,
    privacy_lines,
)
from factory.evaluate.subgroups import SubgroupFigures, measure_subgroups, subgroup_tables
from factory.evaluate.tasks import TASKS, tallies_by_arm
from factory.evaluate.units import Material, Result, Unit
from factory.evaluate.verdict import Finding, effect_of, finding_of, sentence
from factory.evaluate.worth import (
    CURVE_HEADS,
    CURVE_NOTE,
    LearningCurve,
    curve_rows,
    learning_curve,
)
from factory.measure.intervals import counted, spread


@dataclass(frozen=True, kw_only=True)
class ArmScores:
    """All trainings of one arm."""

    num_real: int
    num_synthetic: int
    """Training rows, of the first fold and seed."""
    val: tuple[float, ...]
    """Of the metric that arms are compared by."""
    test: Mapping[str, tuple[float, ...]]
    """By metric."""
    recall: Mapping[str, float]
    """Mean by class, of classifiers."""
    confusion: tuple[tuple[float, ...], ...]
    """Test images of class i that were called j, over all trainings; of classifiers."""
    seconds: float
    """Of all trainings."""


@dataclass(frozen=True, kw_only=True)
class StudyReport:
    """Figures of a study; `comparisons[arm][control]` are differences of the test metric."""

    name: str
    task: str
    num_folds: int
    num_seeds: int
    num_test: int
    class_names: tuple[str, ...]
    floor: tuple[MajorityRate, ...]
    """Per fold, of classifiers."""
    arms: Mapping[str, ArmScores]
    baseline: str
    comparisons: Mapping[str, Mapping[str, Comparison]]
    adjusted_p: Mapping[str, float]
    """Holm-adjusted p of each arm against the baseline, where there is one."""
    baselines: Mapping[str, str] = field(default_factory=dict)
    """Per arm with synthetic images: the best control of equally many real images, by val."""
    margin: float = 0.0
    """A gain whose interval stays below it is said to be none."""
    primary: str | None = None
    """The comparison that was named beforehand, and its digest."""
    curve: LearningCurve | None = None
    knew: Mapping[str, str] = field(default_factory=dict)
    """What each arm knew, in words."""
    num_draws: int = 1
    num_generators: int = 1
    notes: tuple[str, ...] = ()
    drawn: DrawnFigures | None = None
    """None: no arm has both real and drawn images."""
    subgroups: Mapping[str, SubgroupFigures] = field(default_factory=dict)

    def against(self, arm: str) -> Comparison:
        """Return the comparison of an arm with its baseline."""
        return self.comparisons[arm][self.baselines.get(arm, self.baseline)]

    @property
    def controls(self) -> tuple[str, ...]:
        """Arms that others are compared with."""
        return tuple(dict.fromkeys(c for found in self.comparisons.values() for c in found))

    @property
    def verdicts(self) -> dict[str, str]:
        """One sentence per arm with synthetic images."""
        return {
            arm: sentence(
                arm,
                self.baselines.get(arm, self.baseline),
                self.against(arm).difference,
                margin=self.margin,
                false_claim=self.against(arm).false_claim,
            )
            for arm in self.comparisons
        }

    @property
    def findings(self) -> dict[str, Finding]:
        """What was found, per arm with synthetic images, against its baseline."""
        return {a: finding_of(self.against(a).difference, self.margin) for a in self.comparisons}

    @property
    def effects(self) -> dict[str, Effect]:
        """'helps', 'hurts' or 'no evidence' per arm with synthetic images."""
        return {a: effect_of(self.against(a).difference) for a in self.comparisons}

    @property
    def primary_verdict(self) -> str | None:
        """The sentence of the comparison that was named beforehand."""
        if self.primary is None:
            return None
        arm, _, rest = self.primary.partition(" minus ")
        control = rest.rpartition(" (")[0] or rest
        found = self.comparisons[arm][control]
        told = sentence(
            arm, control, found.difference, margin=self.margin, false_claim=found.false_claim
        )
        return f"named beforehand ({self.primary.rpartition(' (')[2].rstrip(')')}): {told}"

    def to_json(self) -> dict[str, object]:
        """Return plain data."""
        told = {"verdicts": self.verdicts, "findings": self.findings}
        return {**asdict(self), **told, "primary_verdict": self.primary_verdict}


def make_report(
    config: StudyConfig,
    units: Sequence[Unit],
    results: Mapping[str, Result],
    material: Material,
    *,
    notes: Sequence[str] = (),
    values: Mapping[str, str] | None = None,
    knew: Mapping[str, str] | None = None,
) -> StudyReport:
    """Return the figures of a finished study.

    `values` names the subgroup of test images, `knew` says what each arm knew.

    The baseline is chosen by val scores, never by test ones.

    Raises:
        DataError: a single training per arm.
    """
    task = TASKS[config.learner.task]
    tallies = tallies_by_arm(((unit, results[unit.id]) for unit in units), material)
    arms = {name: _scores(name, units, results, tallies[name], material) for name in config.arms}

    def best_of(names: Sequence[str]) -> str:
        if config.baseline in names:
            return str(config.baseline)
        return max(names, key=lambda name: float(np.mean(arms[name].val or (0.0,))))

    baselines = {arm: best_of(config.controls_of(arm)) for arm in config.mixed}
    baseline = config.baseline or next(iter(baselines.values()), best_of(config.controls))
    named = config.primary.split(" minus ") if config.primary else ["", ""]
    if named[0] and named[0] not in baselines:
        baselines[named[0]] = named[1]
    comparisons = {
        arm: {
            c: compare(tallies[arm], tallies[c], task.score)
            for c in config.arms
            if c in (*config.controls_of(arm), *config.bounds_of(arm)) or [arm, c] == named
        }
        for arm in (*config.mixed, *({named[0]} - {"", *config.mixed}))
    }
    told = {
        a: p for a in comparisons if (p := comparisons[a][baselines.get(a, baseline)].p) is not None
    }
    several = bool(config.draws or config.generators)
    adds = {name: crossed(tallies[name], task.score) for name in config.arms} if several else {}
    folds = {unit.fold: unit for unit in reversed(units)}
    return StudyReport(
        name=config.name,
        task=config.learner.task,
        num_folds=len(folds),
        num_seeds=len(config.seeds),
        num_test=sum(len(unit.test) for unit in folds.values()),
        class_names=material.class_names,
        floor=tuple(_floor(folds[fold], material) for fold in sorted(folds))
        if task.classes
        else (),
        arms=arms,
        baseline=baseline,
        comparisons=comparisons,
        adjusted_p=dict(zip(told, holm(list(told.values())), strict=True)),
        baselines=baselines,
        margin=config.margin,
        primary=f"{config.primary} ({config.primary_digest})" if config.primary else None,
        curve=learning_curve(config, units, adds, best_of) if several else None,
        knew=knew or {},
        num_draws=config.draws or 1,
        num_generators=max(1, len(config.generators)),
        notes=tuple(notes),
        drawn=measure_drawn(units, material),
        subgroups=measure_subgroups(
            units, results, material, values=values or {}, mixed=config.mixed, baseline=baseline
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of texts under their heads; the first column names the row."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]


Part = str | list[str] | Table
"""Of a report: a paragraph (a title where it begins with '#'), a list, or a table."""


def to_markdown(report: StudyReport) -> str:
    """Return the report as Markdown, verdicts first."""
    return as_markdown(parts_of(report))


def to_text(report: StudyReport) -> str:
    """Return the report for a terminal, verdicts first."""
    return as_text(parts_of(report))


def as_markdown(parts: Iterable[Part]) -> str:
    """Return parts as Markdown."""
    told = []
    for part in parts:
        if isinstance(part, Table):
            first, *lines = (f"| {' | '.join(line)} |" for line in (part.heads, *part.rows))
            told.append("\n".join([first, f"|{'---|' * len(part.heads)}", *lines]))
        else:
            told.append(part if isinstance(part, str) else "\n".join(f"- {line}" for line in part))
    return "\n\n".join(told) + "\n"


def as_text(parts: Iterable[Part]) -> str:
    """Return parts as plain text, with columns that stand below each other."""
    told = []
    for part in parts:
        if isinstance(part, Table):
            lines = [part.heads, *part.rows]
            widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
            told.append("\n".join(_aligned(line, widths) for line in lines))
        else:
            told.append(part.lstrip("# ") if isinstance(part, str) else "\n".join(part))
    return "\n\n".join(told) + "\n"


def _aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = zip(line, widths, strict=True)
    cells = [first[0].ljust(first[1]), *(text.rjust(width) for text, width in others)]
    return "  ".join(cells).rstrip()


def parts_of(report: StudyReport) -> Iterator[Part]:
    """Yield what a report says, verdicts first."""
    shown = TASKS[report.task].shown
    titles = list(shown.values())
    yield f"# {report.name}"
    if report.primary_verdict:
        yield f"**{report.primary_verdict}**"
    if lines := [*report.verdicts.values(), *(f"note: {note}" for note in report.notes)]:
        yield lines
    if warning := copies_warning(report.drawn):
        yield warning
    yield (
        f"Tested on {report.num_test} real images: {counted(report.num_folds, 'fold')} x"
        f" {counted(report.num_seeds, 'seed')}{drawn_again(report)}; mean and standard deviation"
        " over trainings."
        f" Baseline: {report.baseline}."
    )
    rows = [["majority class", "", "", "", *floor_shown(report)]] if report.floor else []
    for name, arm in report.arms.items():
        told = [spread(arm.test.get(metric, ())) for metric in shown]
        rows.append([name, str(arm.num_real), str(arm.num_synthetic), spread(arm.val), *told])
    yield Table(heads=["arm", "real rows", "synthetic", f"val {titles[0]}", *titles], rows=rows)
    if report.knew:
        yield "Who knew what:"
        yield [f"{name}: {told}" for name, told in report.knew.items()]
    if report.comparisons:
        controls = report.controls
        yield f"Differences of {titles[0]} in pairs. {interval_note(report)}"
        yield Table(
            heads=["arm", *(f"minus {name}" for name in controls), "p"],
            rows=[
                [
                    name,
                    *(str(found[c].difference) if c in found else "" for c in controls),
                    f"{report.adjusted_p[name]:.3g}" if name in report.adjusted_p else "",
                ]
                for name, found in report.comparisons.items()
            ],
        )
    if report.curve is not None:
        yield CURVE_NOTE
        yield Table(heads=CURVE_HEADS, rows=curve_rows(report.curve))
    for caption, heads, rows in subgroup_tables(report.subgroups, titles[0], report.baseline):
        yield f"{caption}:"
        yield Table(heads=heads, rows=rows)
    if report.comparisons and report.drawn is not None:
        yield from _drawn_parts(report.drawn)


def interval_note(report: StudyReport) -> str:
    """Return what the intervals of the differences are, and p."""
    over = report.against(next(iter(report.comparisons))).over
    if over == ONE_GROUP:
        return (
            "No interval is known: the test images are of one group (patient), which says nothing"
            " of others. `factory real split --folds 5` tests more of them."
        )
    return (
        f"95 % intervals over {over}: Wilson's with Student's quantiles, which stay within 100"
        f" points; not adjusted for {counted(len(report.comparisons), 'arm')}. p: of the same test"
        " against the baseline, adjusted after Holm."
    )


def drawn_again(report: StudyReport) -> str:
    """Return ' x 50 draws of the shots x 2 generators', or nothing of one each."""
    draws = f" x {counted(report.num_draws, 'draw')} of the shots" if report.num_draws > 1 else ""
    several = report.num_generators > 1
    return draws + (f" x {counted(report.num_generators, 'generator')}" if several else "")


def _drawn_parts(drawn: DrawnFigures) -> Iterator[Part]:
    yield (
        f"{drawn.num_drawn} drawn images of arm {drawn.arm}, fold {drawn.fold}; diversity is 1 -"
        " mean SSIM of pairs."
    )
    yield Table(heads=["class", "drawn", "unseen real"], rows=diversity_rows(drawn))
    yield privacy_lines(drawn)


def floor_shown(report: StudyReport) -> list[str]:
    """Return what naming the majority class would score, by metric of the report's table."""
    floor = [
        [getattr(each, metric, None) for each in report.floor]
        for metric in TASKS[report.task].shown
    ]
    return [spread([value for value in values if value is not None]) for values in floor]


def _scores(
    name: str,
    units: Sequence[Unit],
    results: Mapping[str, Result],
    tallies: Mapping[Repeat, Tally],
    material: Material,
) -> ArmScores:
    own = [unit for unit in units if unit.manifest.arm == name]
    found = [results[unit.id] for unit in own]
    task = TASKS[own[0].learner.task]
    return ArmScores(
        num_real=own[0].manifest.num_real,
        num_synthetic=own[0].manifest.num_synthetic,
        val=tuple(result.val[task.metric] for result in found if task.metric in result.val),
        test={
            metric: tuple(result.test[metric] for result in found if metric in result.test)
            for metric in task.shown
        },
        recall=_recall(found, material.class_names),
        confusion=_confusion(tallies, material) if task.classes else (),
        seconds=sum(result.seconds for result in found),
    )


def _recall(found: Sequence[Result], class_names: Sequence[str]) -> dict[str, float]:
    """Return the mean recall of the classes that have test images."""
    told = {}
    for name in class_names:
        key = f"recall/{name}"
        if values := [result.test[key] for result in found if key in result.test]:
            told[name] = float(np.mean(values))
    return told


def _confusion(
    tallies: Mapping[Repeat, Tally], material: Material
) -> tuple[tuple[float, ...], ...]:
    """Return the counts (K, K) of all trainings together."""
    sums = sum(tally.counts.sum(axis=0) for tally in tallies.values())
    table = np.asarray(sums).reshape(len(material.class_names), -1)
    return tuple(tuple(row) for row in table.tolist())


def _floor(unit: Unit, material: Material) -> MajorityRate:
    train = [r.id for r in unit.manifest.rows if not (r.synthetic or r.made)] or list(unit.val)
    labels = material.class_indices(sorted(set(train)))
    return majority_rate(material.class_names, labels, material.class_indices(unit.test))
