"""Drawing: our engine against the loops that people write around a diffusers pipeline.

    python -m tests.bench.peers.draw [--num-images 256] [--rounds 5]

The same folder of weights, prompts, scheduler (DPM-Solver++ 2M), steps, guidance and number of
images. Three loops: a batch of one image, the batch that draws fastest here, and that with the
networks in channels_last as well, which our engine has by itself. Ours also gives every image noise
of its own and the same bits whatever its neighbours are, which none of the loops does.
"""

import os
import time
from collections.abc import Callable
from typing import Any

import click
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

from factory.config import load_config
from factory.models.generator import find_generator
from factory.models.pipeline import DTYPES
from factory.sample.config import GenerateConfig
from factory.sample.engine import Engine
from factory.sample.prepare import make_plan, with_classes, with_seed
from tests.bench.peers.tables import print_table, ranged, ratios

BATCHES = (4, 8, 16, 32)
"""Of which the loop takes the fastest."""


def plain_pipeline(folder: str, dtype: str, *, channels_last: bool) -> Any:
    """Return what a diffusers user has after four lines: nothing of ours is in it."""
    pipeline = StableDiffusionPipeline.from_pretrained(
        folder, safety_checker=None, local_files_only=True, dtype=DTYPES[dtype]
    )
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(
        pipeline.scheduler.config, algorithm_type="dpmsolver++", timestep_spacing="trailing"
    )
    pipeline.set_progress_bar_config(disable=True)
    if channels_last:
        pipeline.unet.to(memory_format=torch.channels_last)
        pipeline.vae.to(memory_format=torch.channels_last)
    return pipeline


Rates = tuple[float, float]
"""Images a second of the clock, and of the CPU, which work beside it slows less."""


def timed(work: Callable[[], object], images: int) -> Rates:
    """Return the rates of drawing `images` by `work`."""
    begun, cpu = time.perf_counter(), time.process_time()
    work()
    return images / (time.perf_counter() - begun), images / (time.process_time() - cpu)


def looped(pipeline: Any, config: GenerateConfig, size_px: int, batch: int, images: int) -> Rates:
    """Return the rates of drawing `images`, PIL images out."""
    prompts = [str(prompt) for prompt in config.classes.values()]
    wanted = [prompts[number % len(prompts)] for number in range(images)]

    def work() -> None:
        for start in range(0, images, batch):
            pipeline(
                wanted[start : start + batch],
                num_inference_steps=config.num_inference_steps,
                guidance_scale=config.guidance_scale,
                height=size_px,
                width=size_px,
            )

    return timed(work, images)


@click.command()
@click.option("--model", default="wbc-base")
@click.option("--num-images", default=256)
@click.option("--dtype", default="float32", type=click.Choice(["float32", "bfloat16"]))
@click.option("--rounds", default=5)
def main(model: str, num_images: int, dtype: str, rounds: int) -> None:
    """Print images/s of all, and ours / theirs."""
    generator = find_generator(model)
    asked = load_config(GenerateConfig, "wbc", [f"model={model}", f"num_images={num_images}"])
    config = with_seed(with_classes(asked, generator))
    engine = Engine(generator, dtype=dtype)
    plain = plain_pipeline(str(generator.folder), dtype, channels_last=False)
    tuned = plain_pipeline(str(generator.folder), dtype, channels_last=True)
    size_px = generator.size_px

    def ours(batch_size: int) -> Rates:
        shaped = config.model_copy(update={"batch_size": batch_size})
        plan = make_plan(shaped, generator)

        def work() -> None:
            for batch in plan.batches():
                engine.draw(batch)

        return timed(work, num_images)

    tried = {batch: looped(plain, config, size_px, batch, 32)[1] for batch in BATCHES}
    best = max(tried, key=lambda batch: tried[batch])
    told = ", ".join(f"{batch}: {rate:.1f}" for batch, rate in tried.items())
    print(
        f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}"
    )
    print(f"{num_images} images, {config.num_inference_steps} steps, {dtype}, {rounds} rounds;"
          f" images a CPU second of the loop by batch {told}")  # fmt: skip

    few = max(8, num_images // 8)
    runs: dict[str, Callable[[], Rates]] = {
        f"our engine, batch {config.batch_size}": lambda: ours(config.batch_size),
        f"our engine, batch {best}": lambda: ours(best),
        "diffusers, an image at a time": lambda: looped(plain, config, size_px, 1, few),
        f"diffusers, batch {best}": lambda: looped(plain, config, size_px, best, num_images),
        f"diffusers, batch {best}, channels_last": lambda: looped(
            tuned, config, size_px, best, num_images
        ),
    }
    found: dict[str, list[Rates]] = {name: [] for name in runs}
    for number in range(rounds + 1):  # the first one warms
        for name, run in runs.items():
            rates = run()
            found[name] += [rates] if number else []
    own = [list(values) for values in zip(*next(iter(found.values())), strict=True)]
    rows = []
    for name, every in found.items():
        cells = [name]
        for first, second in zip(own, zip(*every, strict=True), strict=True):
            cells += [ranged(second), ranged(ratios(first, second), "{:.2f}")]
        rows.append(cells)
    print_table(["what", "images/s", "ours / it", "images a CPU s", "ours / it"], rows)


if __name__ == "__main__":
    main()
