"""Time to a fixed validation loss: min-SNR + EMA + cosine against the seed's plain recipe.

Same network, same latents of the demo set, same batches and noise, same peak rate. The plain recipe
is a constant rate, every noise level weighs the same, no average. The goal is the lowest
unweighted validation loss that the plain run reaches; ours is given half its steps. What counts
is when each first comes below the goal, in seconds of training (validation left out).
"""

import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn

from factory.finetune.latents import encode_turned, pick_turns
from factory.finetune.loop import Loop, LoopConfig
from factory.finetune.losses import add_noise, denoising_loss, training_scheduler
from factory.finetune.order import Part, step_indices
from factory.models.generator import find_generator
from factory.models.pipeline import load_pipeline
from factory.models.unets import small_unet
from factory.real.sources import open_dataset
from tests.bench.timing import told

BATCH, RATE, HELD_OUT = 16, 4e-4, 64
CONTEXT = 16


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Seconds of training and the unweighted validation loss, at every look."""

    seconds: Sequence[float]
    losses: Sequence[float]

    def reaches(self, goal: float) -> float:
        """Return the seconds after which the loss is first at or below `goal`; inf: never."""
        looks = zip(self.seconds, self.losses, strict=True)
        return next((s for s, loss in looks if loss <= goal), math.inf)


def latents_of_demo_set(images: int) -> tuple[Tensor, Tensor]:
    """Return scaled latents (N, 8, C, h, w) to learn from, and `HELD_OUT` to look at."""
    vae = load_pipeline(find_generator("wbc-base")).vae
    dataset = open_dataset(f"smear:{images + HELD_OUT}")
    encoded = encode_turned(vae, torch.from_numpy(dataset.array(64, dataset.ids)))
    order = torch.randperm(len(encoded), generator=torch.Generator().manual_seed(0))
    scaled = encoded[order].float() * vae.config.scaling_factor
    return scaled[HELD_OUT:], scaled[:HELD_OUT]


def run(
    recipe: str, data: tuple[Tensor, Tensor], *, steps: int, seed: int, look_every: int
) -> Curve:
    """Train one recipe to its end, looking at the held-out latents now and then."""
    learnt, held_out = data
    ours = recipe == "ours"
    scheduler = DDPMScheduler.from_config(training_scheduler().config, prediction_type="epsilon")
    torch.manual_seed(seed)  # noqa: TID251 -- initial weights have no generator argument
    channels, side = learnt.shape[2], learnt.shape[3]
    unet = small_unet(sample_size_latent=side, channels=(64, 96), cross_attention_dim=CONTEXT)
    assert unet.config.in_channels == channels
    context = torch.zeros(BATCH, 1, CONTEXT)

    def loss_of(module: nn.Module, part: Part) -> dict[str, Tensor]:
        rows = step_indices(part.step, batch_size=BATCH, num_images=len(learnt), seed=seed)
        clean = pick_turns(learnt, torch.from_numpy(rows), part, seed=seed)
        noised = add_noise(scheduler, clean, part, batch_size=BATCH, seed=seed)
        prediction = module(noised.noisy, noised.timesteps, context).sample
        gamma = 5.0 if ours else None
        return {"loss": denoising_loss(scheduler, noised, prediction, snr_gamma=gamma)}

    loop = Loop(
        unet,
        loss_of,
        LoopConfig(
            steps=steps,
            batch_size=BATCH,
            learning_rate=RATE,
            warmup_steps=steps // 20 if ours else 0,
            decay_steps=steps - steps // 20 if ours else 0,
            final_fraction=0.0 if ours else 1.0,
            weight_decay=0.01,
            ema_decay=0.995 if ours else 0.0,
            precision="float32",
        ),
    )
    return _looked_at(loop, scheduler, held_out[:, 0], averaged=ours, look_every=look_every)


def _looked_at(
    loop: Loop, scheduler: DDPMScheduler, held_out: Tensor, *, averaged: bool, look_every: int
) -> Curve:
    noised = add_noise(scheduler, held_out, Part(step=0), batch_size=len(held_out), seed=987)
    context = torch.zeros(len(held_out), 1, CONTEXT)
    seconds, losses, spent = [], [], 0.0
    begun = time.perf_counter()
    for progress in loop.run():
        if progress.step % look_every and progress.step != progress.steps:
            continue
        spent += time.perf_counter() - begun
        with loop.ema.applied(loop.model) if averaged else nullcontext(), torch.no_grad():
            found = loop.model(noised.noisy, noised.timesteps, context).sample
        seconds.append(spent)
        losses.append(float(denoising_loss(scheduler, noised, found, snr_gamma=None)))
        begun = time.perf_counter()
    return Curve(seconds=seconds, losses=losses)


def compare_recipes(*, plain_steps: int, seeds: Sequence[int], images: int = 400) -> None:
    """Print when both recipes reach the plain one's best loss, and the ratio."""
    data = latents_of_demo_set(images)
    look_every = max(1, plain_steps // 50)
    plain_seconds, our_seconds, ratios = [], [], []
    for seed in seeds:
        curves = {
            name: run(name, data, steps=steps, seed=seed, look_every=look_every)
            for name, steps in (("plain", plain_steps), ("ours", plain_steps // 2))
        }
        goal = min(curves["plain"].losses)
        plain_seconds.append(curves["plain"].reaches(goal))
        our_seconds.append(curves["ours"].reaches(goal))
        ratios.append(plain_seconds[-1] / our_seconds[-1])
        print(f"seed {seed}: goal {goal:.4f}, ours ends at {curves['ours'].losses[-1]:.4f}")
    print(told("plain recipe reaches it after", plain_seconds, "s"))
    print(told("min-SNR + EMA + cosine", our_seconds, "s"))
    print(told("plain / ours", ratios, ""), "bar 1.5 (0: never reached)")
