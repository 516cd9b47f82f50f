"""What was measured of a base generator at one setting, and how it reads as Markdown."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from factory.evaluate.base_figures import AttributeFigures, Fidelity, Named
from factory.evaluate.drawing import Settings
from factory.measure.copies import PERCENTILE, CopyCheck
from factory.measure.intervals import Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseReport:
    """Everything measured; `dataclasses.asdict` of it is report.json."""

    generator: str
    model_id: str
    steps_trained: int | None
    settings: Settings
    features: str
    split_digest: str
    named: Named
    fidelity: Fidelity
    scale: str | None
    """What is said where objects look larger or smaller in drawn images than in real ones."""
    copies: Sequence[CopyCheck]
    attributes: Sequence[AttributeFigures]


def to_markdown(report: BaseReport) -> str:
    """Return the report: a table of all figures, one by class, one by attribute."""
    sections = [_head(report), *_overall(report), "", *_by_class(report)]
    if report.attributes:
        sections += ["", *_by_attribute(report.attributes)]
    return "\n".join([*sections, "", *_notes(report), ""])


def _head(report: BaseReport) -> str:
    how = report.settings
    steps = "" if report.steps_trained is None else f", {report.steps_trained} steps trained"
    return (
        f"# {report.generator} ({report.model_id}{steps})\n\n"
        f"guidance_scale {how.guidance_scale:g}, {how.num_inference_steps} steps of"
        f" {how.scheduler}, seed {how.seed}; split {report.split_digest}\n"
    )


def _overall(report: BaseReport) -> Iterator[str]:
    named, fidelity = report.named, report.fidelity
    yield "| figure | drawn | n | unseen real cells (floor) | n |"
    yield "| --- | --- | --- | --- | --- |"
    yield _row("judge names the class", named.drawn, named.drawn.n, named.real, named.real.n)
    yield _row(
        f"KID ({report.features}) x 1000",
        _thousandfold(fidelity.kid),
        fidelity.num_images,
        _thousandfold(fidelity.kid_floor),
        fidelity.num_images,
    )
    yield _row(
        f"Fréchet distance ({report.features})",
        f"{fidelity.frechet:.1f}",
        fidelity.num_images,
        f"{fidelity.frechet_floor:.1f}",
        fidelity.num_images,
    )
    for check in report.copies:
        yield _row(
            f"nearer to training than {check.threshold:.3g} ({check.space})",
            check.share,
            check.share.n,
            f"{PERCENTILE / 100:.3f} by construction",
            check.num_held_out,
        )
        yield _row(
            f"median distance to training ({check.space})",
            f"{check.median_drawn:.3g}",
            check.share.n,
            f"{check.median_held_out:.3g}",
            check.num_held_out,
        )


def _by_class(report: BaseReport) -> Iterator[str]:
    named, fidelity = report.named, report.fidelity
    yield "| class | judge, drawn | judge, real | KID x 1000 | floor | drawn ones are called |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for name, calls in named.called.items():
        yield _row(
            name,
            named.drawn_by_class[name],
            named.real_by_class[name],
            _thousandfold(fidelity.kid_by_class[name]),
            _thousandfold(fidelity.kid_floor_by_class[name]),
            ", ".join(f"{said} {n}" for said, n in calls.items()),
        )


def _by_attribute(attributes: Sequence[AttributeFigures]) -> Iterator[str]:
    yield "| attribute | prompts | judge reads | sees what was asked (chance 0.5) | n | real | n |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for own in attributes:
        yield _row(
            own.attribute,
            " / ".join(own.prompts),
            own.space,
            own.drawn,
            own.drawn.n,
            own.real,
            own.real.n,
        )


def _notes(report: BaseReport) -> Iterator[str]:
    if report.scale is not None:
        yield f"{report.scale}."
    yield "Square brackets: 95 % intervals."
    yield (
        f"KID and Fréchet distance are measured to {report.fidelity.num_reference} training cells,"
        " as many of every class; the floor puts unseen real cells in the place of the drawn ones,"
        " the same number of every class."
    )
    yield (
        "The judges are fitted to cells of the val part only; their own figures on real cells are"
        " cross-fitted in two halves, so by judges fitted to half as many cells, and are balanced:"
        " every class, or value, weighs the same."
    )


def _thousandfold(kid: Estimate) -> str:
    return f"{1000 * kid.value:.2f} [{1000 * kid.low:.2f}, {1000 * kid.high:.2f}]"


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"
