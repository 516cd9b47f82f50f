"""`factory`: one command per verb, a mirror of the library. Heavy imports wait inside commands."""

import os
import sys

import click

from catalog.commands import catalog
from catalog.lineage_commands import forget_command, lineage_command
from catalog.release_commands import release
from catalog.retention_commands import optimize_command, vacuum_command
from factory import __version__
from factory.errors import FactoryError
from factory.evaluate.commands import evaluate
from factory.finetune.commands import finetune
from factory.finetune.expert_command import expert
from factory.finetune.memory_command import memory
from factory.real.commands import real
from factory.sample.commands import bridge, generate, regenerate
from factory.search.commands import sweep

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(context_settings=CONTEXT)
@click.version_option(__version__, prog_name="factory")
def cli() -> None:
    """Synthetic medical images with provenance: real -> finetune -> sample -> gate -> catalog."""


COMMANDS = (
    *(real, expert, finetune, memory, bridge),
    *(generate, catalog, regenerate, evaluate, sweep),
    *(release, lineage_command, forget_command),
)
for command in (optimize_command, vacuum_command):
    catalog.add_command(command)
for command in COMMANDS:
    cli.add_command(command)


def main() -> None:
    """Run the CLI."""
    run(cli)


def run(command: click.Command) -> None:
    """Run a command on sys.argv; a `FactoryError` becomes one line on stderr and exit code 1."""
    os.environ.setdefault("RUST_LOG", "error")  # delta-rs: its warnings come back as our errors
    try:
        command.main(standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except FactoryError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
