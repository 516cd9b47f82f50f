"""The options by which commands open real images: which columns, which folder, what to skip."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:  # numpy, Pillow and pyarrow wait until a command runs
    from factory.real.dataset import RealDataset

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
        click.option("--skip-broken", is_flag=True, help="Leave broken images out and list them."),
        click.option("--download", is_flag=True, help="Fetch a MedMNIST set if it is missing."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def opened(uri: str, options: dict[str, Any], *, tell: bool = True) -> "RealDataset":
    """Return the dataset at `uri`; what was left out of it is told on the error stream.

    Raises:
        DataError: see `open_dataset`.
    """
    from factory.real.sources import open_dataset

    dataset = open_dataset(uri, **{**options, "attributes": options.get("attributes") or None})
    for reason in dataset.broken if tell else ():
        click.echo(f"left out: {reason}", err=True)
    return dataset
