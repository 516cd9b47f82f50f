"""Our default sampler against what the seeds do: per class, 50 PNDM steps, batch 10, guidance.

    python -m tests.bench.bench_seed_loop [--per-class 20] [--rounds 5]
    python -m tests.bench.bench_seed_loop --model wbc-base      # 10 steps under guidance

The KID of both is measured by `factory judge --set generate.scheduler=pndm`.
"""

import time

import click

from factory.config import load_config
from factory.models.generator import find_generator
from factory.models.pipeline import load_pipeline
from factory.sample.config import GenerateConfig
from factory.sample.engine import Engine
from factory.sample.prepare import make_plan, with_classes, with_defaults, with_seed
from factory.sample.schedulers import make_scheduler
from tests.bench.timing import alternate, told


@click.command()
@click.option("--model", default="wbc-base-fast", help="What our sampler draws with.")
@click.option("--loop-model", default="wbc-base", help="What the loop draws with: the teacher.")
@click.option("--per-class", default=20)
@click.option("--rounds", default=5)
def main(model: str, loop_model: str, per_class: int, rounds: int) -> None:
    """Print images/s of both and their ratio."""
    generator = find_generator(model)
    config = with_classes(load_config(GenerateConfig, "wbc", [f"model={model}"]), generator)
    guidance_scale = config.guidance_scale
    wanted = per_class * len(config.classes)
    full = -(-wanted // config.batch_size) * config.batch_size  # a rate, so of whole batches
    config = with_defaults(with_seed(config.model_copy(update={"num_images": full})), generator)
    engine, plan = Engine(generator), make_plan(config, generator)
    pipeline = load_pipeline(find_generator(loop_model))
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = make_scheduler("pndm", pipeline.scheduler.config, 50)

    def ours() -> float:
        begun = time.perf_counter()
        for batch in plan.batches():
            engine.draw(batch)
        return config.num_images / (time.perf_counter() - begun)

    def theirs() -> float:
        begun = time.perf_counter()
        for prompt in config.classes.values():
            for start in range(0, per_class, 10):
                pipeline(
                    [str(prompt)] * min(10, per_class - start),
                    num_inference_steps=50,
                    guidance_scale=guidance_scale,
                    height=generator.size_px,
                    width=generator.size_px,
                )
        return wanted / (time.perf_counter() - begun)

    fast, slow = alternate(ours, theirs, rounds=rounds)
    print(told("default sampler", fast, "images/s"))
    print(told("per-class PNDM loop", slow, "images/s"))
    print(told("ratio", [a / b for a, b in zip(fast, slow, strict=True)], ""), "bar 20")


if __name__ == "__main__":
    main()
