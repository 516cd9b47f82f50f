"""Stream against a plain diffusers loop: same model, steps, batch; PNG, gates, commits included.

python -m tests.bench.bench_stream [--model wbc-base] [--num-images 256] [--rounds 5]
"""

import statistics
import tempfile
import time
from pathlib import Path

import click

from factory.config import load_config
from factory.models.generator import Generator, find_generator
from factory.models.pipeline import load_pipeline
from factory.sample.config import GenerateConfig
from factory.sample.prepare import prepare, with_classes
from factory.sample.run import RunProgress, execute
from factory.sample.schedulers import make_scheduler
from factory.sample.session import ray_session
from tests.bench.timing import alternate, told


def stream_once(config: GenerateConfig) -> RunProgress:
    """Run a whole fresh run into a fresh catalog; its rate leaves out loading the model."""
    with tempfile.TemporaryDirectory() as folder:
        *_, last = execute(prepare(config, folder))
    return last


def plain_rate(pipeline: object, generator: Generator, config: GenerateConfig) -> float:
    """Return images/s of the loop that people write: prompts in batches, PIL images out."""
    prompts = [str(p) for p in config.classes.values()]
    wanted = [prompts[i % len(prompts)] for i in range(config.num_images)]
    begun = time.perf_counter()
    for start in range(0, len(wanted), config.batch_size):
        pipeline(  # type: ignore[operator]
            wanted[start : start + config.batch_size],
            num_inference_steps=config.num_inference_steps,
            guidance_scale=config.guidance_scale,
            height=generator.size_px,
            width=generator.size_px,
        )
    return len(wanted) / (time.perf_counter() - begun)


@click.command()
@click.option("--model", default="wbc-base")
@click.option("--num-images", default=256)
@click.option("--rounds", default=5)
def main(model: str, num_images: int, rounds: int) -> None:
    """Print both rates, their ratio, and the share of time spent committing."""
    import torch

    generator = find_generator(model)
    overrides = [f"model={model}", f"num_images={num_images}"]
    config = with_classes(load_config(GenerateConfig, "wbc", overrides), generator)
    pipeline = load_pipeline(generator)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = make_scheduler(
        config.scheduler, pipeline.scheduler.config, config.num_inference_steps
    )
    shares: list[float] = []

    def stream() -> float:
        last = stream_once(config)
        shares.append(last.seconds_commit / last.seconds)
        return last.images_per_second

    with ray_session():
        stream()  # warm: Ray's workers, the file cache
        streamed, plain = alternate(
            stream, lambda: plain_rate(pipeline, generator, config), rounds=rounds
        )
    ratios = [a / b for a, b in zip(streamed, plain, strict=True)]
    print(
        f"{config.num_images} images, batch {config.batch_size}, {torch.get_num_threads()} threads"
    )
    print(told("stream", streamed, "images/s"))
    print(told("plain diffusers loop", plain, "images/s"))
    print(told("stream / plain", ratios, ""), "bar 0.90")
    print(told("commit share", shares[1:], ""), "bar 0.02")
    print("median ratio", round(statistics.median(ratios), 3))


if __name__ == "__main__":
    Path("runs").mkdir(exist_ok=True)
    main()
