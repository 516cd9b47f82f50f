"""`factory generate`, and what draws again: `factory regenerate`, `factory release verify`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from catalog.commands import catalog_option, parse_place, storage_option
from factory.command_line import tell_next
from factory.terminal import one_line, say

if TYPE_CHECKING:
    from factory.sample.prepare import Run

_SHOWN = 20
"""Problems that are printed one by one."""


@click.command()
@click.option("--config", "source", default="wbc", show_default=True, metavar="FILE|PRESET")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key.")
@catalog_option
@storage_option
@click.option("--num-images", type=click.IntRange(min=1), help="How many images to draw.")
@click.option("--resume", "run_id", metavar="RUN_ID", help="Go on with a run of this catalog.")
@click.option("--address", envvar="RAY_ADDRESS", metavar="HOST:PORT", help="A running Ray head.")
@click.option("--without-ray", is_flag=True, help="Draw in this process.")
@click.option(
    "--preview", is_flag=False, flag_value="preview.png", metavar="[PNG]",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Draw ten into this picture, say what all would take, and publish nothing.",
)  # fmt: skip
def generate(
    source: str,
    overrides: tuple[str, ...],
    uri: str,
    storage: tuple[str, ...],
    num_images: int | None,
    run_id: str | None,
    address: str | None,
    without_ray: bool,
    preview: Path | None,
) -> None:
    """Draw images and publish them into a catalog while they are drawn.

    Without --address (or RAY_ADDRESS) a local Ray is started and stopped again: an actor for every
    core or GPU. --without-ray needs no such start, which pays for a few images.

    \b
    factory generate --num-images 64
    factory generate --set guidance_scale=3 --set classes='{eosinophil: an eosinophil}'
    factory generate --preview
    factory generate --resume run-0123456789ab
    """  # noqa: D301 -- \b is click's mark
    from factory.sample.session import ray_session, start_run

    run = start_run(
        source=source,
        overrides=overrides,
        num_images=num_images,
        run_id=run_id,
        place=parse_place(uri, storage),
    )
    if preview is not None:
        keys = [*overrides, f"seed={run.config.seed}"]  # the very images that are shown
        keys += [f"num_images={num_images}"] if num_images is not None else []
        sets = [word for key in keys for word in ("--set", key)]
        _preview(run, preview, ["--resume", run_id] if run_id else ["--config", source, *sets])
        return
    from factory.sample.console import follow

    if without_ray:
        from factory.sample.batches import draw_here

        follow(run, stream=draw_here)
        return
    with ray_session(address, tell=say):
        from factory.sample.stream import about_precision, gpus_per_actor

        for line in about_precision(run.config.dtype, gpus_per_actor(run.config.stream)):
            say(line)
        follow(run)


def _preview(run: "Run", path: Path, words: Sequence[str]) -> None:
    """Draw ten images of a run, tell of them and name the command, of `words`, that draws all."""
    import os

    from factory.monitor.on_ray import price_per_hour
    from factory.sample.console import place_words
    from factory.sample.preview import preview

    price = price_per_hour(os.environ)
    say(f"{run.run_id}: ten of {run.plan.num_images} images, which are not published ...")
    for line in preview(run, path, price_per_hour=price).lines():
        say(line)
    say(f"sheet    {path}")
    tell_next("generate", *words, *place_words(run))


@click.command()
@click.argument("image_ids", nargs=-1, metavar="[IMAGE_ID]...")
@catalog_option
@storage_option
@click.option("--sample", metavar="N|P%", help="Redraw N, or P percent, randomly chosen images.")
@click.option("--seed", default=0, show_default=True, help="Chooses the --sample.")
@click.option("--model", metavar="NAME|FOLDER", help="Where the generator lies now.")
@click.option("--data", metavar="URI", help="Where the real images that were shown lie now.")
@click.option("--out", metavar="FOLDER", help="Write the redrawn PNGs here.")
@click.option(
    "--allow-tier",
    type=click.Choice(["identical", "equal", "any"]),
    default="identical",
    show_default=True,
    help="Worst outcome that still exits with 0; 'equal' is 40 dB PSNR or better.",
)
def regenerate(
    image_ids: tuple[str, ...],
    uri: str,
    storage: tuple[str, ...],
    sample: str | None,
    seed: int,
    model: str | None,
    data: str | None,
    out: str | None,
    allow_tier: str,
) -> None:
    """Redraw published images from their rows and compare them with what was published.

    Prints a line per image: `identical`, `equal within X dB`, or `differs, because ...`.

    \b
    factory regenerate 0f3a...
    factory regenerate --sample 1%
    """  # noqa: D301 -- \b is click's mark
    from functools import partial

    from factory.sample.regenerate import regenerate_images

    outcomes = regenerate_images(
        parse_place(uri, storage),
        image_ids=image_ids,
        sample=sample,
        seed=seed,
        model=model,
        data=data,
        out=Path(out) if out else None,
        tell=partial(say, err=True),
    )
    worst = 0
    for outcome in outcomes:
        say(f"{outcome.image_id}  {outcome}")
        worst = max(worst, outcome.tier)
    if worst > ["identical", "equal", "any"].index(allow_tier):
        raise click.exceptions.Exit(1)


@click.command()
@click.option(
    "--domain",
    "domains",
    multiple=True,
    required=True,
    metavar="NAME=MODEL[:CLASS]",
    help="A domain and the generator that draws it; CLASS where it knows several. Two or more.",
)
@click.option("--out", required=True, metavar="FOLDER", help="Folder of the new generator.")
def bridge(domains: tuple[str, ...], out: str) -> None:
    """Bind generators of several domains into one, between which images can be carried.

    They must share latent space, noise schedule and attention layout: fine-tune them from one base.
    A generator that knows several classes is a bridge already.

    \b
    factory bridge --domain healthy=runs/healthy/generator --domain tumour=runs/tumour/generator
                   --out runs/bridge
    factory generate --config adbd --set model=runs/bridge --set data=... --set split=...
    """  # noqa: D301 -- \b is click's mark
    from factory.models.domains import parse_domains, write_domains

    chosen = parse_domains(domains)
    generator = write_domains(Path(out), chosen)
    say(f"{out}: {' <-> '.join(generator.class_names)}, model_id {generator.model_id}")


@click.command()
@click.argument("name")
@catalog_option
@storage_option
@click.option("--redraw", type=click.IntRange(min=1), help="Also redraw so many of its images.")
@click.option("--seed", default=0, show_default=True, help="Chooses those to redraw.")
@click.option("--model", metavar="NAME|FOLDER", help="Where the generator lies now.")
@click.option("--data", metavar="URI", help="Where the real images that were shown lie now.")
def verify(
    name: str,
    uri: str,
    storage: tuple[str, ...],
    redraw: int | None,
    seed: int,
    model: str | None,
    data: str | None,
) -> None:
    """Hash every file and every pixel of a release again; exit with 1 if anything differs.

    \b
    Example:
      factory release verify wbc@1.0.0 --redraw 8
    """  # noqa: D301 -- \b is click's mark
    from catalog.releases import verify_release

    place = parse_place(uri, storage)
    found = verify_release(place, name)
    for problem in found.problems[:_SHOWN]:
        click.echo(one_line(problem))
    if len(found.problems) > _SHOWN:
        click.echo(f"and {len(found.problems) - _SHOWN} more")
    verdict = "holds" if found.holds else f"does not hold: {len(found.problems)} problems"
    click.echo(
        f"{found.release.name} ({found.release.status}) {verdict}; {found.num_files} files,"
        f" {found.num_images} images, manifest {found.release.manifest_digest}"
    )
    differing = 0
    if redraw is not None:
        from factory.sample.regenerate import TIERS, redraw_release

        counts = dict.fromkeys(TIERS, 0)
        for outcome in redraw_release(
            place,
            found.release.name,
            redraw,
            seed=seed,
            model=model,
            data=data,
        ):
            counts[TIERS[outcome.tier]] += 1
            if outcome.tier > 0:
                click.echo(one_line(f"{outcome.image_id}  {outcome}"))
        told = ", ".join(f"{n} {tier}" for tier, n in counts.items() if n)
        click.echo(f"{sum(counts.values())} redrawn: {told}")
        differing = counts[TIERS[-1]]
    if differing or not found.holds:
        raise click.exceptions.Exit(1)
