"""What a training step sees, draws and weighs: a function of the step alone.

Nothing is carried from step to step, so a resumed run needs no sampler state: it continues with
the same images, augmentations, noise and rate as if it had never stopped. And everything is drawn
for the whole batch of a step before each worker takes its part: their number changes no result.
"""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Rows = TypeVar("Rows", Tensor, NDArray[np.int64], range)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one worker computes in one go of a step's batch: every `of`-th image from `number`."""

    step: int
    number: int = 0
    of: int = 1

    def take(self, rows: Rows) -> Rows:
        """Return this part of rows that were made for the whole batch."""
        return rows[self.number :: self.of]

    def weight(self, batch_size: int) -> float:
        """Return what the mean over this part counts beside those of others: 1 if all are equal.

        Parts of an elastic group may differ by an image.
        """
        return len(self.take(range(batch_size))) * self.of / batch_size


def parts(step: int, *, rank: int, world_size: int, accumulate: int) -> Iterator[Part]:
    """Yield the parts of `step` that worker `rank` of `world_size` computes one after another."""
    for round_ in range(accumulate):
        yield Part(step=step, number=rank + world_size * round_, of=world_size * accumulate)


def step_indices(step: int, *, batch_size: int, num_images: int, seed: int) -> NDArray[np.int64]:
    """Return the (batch_size,) image indices of a step: one seeded permutation per epoch.

    Every image comes at most once an epoch; the last incomplete batch of an epoch is left out. A
    set smaller than a batch is repeated within it.
    """
    steps_per_epoch = max(1, num_images // batch_size)
    epoch, place = divmod(step, steps_per_epoch)
    order = _philox(seed, epoch, stream=0).permutation(num_images)
    return np.resize(order, steps_per_epoch * batch_size)[place * batch_size :][:batch_size]


def step_generator(step: int, *, seed: int, stream: int = 0) -> torch.Generator:
    """Return a CPU generator for what is drawn within one step; each purpose has its `stream`."""
    state = int(_philox(seed, step, stream=1 + stream).integers(2**63))
    return torch.Generator().manual_seed(state)


def step_random(step: int, *, seed: int, place: int) -> random.Random:
    """Return a stdlib generator for the image at `place` of a step's batch."""
    return random.Random(f"{seed}/{step}/{place}")


def _philox(seed: int, counter: int, *, stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, stream], counter=[0, 0, 0, counter]))


def warmup_hold_decay(
    step: int,
    *,
    steps: int,
    warmup_steps: int,
    decay_steps: int,
    final_fraction: float = 0.02,
) -> float:
    """Return the factor on the base learning rate at `step` (0-based) of `steps`.

    Linear warm-up, constant, then a half cosine to `final_fraction`. Holding makes a run
    extendable: any checkpoint before the decay can be continued for longer, or decayed early
    (S. Hu et al., MiniCPM, 2024, section 4; measured here: without decay the cells stay noisy).
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if step < steps - decay_steps:
        return 1.0
    progress = (step - (steps - decay_steps)) / max(1, decay_steps)
    return final_fraction + (1 - final_fraction) * 0.5 * (1 + math.cos(math.pi * min(1, progress)))
