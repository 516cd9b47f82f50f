"""A training on all cores while other programs hold some: with the factory's waiting and without.

    python -m tests.bench.bench_busy [--others 1] [--steps 10]

Two cores and one other program that computes: 0.43 against 7.4 s a step (17 times), and 0.17
against 0.16 with --others 0.
"""

import multiprocessing
import os
import subprocess
import sys
import time

import click

SPIN = "GOMP_SPINCOUNT"
STEPS = """
import statistics, sys, time
import factory, torch
from factory.models.generator import find_generator
from factory.models.pipeline import load_pipeline
unet = load_pipeline(find_generator("wbc-base")).unet.to(memory_format=torch.channels_last)
latents, texts = torch.randn(8, 4, 16, 16), torch.randn(8, 35, unet.config.cross_attention_dim)
taken = []
for _ in range(int(sys.argv[1]) + 2):
    begun = time.perf_counter()
    unet(latents, torch.full((8,), 5), texts).sample.square().mean().backward()
    taken.append(time.perf_counter() - begun)
print(statistics.median(taken[2:]))
"""


def seconds(steps: int, spins: str | None) -> float:
    """Return the median seconds of a training step of wbc-base's U-Net; spins None: libgomp's."""
    asked = {name: value for name, value in os.environ.items() if name != SPIN}
    asked[SPIN] = spins or "300000"
    run = [sys.executable, "-c", STEPS, str(steps)]
    return float(subprocess.run(run, env=asked, check=True, capture_output=True).stdout)


def compute() -> None:
    """Hold a core, as another program of another terminal does: Linux shares by sessions."""
    os.setsid()
    while True:
        sum(range(10_000))


@click.command(context_settings={"show_default": True})
@click.option("--others", default=1, help="Programs that hold a core each.")
@click.option("--steps", default=10)
def main(others: int, steps: int) -> None:
    """Print both medians and their ratio."""
    busy = [multiprocessing.Process(target=compute, daemon=True) for _ in range(others)]
    for each in busy:
        each.start()
    time.sleep(0.5)
    ours, theirs = seconds(steps, "3000"), seconds(steps, None)
    for each in busy:
        each.terminate()
    print(f"{ours:.3f} s a step, {theirs:.3f} s without; {theirs / ours:.1f} times as fast")


if __name__ == "__main__":
    main()
