"""`factory judge`."""

from pathlib import Path
from typing import Any

import click

from catalog.commands import parse_place, storage_option
from factory.command_line import goes_on, tell_next
from factory.real.options import FILE, FOLDER, column_options, opened
from factory.terminal import say


@click.command()
@click.argument("name", metavar="GENERATOR")
@click.option("--config", "source", default="judge", show_default=True, metavar="FILE|PRESET")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key.")
@click.option("--data", required=True, metavar="URI", help="The real images of its training.")
@column_options
@click.option("--split", "split_file", required=True, type=FILE, help="That of its training.")
@click.option("--num-images", type=click.IntRange(min=4), help="How many to draw, of all classes.")
@click.option("--beside", multiple=True, metavar="GENERATOR", help="Judge another one too.")
@click.option("--catalog", "uri", metavar="URI", help="Judge what it published; draw nothing ...")
@storage_option
@click.option("--where", default="true", metavar="SQL", help="... of samples that satisfy this.")
@click.option("--output", required=True, type=FOLDER, help="Of the page; it shows real images.")
def judge(
    name: str,
    source: str,
    overrides: tuple[str, ...],
    data: str,
    split_file: Path,
    num_images: int | None,
    beside: tuple[str, ...],
    uri: str | None,
    storage: tuple[str, ...],
    where: str,
    output: Path,
    **columns: Any,
) -> None:
    """Measure what GENERATOR draws beside real images: unseen ones, and those that it learnt.

    Distances with the floor of real images, precision and recall, diversity, whether a judge sees
    what was asked for, copies, class by class; of pairs, whether masks fit; of bridges, whether
    they go where their labels say. The same command goes on where a killed one stopped.

    \b
    factory judge runs/mine/generator --data cells --split split.json --output judged
    factory judge wbc-base --data cells --split split.json --set features=inception.safetensors ...
    factory judge runs/pairs/generator --catalog pairs --where "run_id = 'run-...'" ...
    """  # noqa: D301 -- \b is click's mark
    from functools import partial

    from factory.atomic import check_writable
    from factory.config import check_places, load_config
    from factory.judge.config import PAGE, JudgeConfig
    from factory.models.generator import find_generator
    from factory.real.splits import load_split

    if num_images is not None:
        overrides = (*overrides, f"generate.num_images={num_images}")
    config = load_config(JudgeConfig, source, overrides)
    check_places(config, where=source)
    check_writable(output)
    split, generator = load_split(split_file), find_generator(name)
    others = tuple(find_generator(each) for each in beside)
    columns["label"] = columns.get("label") or generator.manifest.get("config", {}).get("label")
    dataset = opened(data, columns)
    published = None
    if uri is not None:
        from catalog import Catalog

        published = (Catalog(parse_place(uri, storage)), where)

    from factory.judge.judge import Subject, judge  # torch: what was asked for is there
    from factory.judge.report import to_text, write_report
    from factory.measure.cache import ArrayCache

    subject = Subject(generator=generator, published=published, beside=others)
    with goes_on("what was drawn and measured stays"):
        found = judge(
            config,
            subject,
            dataset,
            split,
            cache=ArrayCache(folder=output / "cache"),
            tell=partial(say, err=True),
        )
        write_report(found, output)
    for line in to_text(found.report).splitlines():
        say(line)
    say(f"page: {output / PAGE}")
    tell_next("generate", "--set", f"model={name}", "--catalog", "catalog")
