"""What `factory start` says in plain words: what was found, what it can show, what it proposes."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from factory.command_line import typed
from factory.measure.intervals import counted
from factory.real.describe import THIN_IMAGES, Description
from factory.start.plan import ASKED_POINTS, Division, Project, Proposal, Speed
from factory.terminal import duration, rate

DRAWN_PX = 64
"""Side of what is drawn: that of wbc-base and of the preset of pairs."""


def about_images(found: Description, images: Project, taken: Sequence[str]) -> Iterator[str]:
    """Yield what lies there: counts, sizes, patients, masks; and what was taken without asking."""
    several = len(found.classes) > 1
    classes = f" of {len(found.classes)} classes" if several else ""
    yield f"found        {found.num_images} images{classes} in {images.uri}"
    for name, count in found.classes.items():
        thin = f"  thin: fewer than {THIN_IMAGES}" if count < THIN_IMAGES else ""
        yield f"  {name:<24} {count:>6}{thin}"
    (size, _), *more = found.sizes_px.items()
    others = f" and {len(more)} other sizes" if more else ""
    yield f"sizes        {size}{others}; all are brought to {DRAWN_PX} px, smaller detail is lost"
    by = ", ".join(found.grouped_by)
    alike = f", {counted(len(found.duplicates), 'set')} of near-duplicates stay together"
    if by:
        yield f"patients     {found.num_groups} groups, by {by}{alike if found.duplicates else ''}"
    else:
        yield f"patients     none named{alike if found.duplicates else ''}"
    if found.num_masks:
        values = ", ".join(map(str, list(found.mask_shares)[:6]))
        yield f"masks        {found.num_masks} of {found.num_images}, values {values}"
    else:
        yield "masks        none"
    for option in taken:
        yield f"taken        {option}"


def about_study(proposal: Proposal, images: Project) -> Iterator[str]:
    """Yield what a study of these images can show, and what it cannot."""
    division, unit = proposal.division, "Dice" if images.task == "masks" else "macro-F1"
    if division is None:
        yield (
            "cannot show  anything: these images cannot be divided into parts that each hold"
            " two classes; all are learnt from, and eyes alone judge what comes out"
        )
        yield f"to be tested each of two classes needs 3 images or more, better {THIN_IMAGES}"
        return
    for name in division.without:
        count = images.counts().get(name, 0)
        yield f"left out     {name}: too few to reach every part ({counted(count, 'image')})"
    yield (
        f"can show     differences of {division.points:.0f} points of {unit} or more, with a chance"
        f" of 80 %: {counted(division.tested, 'image')} tested in"
        f" {counted(division.folds, 'fold') if division.folds > 1 else 'one division'}"
    )
    for other in proposal.others:
        yield f"             {_way(other)}: {other.points:.0f} points (--folds {other.folds})"
    if division.points > ASKED_POINTS:
        yield (
            f"cannot show  smaller ones: {ASKED_POINTS:.0f} points take about"
            f" {division.needed} tested images"
        )
    if images.in_another_lab(division.without):
        yield (
            "expect       most with few labels: wbc-base knows these classes of another lab, and"
            " learns from your images how they look here, not what they are; in a study four"
            " labels a class gained 11 points so, one label 25 (arm stacked)"
        )
        return
    studies = (
        "drawn polyps brought a segmenter of 16 images 3.7 points of Dice, where their generator's"
        " base had seen another hospital's"
        if images.task == "masks"
        else "it did not help a classifier; one that had learnt another lab's did"
    )
    yield (
        "expect       little of a generator that learns the same few images as the learner: in"
        f" studies so far {studies}"
    )


def about_plan(proposal: Proposal, speed: Speed) -> Iterator[str]:
    """Yield the steps, each with its time and the command that can be typed alone."""
    cores = os.process_cpu_count() if hasattr(os, "process_cpu_count") else os.cpu_count()
    yield (
        f"plan         about {duration(proposal.seconds)} here ({counted(cores or 1, 'core')};"
        f" measured: {rate(1 / speed.step)} training steps/s, {rate(1 / speed.draw)} images/s)"
    )
    for number, step in enumerate(proposal.steps, start=1):
        yield f"{number:>3}  {step.title} (about {duration(step.seconds)})"
        yield f"     {typed(*step.words)}"


def about_end(proposal_writes: Sequence[Path]) -> Iterator[str]:
    """Yield pictures and pages that stand when all is done."""
    for path in dict.fromkeys(proposal_writes):
        if path.suffix in (".png", ".html") and path.exists():
            yield f"{'page' if path.suffix == '.html' else 'sheet':<12} {path}"


def _way(division: Division) -> str:
    return f"{division.folds} folds" if division.folds > 1 else "one division"
