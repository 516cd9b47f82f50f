"""`factory evaluate`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from catalog.commands import parse_place, storage_option
from factory.command_line import goes_on, typed
from factory.real.options import FILE, FOLDER, column_options, opened
from factory.terminal import say

if TYPE_CHECKING:
    from catalog import Catalog
    from catalog.place import Place
    from factory.evaluate.config import StudyConfig
    from factory.evaluate.study import Planned
    from factory.evaluate.study_html import Made
    from factory.evaluate.study_report import StudyReport
    from factory.real.dataset import RealDataset


@click.command()
@click.option("--config", "source", default="evaluate", show_default=True, metavar="FILE|PRESET")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key.")
@click.option("--data", required=True, metavar="URI", help="Real images, see `factory real`.")
@column_options
@click.option(
    "--split", "splits", type=FILE, multiple=True,
    help="One per fold. Without: five folds of a small dataset, else one division.",
)  # fmt: skip
@click.option("--catalog", "uri", metavar="URI", help="Synthetic images; the results go there.")
@storage_option
@click.option("--version", type=click.IntRange(min=0), help="Of the catalog's samples.")
@click.option("--release", metavar="NAME", help="Take synthetic images of this release alone.")
@click.option(
    "--generator-split", "others", type=FILE, multiple=True,
    help="Split of --data that a generator was trained under, if another one.",
)  # fmt: skip
@click.option(
    "--seen", multiple=True, metavar="URI",
    help="Other real images that generators, references or gates saw: compared with the held-out.",
)  # fmt: skip
@click.option(
    "--source", "sources", multiple=True, metavar="NAME=URI",
    help="Real images of another lab, for arms that say `source: NAME`: an upper bound.",
)  # fmt: skip
@click.option("--output", required=True, type=FOLDER, help="Finished trainings and the report.")
@click.option("--address", envvar="RAY_ADDRESS", metavar="HOST:PORT", help="A running Ray head.")
@click.option("--without-ray", is_flag=True, help="Train in this process.")
@click.option("--power", is_flag=True, help="Say what the study could see, and train nothing.")
def evaluate(
    source: str,
    overrides: tuple[str, ...],
    data: str,
    uri: str | None,
    version: int | None,
    release: str | None,
    output: Path,
    address: str | None,
    without_ray: bool,
    power: bool,
    **options: Any,
) -> None:
    """Do synthetic images help? Train on real and mixed sets, test on real images alone.

    A held-out image that a generator, its references or the train part saw is refused. The learner
    is a linear head on a frozen network's features (a probe: see docs/backbones.md), which can be
    fitted for many draws of the shots (--set shots=4 --set draws=50); networks that are trained are
    the presets evaluate_finetuned, evaluate_resnet50 and evaluate_clip: all arms take equally many
    steps, the best validation weights are tested. The same command goes on where a killed one
    stopped.

    What it will take and can show is said first. Images of a generator that learnt from --data
    need the --split that it learnt under.

    \b
    factory evaluate --data cells --catalog wbc-catalog --output runs/does-it-help
    factory evaluate --data cells --split split.json --catalog mine --output runs/mine
    """  # noqa: D301 -- \b is click's mark
    from datetime import UTC, datetime

    from factory.atomic import check_writable
    from factory.config import check_places, load_config
    from factory.evaluate.config import StudyConfig
    from factory.real.splits import load_split
    from factory.sample.session import check_address

    storage = options.pop("storage")
    place = None if uri is None else parse_place(uri, storage)
    config = load_config(StudyConfig, source, overrides)
    check_places(config, where=source)
    config.learner.check()
    splits = tuple(load_split(path) for path in options.pop("splits"))
    others = tuple(load_split(path) for path in options.pop("others"))
    check_writable(output)
    if not without_ray:
        check_address(address)

    from catalog import Catalog
    from catalog.store import check_place
    from factory.evaluate.outset import own_splits, power_lines, said_first
    from factory.evaluate.study import Inputs, plan_study
    from factory.real.leaks import Use
    from factory.real.sources import open_dataset

    if place is not None:
        check_place(place)
    if release is None:
        catalog = None if place is None else Catalog(place, version=version)
    else:
        config, catalog = _released(config, place, release, version)
    seen = {where: open_dataset(where) for where in options.pop("seen")}
    sources = named_sources(options.pop("sources"))
    dataset = opened(data, options)
    planned = plan_study(
        config,
        Inputs(
            dataset=dataset,
            splits=splits or own_splits(config, dataset, catalog, output),
            catalog=catalog,
            generator_splits=others,
            seen=tuple(Use(what=w, dataset=d, ids=d.ids) for w, d in seen.items()),
            sources=sources,
        ),
    )
    click.echo("\n".join([*said_first(planned), *(power_lines(planned) if power else [])]))
    if power:
        say("nothing was trained: leave --power out to run the study")
        return
    from factory.evaluate import study_run as studies  # torch: the plan holds
    from factory.evaluate.study_html import Made
    from factory.evaluate.study_report import to_text
    from factory.evaluate.tasks import check_learner

    check_learner(config.learner, planned.inputs.dataset.class_names)
    made = Made(
        command=typed(*sys.argv[1:]), data=data, date=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    )
    report = _trained(planned, output, address, made, without_ray=without_ray)
    if place is not None:
        studies.record_study(planned, report, output, place, now=datetime.now(UTC))
    click.echo(to_text(report))
    if uri is not None:
        say(f"evaluation {planned.id} in {uri}")
    say(f"page: {output / 'report.html'}")


def _trained(
    planned: "Planned", output: Path, address: str | None, made: "Made", *, without_ray: bool
) -> "StudyReport":
    """Train what is not trained yet, here or on Ray, and return the report."""
    from functools import partial

    from factory.evaluate import study_run as studies
    from factory.evaluate.placement import execute_here, room_for
    from factory.sample.session import ray_session

    run = partial(studies.run_study, planned, output, made=made, tell=say)
    with goes_on("finished trainings stay"):
        if without_ray:
            return run(execute_here)
        with ray_session(address, tell=say):
            room = room_for(planned.config.learner, planned.config.gpus_per_training)
            return run(room.execute, room=room)


def named_sources(asked: tuple[str, ...]) -> "dict[str, RealDataset]":
    """Return the datasets of NAME=URI.

    Raises:
        ConfigError: no name, or one that stands there twice.
        DataError: see `open_dataset`.
    """
    from factory.errors import ConfigError
    from factory.real.sources import open_dataset

    pairs = [text.partition("=") for text in asked]
    names = [name for name, _, _ in pairs]
    for name, sign, uri in pairs:
        if not (name and sign and uri) or names.count(name) > 1:
            raise ConfigError(
                f"--source {name}{sign}{uri}: not NAME=URI, or a name that stands there twice",
                remedy="Write e.g. --source lab=cells-of-the-other-lab",
            )
    return {name: open_dataset(uri) for name, _, uri in pairs}


def _released(
    config: "StudyConfig",
    place: "Place | None",
    name: str,
    version: int | None,
) -> "tuple[StudyConfig, Catalog]":
    """Return the study of a release's rows alone, and the catalog at the version that it pins.

    Raises:
        ConfigError: a version beside the release, or no catalog that has one.
        CatalogError: see `open_release`.
    """
    from catalog.releases import open_release
    from factory.errors import ConfigError

    if place is None or version is not None:
        what = "--release without --catalog" if place is None else "--release beside --version"
        raise ConfigError(what, remedy="Give --catalog and --release: it pins its own version")
    found = open_release(place, name)
    synthetic = config.synthetic.within(found.where)
    return config.model_copy(update={"synthetic": synthetic}), found.catalog
