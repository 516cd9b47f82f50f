"""The options by which commands open real images: which columns, which folder, what to skip."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from factory.terminal import say

if TYPE_CHECKING:  # numpy, Pillow and pyarrow wait until a command runs
    from factory.real.dataset import NotRead, RealDataset

Command = TypeVar("Command", bound=Callable[..., Any])
FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)


def column_options(command: Command) -> Command:
    """Add the options that `opened` takes."""
    options = [
        click.option("--label", metavar="COLUMN", help="Column of the class."),
        click.option("--image", metavar="COLUMN", help="Column of path or bytes."),
        click.option("--group", metavar="COLUMN", help="Column of patient, slide or sequence."),
        click.option("--attribute", "attributes", multiple=True, metavar="COLUMN"),
        click.option("--root", type=FOLDER, help="Where paths in a table start."),
        click.option(
            "--masks",
            metavar="RULE",
            help="Mask values: object (all but 0), a threshold 128, values 0,255, or none.",
        ),
        click.option(
            "--crop", metavar="PART", help="Central part: of the sides 0.7, or a field 80um."
        ),
        click.option(
            "--pixel-size-um", metavar="SIZE|COLUMN", help="Side of a pixel, or its column."
        ),
        click.option("--follow-links", is_flag=True, help="Also where they lead out of the data."),
        click.option("--skip-broken", is_flag=True, help="Leave broken images out and list them."),
        click.option("--download", is_flag=True, help="Fetch a MedMNIST set if it is missing."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def given_again(options: Mapping[str, Any]) -> list[str]:
    """Return the words that give `column_options` again: a set is the same in every command."""
    words = []
    for name, value in options.items():
        option = "--" + name.replace("_", "-").removesuffix("s" if name == "attributes" else "")
        for each in value if isinstance(value, tuple) else (value,):
            if each is not None and each is not False:
                words += [option] if each is True else [option, str(each)]
    return words


def opened(
    uri: str, options: dict[str, Any], *, tell: bool = True, keep_faults: bool = False
) -> "RealDataset":
    """Return the dataset at `uri`; what was left out or not read is told on the error stream.

    Args:
        tell: whether it is told; else the caller does.
        keep_faults: list what is wrong instead of raising the first, see `open_dataset`.

    Raises:
        DataError: see `open_dataset`.
    """
    from factory.real.sources import open_dataset

    options = {**options, "attributes": options.get("attributes") or None}
    dataset = open_dataset(uri, **options, keep_faults=keep_faults)
    for reason in dataset.broken if tell else ():
        say(f"left out: {reason}", err=True)
    if tell and dataset.not_read:
        say(not_read_text(dataset.not_read), err=True)
    if tell and dataset.like_masks:
        say(f"warning: {like_masks_text(dataset.like_masks)}", err=True)
    return dataset


def like_masks_text(ids: "Sequence[str]") -> str:
    """Return what is told of images that hold as few colours as masks do."""
    who = f"{len(ids)} images hold" if len(ids) > 1 else "1 image holds"
    return f"{who} 16 colours or fewer, as masks do and photographs do not: for example {ids[0]}"


def not_read_text(not_read: "Sequence[NotRead]") -> str:
    """Return 'not read: 3 (.jfif 2, hidden 1; for example a/1.jfif)'."""
    kinds = ", ".join(f"{one.kind} {one.count}" for one in not_read)
    total = sum(one.count for one in not_read)
    return f"not read: {total} ({kinds}; for example {not_read[0].name})"
