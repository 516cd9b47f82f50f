"""`factory`: one command per verb, a mirror of the library. Heavy imports wait inside commands."""

import os
import signal
import sys

import click

from catalog.commands import catalog
from catalog.export.command import export, marks
from catalog.gallery.command import gallery, review
from catalog.lineage_commands import forget_command, lineage_command
from catalog.release_commands import release
from catalog.upkeep_commands import embed_command, optimize_command, remove_command, vacuum_command
from factory import __version__
from factory.agent.commands import agent
from factory.command_line import as_typed, signal_of, status_of, stoppable
from factory.distill.commands import distill
from factory.errors import FactoryError
from factory.evaluate.commands import evaluate
from factory.evaluate.mix import mix
from factory.evaluate.prepare_commands import bank, clusters, prepare, segmenter
from factory.finetune.commands import expert, finetune, memory, pretrain
from factory.judge.ablate import ablate
from factory.judge.commands import judge
from factory.monitor.commands import runs
from factory.real.commands import real
from factory.sample.commands import bridge, generate, regenerate, verify
from factory.search.commands import sweep
from factory.start.commands import start
from factory.submit.commands import submit
from factory.terminal import guarded

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


ENDS = """Exit status: 0 done; 1 an error, told in one line; 2 wrong usage; 130 Ctrl-C, 143 SIGTERM.
Whatever stops a command, what it published or saved stays."""


@click.group(context_settings=CONTEXT, epilog=ENDS)
@click.version_option(__version__, prog_name="factory")
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    envvar="FACTORY_LOG_FORMAT",
    default="text",
    show_default=True,
    show_envvar=True,
    help="json: a line on stderr for every step of a run, with its ids.",
)
def cli(log_format: str) -> None:
    """Synthetic medical images with provenance: real -> finetune -> sample -> gate -> catalog."""
    from factory.monitor.log import set_up

    set_up(log_format)


COMMANDS = (
    start,
    *(real, bank, clusters, segmenter, prepare),
    *(expert, pretrain, finetune, distill, memory, bridge, judge, ablate),
    *(generate, catalog, gallery, review, export, marks, regenerate, mix, evaluate, sweep),
    *(release, lineage_command, forget_command),
    *(submit, runs, agent),
)
for command in (embed_command, optimize_command, remove_command, vacuum_command):
    catalog.add_command(command)
release.add_command(verify)  # it draws, and the catalog knows nothing of drawing
for command in COMMANDS:
    cli.add_command(command)


def main() -> None:
    """Run the CLI."""
    run(cli)


def run(command: click.Command) -> None:
    """Run a command on sys.argv; a `FactoryError` becomes one line on stderr and exit code 1.

    What it writes is closed to other users of the machine, its group excepted: much of it shows
    patients' images, or comes from them. What it prints cannot act on the terminal.
    """
    with guarded():
        _run(command)


def _run(command: click.Command) -> None:
    from factory.monitor.log import FORMAT, set_up

    os.umask(os.umask(0o077) | 0o007)
    os.environ.setdefault("RUST_LOG", "error")  # delta-rs: its warnings come back as our errors
    try:
        with stoppable():
            set_up(os.environ.get(FORMAT, "text"))
            status = command.main(standalone_mode=False)  # click returns what an Exit carries
        if isinstance(status, int) and status:
            sys.exit(status)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt) as error:
        signalled = error if isinstance(error, KeyboardInterrupt) else error.__cause__
        found = signal_of(signalled)
        by = "Ctrl-C" if found is signal.SIGINT else found.name
        click.echo(f"stopped by {by}", err=True)
        sys.exit(status_of(signalled))
    except FactoryError as error:
        click.echo(f"error: {as_typed(str(error), cli.commands)}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
