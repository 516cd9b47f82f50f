"""`factory distill`: heavy imports wait inside."""

from pathlib import Path

import click

from factory.command_line import goes_on, tell_next
from factory.real.options import FOLDER
from factory.terminal import say


@click.command()
@click.argument("model", metavar="GENERATOR")
@click.option("--config", "source", default="distill", show_default=True, metavar="FILE|PRESET")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key.")
@click.option("--output", required=True, type=FOLDER)
def distill(model: str, source: str, overrides: tuple[str, ...], output: Path) -> None:
    """Teach a copy of GENERATOR to draw in a few evaluations; it is written to OUTPUT/generator.

    GENERATOR draws its images as it does, with guidance, and where it is on its way is kept; the
    student learns to come as far in one evaluation, without guidance. No real image is needed. It
    is drawn by its own settings alone: `factory generate` takes them, whatever a preset says.

    The same command goes on where a killed one stopped.

    \b
    factory distill wbc-base --output runs/fast
    factory distill runs/mine/generator --set teacher.guidance_scale=1 --output runs/fast
    factory generate --set model=runs/fast/generator --num-images 64
    """  # noqa: D301 -- \b is click's mark
    from factory.atomic import check_writable
    from factory.distill.config import load_distillation

    config, teacher, plan = load_distillation(source, overrides, model)
    place = output.resolve()
    check_writable(place)

    from factory.distill.student import distil
    from factory.finetune.stages import claimed

    with claimed(place, "distill"), goes_on("trajectories and checkpoints stay"):
        generator = distil(config, teacher, plan, place, tell=say)
    folder = output / generator.folder.relative_to(place)  # as it was typed
    say(f"{generator.name} {generator.model_id} in {folder}")
    say(f"sheet    {folder / 'sheet.png'}")
    tell_next("generate", "--set", f"model={folder}", "--num-images", 64)
