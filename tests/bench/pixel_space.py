"""Would a base in pixel space, without an autoencoder, draw better after the same training time?

    python -m tests.bench.pixel_space --prepared OUTPUT --data DATASET --features WEIGHTS \
        --out FOLDER --steps 2600

OUTPUT is the folder of `factory pretrain`: the same train part, prompts, loss, EMA and decay.
Pixels go in unshuffled (12 channels at half the side), as the U-Net is then four times cheaper.
Prints the CPU minutes of the training, so that `--steps` can be chosen to match the latent run.
"""

import copy
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import click
import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from factory.config import load_config
from factory.finetune.data import Material, load_material
from factory.finetune.images import SPLIT
from factory.finetune.latents import TURNS, to_signed, turn
from factory.finetune.loop import Loop
from factory.finetune.losses import training_scheduler
from factory.finetune.meter import describe
from factory.finetune.method import task_of
from factory.finetune.run import load_plan, loop_of
from factory.judge.config import JudgeConfig
from factory.judge.figures import measure, measure_floor
from factory.judge.judge import open_judgement, settings_for
from factory.judge.report import overall
from factory.judge.sets import draw_plan
from factory.measure.cache import ArrayCache
from factory.methods.text.config import BaseConfig
from factory.methods.text.draw import TextMethod
from factory.methods.text.pretraining import pretraining
from factory.models.generator import find_generator
from factory.real.sources import open_dataset
from factory.real.splits import load_split
from factory.sample.engine import Engine
from factory.sample.prepare import make_plan

CHANNELS = (64, 128, 128)


def unshuffled(data: Material) -> Tensor:
    """Return pixels (N, 8, 12, S/2, S/2) float16 in [-1, 1], every turn of every image."""
    chunks = []
    for chunk in torch.split(data.images, 512):
        turns = [pixel_unshuffle(turn(to_signed(chunk), n), 2).half() for n in range(TURNS)]
        chunks.append(torch.stack(turns, dim=1))
    return torch.cat(chunks)


class Unshuffled:
    """Stands where the sampler expects an autoencoder: decoding puts the pixels back."""

    dtype = torch.float32
    config = SimpleNamespace(block_out_channels=(0, 0), latent_channels=12, scaling_factor=1.0)

    def requires_grad_(self, _on: bool) -> "Unshuffled":
        """It has no weights."""
        return self

    def to(self, _device: str) -> "Unshuffled":
        """It lies nowhere."""
        return self

    @staticmethod
    def decode(latents: Tensor) -> SimpleNamespace:
        """Return (B, 3, S, S) for (B, 12, S/2, S/2)."""
        return SimpleNamespace(sample=pixel_shuffle(latents, 2))


def pixel_loop(config: BaseConfig, prepared: Path, out: Path) -> tuple[Loop, object]:
    """Return the loop of the second stage over pixels, and the tokenizer."""
    data = load_material(load_plan(prepared).learn)
    latents = replace(data, latents=unshuffled(data))
    training = pretraining(latents, config, Unshuffled())
    loop = loop_of(task_of(training, latents), config, out / "checkpoints")
    return loop, training.tokenizer


@click.command()
@click.option("--prepared", type=click.Path(path_type=Path), required=True)
@click.option("--data", required=True)
@click.option("--features", type=click.Path(path_type=Path), required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--cache", type=click.Path(path_type=Path))
@click.option("--steps", default=2600)
@click.option("--per-class", default=25)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="As of the latents.")
def main(
    prepared: Path,
    data: str,
    features: Path,
    out: Path,
    cache: Path | None,
    steps: int,
    per_class: int,
    overrides: tuple[str, ...],
) -> None:
    """Train, then judge as `factory judge` does."""
    lengths = [
        f"denoiser.channels={list(CHANNELS)}",
        f"denoiser.steps={steps}",
        f"denoiser.decay_steps={steps // 3}",
    ]
    config = load_config(BaseConfig, "wbc_base", [*lengths, *overrides])
    loop, tokenizer = pixel_loop(config, prepared, out)
    for progress in loop.run():
        if progress.step % 50 == 0:
            print(describe(progress), f"CPU {time.process_time() / 60:.1f} min", flush=True)

    with loop.ema.applied(loop.model):
        trained = copy.deepcopy(loop.model).eval()
    pipeline = SimpleNamespace(
        unet=trained.unet,
        vae=Unshuffled(),
        tokenizer=tokenizer,
        text_encoder=trained.text_encoder,
        scheduler=training_scheduler(),
    )
    base = find_generator("wbc-base")
    engine = Engine(base)
    engine.generator = replace(base, model_id=f"pixel-{steps}")
    engine._drawers = {"text": TextMethod(pipeline, "cpu")}
    keys = ("part=val", "reference=train", f"features={features}")
    judging = load_config(JudgeConfig, "judge", keys)
    kept, split = ArrayCache(folder=cache or out / "cache"), load_split(prepared / SPLIT)
    dataset = open_dataset(data, label=config.label, attributes=config.attributes)
    by, classes, _ = open_judgement(judging, base, dataset, split, cache=kept)
    asked = settings_for(judging.generate, base, tuple(classes))
    plan = make_plan(
        asked.model_copy(update={"num_images": per_class * len(classes)}), engine.generator
    )
    drawn = draw_plan("pixels", engine.generator, plan, "float32", cache=kept, engine=engine)
    for row in overall([measure_floor(by, len(drawn)), measure(drawn, by)[0]]):
        print(" | ".join(row))


if __name__ == "__main__":
    main()
