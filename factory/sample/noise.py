"""Counter-based noise: an image's noise is a function of its seed, not of who draws when.

The only source of randomness in sampling. Philox (J. Salmon et al., Parallel Random Numbers: As
Easy as 1, 2, 3, 2011) is keyed by the image's seed and a stream number.
"""

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor


class Stream(IntEnum):
    """Independent noises of one image."""

    INITIAL = 0
    STEPS = 1


def image_noise(seed: int, shape: Sequence[int], *, stream: Stream = Stream.INITIAL) -> Tensor:
    """Return standard normal float32 noise of `shape` for one image, on the CPU."""
    bits = np.random.Philox(key=[seed, int(stream)])
    values = np.random.Generator(bits).standard_normal(tuple(shape), dtype=np.float64)
    return torch.from_numpy(values.astype(np.float32))


def batch_noise(seeds: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Return initial noise (len(seeds), *shape): each slot from its own seed."""
    return torch.stack([image_noise(seed, shape) for seed in seeds])


def step_generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """Return a CPU generator per image, for schedulers that add noise at every step (DDPM)."""
    keys = [
        int(np.random.Generator(np.random.Philox(key=[seed, int(Stream.STEPS)])).integers(2**63))
        for seed in seeds
    ]
    return [torch.Generator().manual_seed(key) for key in keys]
