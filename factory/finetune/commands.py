"""`factory finetune`, `pretrain`, `memory`, `expert`: heavy imports wait inside."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from factory.command_line import goes_on, tell_next
from factory.real.options import FILE, FOLDER, column_options, opened
from factory.terminal import say

if TYPE_CHECKING:
    from factory.models.generator import Generator
    from factory.real.dataset import RealDataset
    from factory.real.splits import Split

TOLD_STEPS = 50


@click.command()
@click.option("--config", "source", metavar="FILE|PRESET", help="Default: what fits the base.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key.")
@click.option("--data", required=True, metavar="URI", help="Real images, see `factory real`.")
@column_options
@click.option("--split", type=FILE, required=True, help="Of these images: `factory real split`.")
@click.option("--class", "only", multiple=True, metavar="NAME", help="Train only these classes.")
@click.option("--without", multiple=True, metavar="CLASS", help="Leave these classes out.")
@click.option("--output", required=True, type=FOLDER, help="Storage that every worker sees.")
@click.option("--address", envvar="RAY_ADDRESS", metavar="HOST:PORT", help="A running Ray head.")
@click.option("--without-ray", is_flag=True, help="Train in this process.")
def finetune(
    source: str | None,
    overrides: tuple[str, ...],
    data: str,
    split: Path,
    only: tuple[str, ...],
    without: tuple[str, ...],
    output: Path,
    address: str | None,
    without_ray: bool,
    **columns: Any,
) -> None:
    """Train a generator on real images; it is written to OUTPUT/generator.

    The configuration's `method` says how: 'text' adapts a base that reads prompts (CytoDiff),
    'class_conditional' trains autoencoder and denoiser from scratch (BlastDiffusion), 'pairs'
    images together with their masks. Name the columns of --data as for its split. Without --config
    a small base such as wbc-base takes cytodiff_small, Stable Diffusion cytodiff.

    The same command goes on where a killed one stopped.

    \b
    factory real split cells --out split.json
    factory finetune --data cells --split split.json --output runs/mine
    factory finetune --config blastdiffusion_small --data cells --split split.json --output ...
    factory generate --set model=runs/mine/generator --num-images 64
    """  # noqa: D301 -- \b is click's mark
    from factory.finetune.images import without_classes
    from factory.finetune.methods import check_bases, load_training, preset_for
    from factory.real.splits import load_split

    source = source or preset_for(overrides, tell=say)
    config = load_training(source, overrides)
    if only:
        config = config.model_copy(update={"only": only})
    check_bases(config, source)
    parts, place = load_split(split), output.resolve()
    _check_places(place, address, without_ray)
    dataset = opened(data, _columns_of(config, columns))
    config = without_classes(config, dataset, without)
    _train(config, dataset, parts, place, output, address=address, without_ray=without_ray)


@click.command()
@click.option("--config", "source", default="wbc_base", show_default=True, metavar="FILE|PRESET")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key.")
@click.option("--data", required=True, metavar="URI", help="Real images, see `factory real`.")
@column_options
@click.option("--split", type=FILE, help="Of these images. Default: made by --config, in OUTPUT.")
@click.option("--output", required=True, type=FOLDER, help="Storage that every worker sees.")
@click.option("--address", envvar="RAY_ADDRESS", metavar="HOST:PORT", help="A running Ray head.")
@click.option("--without-ray", is_flag=True, help="Train in this process.")
@click.option("--export-only", is_flag=True, help="Of the newest checkpoint; train nothing.")
def pretrain(
    source: str,
    overrides: tuple[str, ...],
    data: str,
    split: Path | None,
    output: Path,
    address: str | None,
    without_ray: bool,
    export_only: bool,
    **columns: Any,
) -> None:
    """Train a base from scratch on real images; it is written to OUTPUT/generator.

    It is the text method with `base: null`: autoencoder, text encoder and U-Net are its own.
    `wbc-base`, which ships with the factory, came from here. The columns of class and attributes
    are those of the configuration, where no others are named.

    The same command goes on where a killed one stopped. Where only an export is left, a new run
    goes on from its weights, with a fresh optimiser (the last lines).

    \b
    factory pretrain --data cells --output runs/wbc-base
    factory pretrain --config wbc_base2 --data cells --output runs/2 --set cluster.use_gpu=true
    factory pretrain --config wbc_base2 --data cells --output runs/more \\
        --set denoiser.base=EXPORT --set 'autoencoder={base: EXPORT, steps: 0, trains: decoder}'
    """  # noqa: D301 -- \b is click's mark
    from factory.errors import ConfigError
    from factory.finetune.images import split_of_output
    from factory.finetune.methods import check_bases, load_training
    from factory.real.splits import load_split

    config = load_training(source, overrides)
    if getattr(config, "base", None) is not None or config.method != "text":
        raise ConfigError(
            f"{source} is no configuration of a base from scratch",
            remedy="Give one such as wbc_base, or use `factory finetune`",
        )
    check_bases(config, source)
    place = output.resolve()
    _check_places(place, address, without_ray)
    parts = load_split(split) if split else None
    dataset = opened(data, _columns_of(config, columns))
    parts = parts or split_of_output(config, dataset, place)
    _train(
        config,
        dataset,
        parts,
        place,
        output,
        address=address,
        without_ray=without_ray,
        export_only=export_only,
    )


@click.command()
@click.option("--config", "source", metavar="FILE|PRESET", help="Default: as `factory finetune`.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key.")
@click.option("--workers", multiple=True, type=click.IntRange(1), default=(1, 2, 8))
def memory(source: str | None, overrides: tuple[str, ...], workers: tuple[int, ...]) -> None:
    """Print what each worker of a training would hold in memory, in GiB.

    For 1, 2 and 8 workers, copied or sharded, with and without gradient checkpointing, by
    arithmetic: nothing is allocated or trained. The base may be a folder with nothing but the
    config.json of unet, text_encoder and vae; of other families model_index.json and those of
    denoiser and vae.

    \b
    factory memory --set base=stable-diffusion-v1-5 --set train=full --set training.batch_size=8
    """  # noqa: D301 -- \b is click's mark
    from factory.finetune.methods import load_training, preset_for
    from factory.models.generator import find_generator

    config = load_training(source or preset_for(overrides), overrides)
    for name, revision in config.bases():
        folder = Path(name).expanduser()
        if not any((folder / p / "config.json").is_file() for p in ("unet", "transformer")):
            find_generator(name, revision=revision)
    from factory.finetune.memory import table
    from factory.finetune.run import training_of

    training = training_of(config)
    for line in table(config, lambda asked: training.sketch(asked, None), workers=workers):
        say(line)


def _check_places(place: Path, address: str | None, without_ray: bool) -> None:
    from factory.atomic import check_writable
    from factory.sample.session import check_address

    check_writable(place)
    if not without_ray:
        check_address(address)


def _columns_of(config: Any, columns: dict[str, Any]) -> dict[str, Any]:
    """Return the columns to read: where none are named, those of the configuration."""
    return columns | {
        "label": columns["label"] or getattr(config, "label", None),
        "attributes": columns["attributes"] or getattr(config, "attributes", ()),
    }


def _train(
    config: Any,
    dataset: "RealDataset",
    parts: "Split",
    place: Path,
    output: Path,
    *,
    address: str | None,
    without_ray: bool,
    export_only: bool = False,
) -> None:
    """Check, train and export into `place`, which was typed as `output`."""
    from factory.finetune.cluster import check_room, on_gpus
    from factory.finetune.images import thin_classes
    from factory.finetune.methods import about_scale, check_training
    from factory.finetune.stages import claimed
    from factory.sample.session import ray_session

    check_training(config, dataset, parts)
    for line in (*thin_classes(dataset, parts, config), *about_scale(config, dataset, parts)):
        say(line)
    if config.cluster.use_gpu and not export_only:  # before images are encoded
        with ray_session(address) if address and not without_ray else nullcontext():
            on_gpus(config.cluster)
    from factory.finetune import run

    if export_only:  # while another process may train on
        _tell_end(run.export_newest(run.load_plan(place)), place, output)
        return
    with claimed(place, config.method), goes_on("the checkpoints stay"):
        plan = run.prepare(config, dataset, parts, place, tell=say)
        say(run.needs_of_plan(plan))
        if without_ray:
            generator = run.finetune_here(plan, tell=say)
        else:
            with ray_session(address, show_workers=True, tell=say):
                if not address:
                    check_room(config.cluster)
                generator = run.finetune_on_ray(plan)
    _tell_end(generator, place, output)


def _tell_end(generator: "Generator", place: Path, output: Path) -> None:
    """Say what was made, what its curves advise, where samples are and what comes next."""
    from factory.finetune.validation import CURVE, advice, read_curve

    folder = output / generator.folder.relative_to(place)  # as it was typed
    say(f"{generator.name} {generator.model_id} in {folder}")
    for path in sorted(place.rglob(CURVE)):
        own = path.parent.name if path.parent != place else ""
        for line in advice(read_curve(path)):
            say(f"{own}: {line}" if own else line)
    if (sheet := folder / "samples.png").exists():
        say(f"sheet    {sheet}")
    tell_next("generate", *_drawn_with(generator, folder), "--num-images", 64)


def _drawn_with(generator: "Generator", folder: Path) -> Iterator[str]:
    """Yield the options by which `factory generate` draws with a generator."""
    keys = [f"model={folder}"]
    if "condition" in generator.manifest:  # of pairs
        keys += ["num_inference_steps=50"]
    for key in keys:
        yield from ("--set", key)


@click.command()
@click.option("--config", "source", default="expert", show_default=True, metavar="FILE|PRESET")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key.")
@click.option("--data", required=True, metavar="URI", help="Real images, see `factory real`.")
@column_options
@click.option("--split", type=FILE, required=True, help="Of these images: `factory real split`.")
@click.option("--weights", type=FILE, help="Initial backbone: timm's, as safetensors.")
@click.option("--output", required=True, type=FOLDER)
def expert(
    source: str,
    overrides: tuple[str, ...],
    data: str,
    split: Path,
    weights: Path | None,
    output: Path,
    **columns: Any,
) -> None:
    """Train a classifier of the real images, whose features an aligned finetune is pulled to.

    It learns from the train part; its accuracy on the val part stands in OUTPUT/expert.json.

    \b
    factory expert --data tiles --split split.json --weights lite0.safetensors --output expert
    factory finetune --config feature_aligned --set expert=expert --data tiles ...
    """  # noqa: D301 -- \b is click's mark
    from factory.atomic import check_writable
    from factory.config import load_config
    from factory.errors import ModelError
    from factory.finetune.config import ExpertConfig
    from factory.real.splits import check_dataset, load_split

    def tell(step: int, loss: float) -> None:
        if step % TOLD_STEPS == 0:
            say(f"step {step}: loss {loss:.4f}")

    config = load_config(ExpertConfig, source, overrides)
    if weights is not None and not weights.is_file():
        raise ModelError(f"no weights at {str(weights)!r}", remedy="Correct --weights")
    parts = load_split(split)
    check_writable(output)
    dataset = opened(data, columns)
    check_dataset(parts, dataset.fingerprint)

    from factory.finetune.expert import make_expert

    notes = make_expert(config, dataset, parts, output, weights=weights, report=tell)
    say(f"val accuracy {notes.val_accuracy:.3f}, expert in {output}")
