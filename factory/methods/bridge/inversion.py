"""DDIM inversion and denoising: the deterministic way from an image to its noise, and back.

Source: J. Song et al., Denoising Diffusion Implicit Models, 2021, eq. 12 with eta 0, run in both
directions as X. Su et al., Dual Diffusion Implicit Bridges, 2023. Nothing is clipped.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from factory.device import up
from factory.sample.levels import Levels

Predict = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Noisy (B, C, h, w), timesteps (B,), and which image each row is (B,), to predictions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inverted:
    """Where an inversion stands: `state` (B, C, h, w) at `level`, and the `clean` image in it."""

    level: int
    state: Tensor
    clean: Tensor


def invert(
    predict: Predict, levels: Levels, clean: Tensor, *, corrections: int = 0
) -> Iterator[Inverted]:
    """Yield levels 0, 1, .. N of an inversion, each step done when it is asked for.

    A step up has to use the noise that the step down will see, at a state not known yet. The
    network is asked at the level above about the state below, and again about each result,
    `corrections` times: a fixed-point iteration (Z. Pan et al., Effective Real Image Editing with
    Accelerated Iterative Diffusion Inversion, 2023).

    Args:
        predict: the source's network; called 1 + `corrections` times a step.
        levels: those to climb.
        clean: (B, C, h, w) images or scaled latents.
        corrections: 0 is DDIM inversion as diffusers and DDIB do it.
    """
    yield Inverted(level=0, state=clean, clean=clean)
    rows = torch.arange(len(clean), device=clean.device)
    timesteps = up(levels.timesteps, clean.device)
    state = clean
    for level in range(1, levels.top + 1):
        guess = state
        for _ in range(1 + corrections):
            predicted = predict(guess, timesteps[level].expand(len(clean)), rows)
            _, noise = levels.clean_and_noise(predicted, guess, level)
            estimate = _without(levels, state, noise, level - 1)
            guess = levels.at(level, estimate, noise)
        state = guess
        yield Inverted(level=level, state=state, clean=estimate)


def _without(levels: Levels, state: Tensor, noise: Tensor, level: int) -> Tensor:
    """Return the clean image that `noise` leaves of `state` at `level`, which is not the top."""
    at_level = levels.at(level, torch.zeros_like(state), noise)
    signal = levels.at(level, torch.ones_like(state), torch.zeros_like(state))
    return (state - at_level) / signal


def denoise_from(
    predict: Predict, levels: Levels, states: Tensor, depths: Sequence[int], *, slots: int
) -> Tensor:
    """Return the clean images (n, C, h, w) of `states`, each from its own level down to 0.

    Images of different depths share forwards of one fixed shape: a slot whose image is done takes
    the next one, the deepest first. So an image's bits do not depend on the depths beside it, and
    few slots run empty.

    Args:
        predict: the target's network, called with exactly `slots` rows; empty ones repeat a row.
        levels: those to descend.
        states: (n, C, h, w).
        depths: n levels, 0 .. N.
        slots: rows of a forward.
    """
    images, there, shifts = states.clone(), levels.on(states.device), _shifts(depths, slots)
    if not shifts:
        return images
    planned = up(torch.tensor([[rows, level] for rows, level, _ in shifts]), states.device)
    for (rows, level), (*_, busy) in zip(planned, shifts, strict=True):
        noisy = images[rows]
        predicted = predict(noisy, there.timesteps[level], rows)
        moved = there.at(level - 1, *there.clean_and_noise(predicted, noisy, level))
        images[rows[:busy]] = moved[:busy]
    return images


def _shifts(depths: Sequence[int], slots: int) -> list[tuple[list[int], list[int], int]]:
    """Return of every forward: the image in each slot, its level, and how many slots are busy."""
    left, active = list(depths), list[int]()
    waiting = sorted((row for row, depth in enumerate(depths) if depth), key=lambda r: depths[r])
    shifts = []
    while waiting or active:
        while waiting and len(active) < slots:
            active.append(waiting.pop())
        rows = [*active, *[active[-1]] * (slots - len(active))]
        shifts.append((rows, [left[row] for row in rows], len(active)))
        for row in active:
            left[row] -= 1
        active = [row for row in active if left[row]]
    return shifts


def evaluations_of(
    inverted_to: int, depths: Sequence[int], *, corrections: int = 0, sides: int = 1
) -> int:
    """Return the network evaluations of one source image, known before it is drawn.

    Args:
        inverted_to: the deepest level that its inversion reaches.
        depths: the levels from which it is denoised.
        corrections: see `invert`.
        sides: predictions a denoising step asks for, 2 with guidance.
    """
    return (1 + corrections) * inverted_to + sides * sum(depths)
