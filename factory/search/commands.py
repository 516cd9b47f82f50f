"""`factory sweep`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from catalog.commands import parse_place, storage_option
from factory.command_line import goes_on, tell_next, typed
from factory.real.options import FILE, FOLDER, column_options, opened
from factory.terminal import say

if TYPE_CHECKING:
    from factory.search.finish import Outcome
    from factory.search.objective import Ground
    from factory.search.trials import Trial


@click.command()
@click.option("--config", "source", default="wbc_sweep", show_default=True, metavar="FILE|PRESET")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key.")
@click.option("--data", required=True, metavar="URI", help="Real images, see `factory real`.")
@column_options
@click.option("--split", "splits", type=FILE, multiple=True, required=True, help="One per fold.")
@click.option("--catalog", "uri", required=True, metavar="URI", help="Drawn images come here.")
@storage_option
@click.option(
    "--generator-split", "others", type=FILE, multiple=True,
    help="Split of --data that a generator was trained under, if another one.",
)  # fmt: skip
@click.option("--seen", multiple=True, metavar="URI", help="Other real images generators saw.")
@click.option("--output", required=True, type=FOLDER, help="Trials, page and the best recipe.")
@click.option("--address", envvar="RAY_ADDRESS", metavar="HOST:PORT", help="A running Ray head.")
def sweep(
    source: str,
    overrides: tuple[str, ...],
    data: str,
    splits: tuple[Path, ...],
    uri: str,
    others: tuple[Path, ...],
    seen: tuple[str, ...],
    output: Path,
    address: str | None,
    **options: Any,
) -> None:
    """How many drawn images, drawn how, make a learner better? Search, then test the winner once.

    Trials are scored on val parts. Images are drawn once for every way of drawing and stay in the
    catalog. The same command goes on where a killed one stopped.

    \b
    factory real split cells --out split.json --folds 5
    factory sweep --data cells --split split.0.json --split split.1.json ... \\
        --catalog wbc-catalog --output runs/sweep
    """  # noqa: D301 -- \b is click's mark
    from factory.atomic import check_writable
    from factory.config import check_places, load_config
    from factory.models.generator import check_revision
    from factory.real.splits import load_split
    from factory.sample.prepare import drawn_by
    from factory.sample.session import check_address, ray_session
    from factory.search.config import SweepConfig
    from factory.search.space import check_space, without_settled

    catalog = parse_place(uri, options.pop("storage"))
    config = load_config(SweepConfig, source, overrides)
    check_space(config)
    check_places(config, where=source)
    check_revision(config.generate.model, config.generate.revision)
    searched = without_settled(config, drawn_by(config.generate))
    for axis in sorted(set(config.space) - set(searched.space)):
        say(f"{axis} is not searched: the generator is drawn at one value of it alone")
    config = searched
    config.learner.check()
    parts = tuple(load_split(path) for path in splits)
    other_parts = tuple(load_split(path) for path in others)
    check_writable(output)
    check_address(address)

    from catalog.store import check_place
    from factory.real.leaks import Use
    from factory.real.sources import open_dataset
    from factory.search.objective import Ground, check_plans, told_plans, with_enough

    check_place(catalog)
    known = {place: open_dataset(place) for place in seen}
    ground = Ground(
        config=config,
        dataset=opened(data, options),
        splits=parts,
        catalog=catalog,
        output=output,
        generator_splits=other_parts,
        seen=tuple(Use(what=w, dataset=d, ids=d.ids) for w, d in known.items()),
    )
    say("planning: nothing is drawn before every corner of the space can be trained")
    ground = with_enough(ground)
    click.echo("\n".join(told_plans(ground, check_plans(ground))))
    from factory.evaluate.placement import room_for  # and torch: the search can begin
    from factory.evaluate.tasks import check_learner
    from factory.search.drawer import Drawer
    from factory.search.finish import finish
    from factory.search.sweep import run_trials

    check_learner(config.learner, ground.dataset.class_names)
    with goes_on("finished trials stay"), ray_session(address, tell=say):
        trials = run_trials(ground, tell=say)
        drawer = Drawer(catalog)
        room = room_for(config.learner, config.gpus_per_training)
        outcome = finish(
            ground,
            trials,
            lambda setting: drawer.draw(setting.generate),
            room.execute,
            room=room,
            tell=say,
        )
    _tell_end(ground, trials, outcome)


def _tell_end(ground: "Ground", trials: "list[Trial]", outcome: "Outcome") -> None:
    """Write the page of a finished search, and say what it found and where that lies."""
    from datetime import UTC, datetime

    from factory.evaluate.study_html import Made
    from factory.evaluate.study_report import as_text
    from factory.search.finish import summary
    from factory.search.page import plots_of, write_page
    from factory.search.trials import store_study

    config, output = ground.config, ground.output
    made = Made(command=typed(*sys.argv[1:]), date=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC")
    plots = plots_of(config, trials, store_study(trials, config, output))
    write_page(output / "sweep.html", config, outcome, plots, made)
    click.echo(as_text(summary(ground, outcome)))
    say("the winner's images, and more of them with another num_images:")
    tell_next("generate", "--config", output / "best.yaml", "--catalog", ground.catalog.uri)
    say(f"page: {output / 'sweep.html'}")
