"""`factory start`: a folder of images in, a plan in plain words out, which it runs when agreed."""

import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from factory.command_line import tell_next
from factory.errors import DataError
from factory.real.options import FOLDER, column_options, given_again, opened
from factory.terminal import say

if TYPE_CHECKING:
    from factory.real.describe import Description
    from factory.start.plan import Project, Proposal, Speed

FEW_IMAGES = 100
"""Up to so many are done with in a third of the hour that more may take."""


@click.command()
@click.argument("uri")
@column_options
@click.option("--output", type=FOLDER, help="Of all that is made. Default: runs/NAME.")
@click.option(
    "--task", type=click.Choice(["classes", "masks"]),
    help="Draw images of classes, or images with their masks. Default: what the images suggest.",
)  # fmt: skip
@click.option("--folds", type=click.Choice(["1", "3", "5"]), help="Default: as time allows.")
@click.option(
    "--minutes", type=click.FloatRange(1), help="For all of it. Default: 60; 20 of 100 images."
)
@click.option("--yes", is_flag=True, help="Run the plan without asking.")
def start(
    uri: str,
    output: Path | None,
    task: str | None,
    folds: str | None,
    minutes: float | None,
    yes: bool,
    **options: Any,
) -> None:
    """Your own images: say what they are, what they can show, and run the whole line on them.

    It proposes a plan with times that it measures here in some seconds: split, training, drawing,
    judgement, study. Each step is a command that can be typed alone; those that are done are not
    done again, so that the same words go on after an interruption.

    \b
    factory start my-images
    factory start my-images --minutes 120 --yes
    factory start glands --masks object --group patient
    """  # noqa: D301 -- \b is click's mark
    from factory.atomic import check_writable

    begun = time.monotonic()
    output = output or own_output(uri)
    check_writable(output)
    images, found, taken = looked_at(uri, options, task)
    minutes = minutes or usual_minutes(len(images.dataset))

    from factory.start.run import Journal, run_steps
    from factory.start.words import about_end, about_images, about_plan, about_study

    for line in about_images(found, images, taken):
        say(line)
    journal = Journal(
        output,
        {
            "data": images.dataset.fingerprint,
            "words": [uri, *images.words],
            "task": images.task,
            "folds": folds,
            "minutes": minutes,
            "output": str(output),
        },
    )
    if not journal.steps:
        say("measuring how fast this machine is ...")
        read = time.monotonic() - begun
        proposal, speed = _proposed(images, output, minutes=minutes, folds=folds, read=read)
        for line in (*about_study(proposal, images), *about_plan(proposal, speed)):
            say(line)
        again = ["start", uri, *given_again(options), "--output", str(output)]
        again += [*(("--task", task) if task else ()), *(("--folds", folds) if folds else ())]
        again += ["--minutes", f"{minutes:g}"]
        asks = sys.stdin.isatty() and not yes
        if not yes and not (asks and click.confirm("run it?")):
            tell_next(*again, "--yes")
            return
        journal.agree(proposal.steps)
    if status := run_steps(journal, tell=say):
        raise click.exceptions.Exit(status)
    for line in about_end([step.writes for step in journal.steps]):
        say(line)
    tell_next("gallery", "--catalog", output / "catalog", "--data", uri)


def usual_minutes(count: int) -> float:
    """Return the minutes that all of it may take where nobody says: some tens of images, less."""
    return 20.0 if count <= FEW_IMAGES else 60.0


def own_output(uri: str) -> Path:
    """Return where all that is made of images goes where nobody says: runs/NAME, of a table too."""
    named = Path(uri.partition("?")[0])
    return Path("runs") / ((named.stem if named.is_file() else named.name) or "mine")


def looked_at(
    uri: str, options: dict[str, Any], task: str | None
) -> "tuple[Project, Description, list[str]]":
    """Return the images as they are read, their description, and options that were taken for them.

    Patients that a column names, and masks that number objects, are taken as such: it was asked of
    nobody, so it is said. `options` is completed by them.

    Raises:
        DataError: images that cannot be read, or masks asked for where images have none.
    """
    from factory.real.columns import likely_groups
    from factory.real.describe import describe
    from factory.real.duplicates import grouped
    from factory.start.plan import Project

    dataset, taken = opened(uri, options, keep_faults=True), []
    found = describe(dataset)
    likely = likely_groups(list(found.attributes))
    if not found.grouped_by and likely:
        options["group"] = likely[0]
        taken.append(f"--group {likely[0]}: no patient, slide or study is in two parts")
    if found.masks_number_objects and options["masks"] is None:
        options["masks"] = "object"
        taken.append("--masks object: they number objects, which are one class to learn")
    if taken:
        dataset = opened(uri, options, tell=False, keep_faults=True)
        found = describe(dataset)
    if wrong := [*([] if options["skip_broken"] else found.broken), *found.faults]:
        raise DataError(
            f"{len(wrong)} {'thing is' if len(wrong) == 1 else 'things are'} wrong with {uri},"
            f" first: {wrong[0]}",
            remedy=f"`factory real describe {uri}` lists all; mend them, or pass --skip-broken",
        )
    masked = found.num_masks == found.num_images
    if task == "masks" and not masked:
        raise DataError(
            f"{found.num_images - found.num_masks} of {found.num_images} images have no mask",
            remedy="Give a mask for each, or leave --task masks out",
        )
    objects = options["masks"] is not None or len(found.classes) == 1
    suggested = "masks" if masked and objects else "classes"
    if masked and task is None:
        other = "classes" if suggested == "masks" else "masks"
        taken.append(f"--task {suggested}, as the images suggest; --task {other} is the other way")
    images = Project(
        uri=uri,
        known=known_classes(dataset.class_names),
        words=tuple(given_again(options)),
        dataset=dataset,
        groups=tuple(grouped(dataset)),
        task="masks" if (task or suggested) == "masks" else "classes",
    )
    return images, found, taken


def known_classes(names: Sequence[str]) -> dict[str, str]:
    """Return class -> its prompt, of those that wbc-base knows: case, plural and hyphens aside."""
    from factory.models.generator import EMBEDDED, open_generator

    prompts = open_generator(EMBEDDED["wbc-base"], name="wbc-base").prompts
    own = {_plain(name): prompt for name, prompt in prompts.items()}
    return {name: own[_plain(name)] for name in names if _plain(name) in own}


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name).casefold().removesuffix("s")


def _proposed(
    images: "Project", output: Path, *, minutes: float, folds: str | None, read: float
) -> "tuple[Proposal, Speed]":
    """Return the plan, with times that were measured."""
    from factory.real.splits import make_split
    from factory.start.plan import LAB, PRESETS, divisions, propose

    dataset = images.dataset
    ways = divisions(images)
    split = ways[-1].splits[0] if ways else make_split(
        dataset=dataset.fingerprint, ids=dataset.ids, labels=dataset.labels,
        groups=images.groups, fractions={"train": 1.0}, seed=0,
    )  # fmt: skip
    begun = time.monotonic()
    from factory.evaluate.backbones import DEFAULT, found_weights
    from factory.finetune.methods import load_training
    from factory.start.speed import measured

    without = ways[-1].without if ways else ()
    if images.in_another_lab(without):
        config = load_training(LAB)
    else:
        left = tuple(images.counts(without))
        config = load_training(PRESETS[images.task])
        config = config.model_copy(update={"only": left if images.task == "masks" else left[:1]})
    speed = measured(images, split, config, begun=begun, read=read)
    found = propose(
        images,
        speed,
        output,
        minutes=minutes,
        folds=None if folds is None else int(folds),
        features=found_weights(DEFAULT),
    )
    return found, speed
