"""The trainer: Ray Train against a bare loop, cached latents, our recipe, saving.

    python -m tests.bench.bench_trainer [--only ray|latents|recipe|saving] [--threads 1]

Each is a ratio of two things measured in turn, in one run. Data: the drawn demo set.
"""

import copy
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from factory.config import load_config
from factory.finetune.data import Material
from factory.finetune.latents import to_signed, turn
from factory.finetune.loop import Loop
from factory.finetune.method import task_of
from factory.finetune.order import Part
from factory.finetune.plan import Plan
from factory.finetune.run import load_plan, loop_of, prepare
from factory.finetune.state import trainable
from factory.finetune.train import follow, this_worker, train_on_ray
from factory.methods.text.adapt import Adaptation, adapt
from factory.methods.text.config import FinetuneConfig
from factory.methods.text.train import base_of, encoded_part
from factory.models.generator import find_generator
from factory.models.pipeline import load_pipeline
from factory.real.dataset import RealDataset
from factory.real.sources import open_dataset
from factory.sample.session import ray_session
from tests.bench.recipes import compare_recipes
from tests.bench.timing import alternate, told
from tests.fakes.splits import split_of
from tests.fakes.stable_diffusion import TEXT_ENCODERS, UNETS

BASE = "wbc-base"


def planned(folder: Path, *overrides: str) -> tuple[Plan, RealDataset]:
    """Return a fine-tuning of wbc-base on the demo set, prepared."""
    dataset = open_dataset("smear:120")
    split = split_of(dataset, train=0.8, val=0.2)
    known = [f"base={BASE}", "separate=false", "n_shot=null", "validation.draw_every=null"]
    config = load_config(FinetuneConfig, "cytodiff", [*known, *overrides])
    return prepare(config, dataset, split, folder), dataset


def material_of(plan: Plan) -> Material:
    """Return the images to learn from with their latents."""
    base = base_of(plan)
    return encoded_part(plan, plan.learn, base, load_pipeline(base).vae)


def adapted(plan: Plan, material: Material, pipeline: Any = None) -> Adaptation:
    """Return the base in training, in this process."""
    classes = tuple(sorted(set(material.labels)))
    return adapt(pipeline or load_pipeline(find_generator(BASE)), plan.config, classes)


def stable_diffusion() -> SimpleNamespace:
    """Return a pipeline of SD 1.5's size with random weights; only its vocabulary is ours."""
    ours = load_pipeline(find_generator(BASE))
    words = {"vocab_size": len(ours.tokenizer)}
    return SimpleNamespace(
        unet=UNet2DConditionModel(**UNETS["sd-1.5"]),
        text_encoder=CLIPTextModel(CLIPTextConfig(**TEXT_ENCODERS["sd-1.5"] | words)),
        vae=AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            scaling_factor=0.18215,
        ),
        tokenizer=ours.tokenizer,
        scheduler=ours.scheduler,
    )


def looped(adaptation: Adaptation, material: Material, checkpoints: Path | None = None) -> Loop:
    """Return its loop."""
    return loop_of(task_of(adaptation, material), adaptation.config, checkpoints)


def bare_seconds(adaptation: Adaptation, material: Material, steps: int) -> float:
    """Return the time of a step in the loop that people write: same losses, AdamW, clipping."""
    weights = list(trainable(adaptation.model).values())
    optimizer = torch.optim.AdamW(weights, lr=1e-4, fused=True)
    average = copy.deepcopy([p.detach() for p in weights])
    begun = time.perf_counter()
    for step in range(steps):
        loss = adaptation.loss(material, Part(step=step))["loss"]
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            torch._foreach_lerp_(average, weights, 0.01)
        loss.item()
    return (time.perf_counter() - begun) / steps


def on_worker(settings: dict[str, str]) -> None:
    """Train under Ray and write down the time of a step after the first."""
    torch.set_num_threads(int(settings["threads"]))
    plan = load_plan(Path(settings["output"]))
    material = material_of(plan)
    this_worker("none")
    loop, times = looped(adapted(plan, material), material), []
    inner_step = loop._step

    def step(save_now: Any) -> Any:
        times.append(time.perf_counter())
        return inner_step(save_now)

    loop._step = step  # type: ignore[method-assign]
    follow(loop, log_dir=Path(settings["log"]))
    times.append(time.perf_counter())
    Path(settings["told"]).write_text(str((times[-1] - times[1]) / (len(times) - 2)))


def bench_ray(threads: int, steps: int, rounds: int) -> None:
    """Ray Train step time / bare torch loop of the same step."""
    with tempfile.TemporaryDirectory() as name, ray_session():
        folder = Path(name)
        plan, _ = planned(folder, f"training.steps={steps}")
        material = material_of(plan)
        bare = adapted(plan, material)
        bare_seconds(bare, material, 2)

        def under_ray() -> float:
            place = tempfile.mkdtemp(dir=folder)
            settings = {
                "output": name,
                "told": f"{place}/told",
                "log": place,
                "threads": f"{threads}",
            }
            train_on_ray(
                on_worker,
                settings,
                name=Path(place).name,
                cluster=plan.config.cluster,
                storage=Path(place),
            )
            return float(Path(place, "told").read_text())

        ours, theirs = alternate(
            under_ray, lambda: bare_seconds(bare, material, steps), rounds=rounds
        )
    print(told("step under Ray Train", ours, "s"))
    print(told("step of a bare loop", theirs, "s"))
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    print(told("Ray Train / bare", ratios, ""), "bar 1.05")


class OnTheFly:
    """Stands where the cached latents (N, 8, C, h, w) stand, and encodes what is asked for."""

    def __init__(self, autoencoder: Any, images_uint8: Tensor) -> None:
        self.autoencoder, self.images = autoencoder, images_uint8
        self.shape = (len(images_uint8), 8)

    @torch.no_grad()
    def __getitem__(self, rows: tuple[list[int], list[int]]) -> Tensor:
        turned = [turn(to_signed(self.images[[i]]), n) for i, n in zip(*rows, strict=True)]
        latents: Tensor = self.autoencoder.encode(torch.cat(turned)).latent_dist.sample()
        return latents


def bench_latents(steps: int, rounds: int, base: str, batch_size: int) -> None:
    """Cached latents against encoding every batch anew, in images/s of whole steps, at 64 px."""
    with tempfile.TemporaryDirectory() as name:
        lengths = (f"training.steps={steps}", f"training.batch_size={batch_size}")
        plan, dataset = planned(Path(name), *lengths)
        cached, pipeline = material_of(plan), None
        if base != BASE:
            pipeline = stable_diffusion()
            object.__setattr__(cached, "latents", torch.randn(len(cached.ids), 8, 4, 8, 8))
        adaptation = adapted(plan, cached, pipeline)
        images = torch.from_numpy(dataset.array(64, cached.ids))
        fresh = copy.copy(cached)
        object.__setattr__(fresh, "latents", OnTheFly(adaptation.autoencoder, images))

        def rate(material: Material) -> float:
            *_, last = looped(adaptation, material).run()
            return last.images_per_second

        rate(fresh)  # warm
        first, second = alternate(lambda: rate(cached), lambda: rate(fresh), rounds=rounds)
    print(f"LoRA on {base}, batch {batch_size}")
    print(told("cached latents", first, "images/s"))
    print(told("encoded on the fly", second, "images/s"))
    ratios = [a / b for a, b in zip(first, second, strict=True)]
    print(told("cached / on the fly", ratios, ""), "bar 1.5")


@contextmanager
def counted_saves(loop: Loop, blocked: list[float]) -> Iterator[None]:
    """Add to `blocked` the seconds in which every save kept the loop from its next step."""
    save = loop.save

    def timed() -> None:
        begun = time.perf_counter()
        save()
        blocked.append(time.perf_counter() - begun)

    loop.save = timed  # type: ignore[method-assign]
    yield


def bench_saving(steps: int, interval_seconds: float) -> None:
    """Share of the wall time in which saving all weights of wbc-base blocks its training."""
    with tempfile.TemporaryDirectory() as name:
        plan, _ = planned(
            Path(name),
            "train=full",
            "training.ema_decay=0.999",
            f"training.steps={steps}",
            f"cluster.checkpoint_seconds={interval_seconds}",
        )
        material = material_of(plan)
        loop, blocked = looped(adapted(plan, material), material, Path(name) / "saved"), []
        with counted_saves(loop, blocked):
            begun = time.perf_counter()
            for _ in loop.run():
                pass
            seconds = time.perf_counter() - begun
    print(told("a save blocks", blocked, "s"), f"every {interval_seconds:g} s")
    print(f"blocked / wall: {sum(blocked) / seconds:.4f} (one run of {seconds:.0f} s) bar 0.03")


@click.command()
@click.option("--only", type=click.Choice(["ray", "latents", "recipe", "saving"]))
@click.option("--threads", default=1)
@click.option("--rounds", default=5)
@click.option(
    "--steps", default=60, help="Of a run; the recipes' plain run takes 25 times as many."
)
@click.option("--base", type=click.Choice([BASE, "sd-1.5"]), default=BASE, help="For latents.")
@click.option("--batch-size", default=16, help="For latents.")
@click.option("--interval-seconds", default=20.0, help="Between two saves; 180 is the default.")
def main(
    only: str | None,
    threads: int,
    rounds: int,
    steps: int,
    base: str,
    batch_size: int,
    interval_seconds: float,
) -> None:
    """Print every ratio with its bar."""
    torch.set_num_threads(threads)
    if only in (None, "ray"):
        bench_ray(threads, steps, rounds)
    if only in (None, "latents"):
        bench_latents(steps, rounds, base, batch_size)
    if only in (None, "recipe"):
        compare_recipes(plain_steps=25 * steps, seeds=range(min(3, rounds)))
    if only in (None, "saving"):
        bench_saving(8 * steps, interval_seconds)


if __name__ == "__main__":
    main()
