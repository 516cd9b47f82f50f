"""The loop from noise to images: down the noise levels with any solver, up again by adding noise.

A plain sampling goes down once. One that starts from an image begins lower; RePaint climbs back now
and then, and what lies between two climbs is a sampling of its own.
"""

from collections.abc import Callable, Sequence
from inspect import signature
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from factory.device import up
from factory.sample.levels import SolverLevels
from factory.sample.schedulers import SCHEDULERS

Predict = Callable[[Tensor, Any], Tensor]
"""Noisy (B, C, h, w) and a timestep, one for all or (B,), to predictions of the same shape."""
DOWN, UP = -1, 1


def denoise(
    predict: Predict,
    solver: Any,
    state: Tensor,
    *,
    timesteps: Sequence[Any] | None = None,
    generators: Sequence[torch.Generator] | None = None,
) -> Tensor:
    """Run a solver from `state` (B, C, h, w) through its timesteps, by default all of them.

    Args:
        predict: the network with its conditions and guidance, see `factory.sample.guidance`.
        solver: fresh from `make_scheduler`.
        state: as noisy as the first timestep: standard normal at the noisiest.
        timesteps: a stretch of the solver's own.
        generators: one per image, for solvers that draw noise.
    """
    takes = generators is not None and "generator" in signature(solver.step).parameters
    extra = {"generator": list(generators or ())} if takes else {}
    stops = solver.timesteps if timesteps is None else timesteps
    told = up(stops, state.device) if isinstance(stops, Tensor) else stops  # all of them at once
    for timestep, shown in zip(stops, told, strict=True):  # solvers count on the host
        scaled = solver.scale_model_input(state, timestep)
        state = solver.step(predict(scaled, shown), timestep, state, **extra).prev_sample
    return state


def walk(
    start: Tensor,
    predict: Callable[[Tensor, int], Tensor],
    levels: SolverLevels,
    moves: Sequence[int],
    *,
    first: int,
    generators: Sequence[torch.Generator],
    before: Callable[[Tensor, int], Tensor] = lambda state, _level: state,
) -> Tensor:
    """Return where `moves` lead from `start` (B, C, h, w) at level `first`.

    Args:
        start: noisy as level `first` is.
        predict: (state, level) to a prediction of the solver's kind.
        levels: with their solver, which forgets its history at every climb.
        moves: of `DOWN` and `UP`.
        first: level of `start`.
        generators: one per image: of the noise of stochastic solvers and of climbs.
        before: called on the state ahead of every move down; what it returns is denoised.
    """

    def told(level: int) -> Predict:
        return lambda noisy, _timestep: predict(noisy, level)

    drawing = generators if SCHEDULERS[levels.scheduler].noisy else None
    state, level = start, first
    for move, stretch in groupby(moves):
        count = len(list(stretch))
        if move == UP:
            for above in range(level + 1, level + count + 1):
                kept = levels.alphas_cumprod[above] / levels.alphas_cumprod[above - 1]
                state = kept.sqrt() * state + (1 - kept).sqrt() * noise_like(state, generators)
            level += count
            continue
        solver = levels.solver(level)
        for below in range(count):
            at = level - below
            timestep = solver.timesteps[levels.top - at]
            state = denoise(
                told(at),
                solver,
                before(state, at),
                timesteps=[timestep],
                generators=drawing,
            )
        level -= count
    return state


def repaint_moves(steps: int, *, jump_length: int, repeats: int) -> list[int]:
    """Return the moves of RePaint from level `steps` to the clean image.

    Every `jump_length` levels the walk climbs back as far, `repeats` - 1 times, except within the
    first span below pure noise. 200 levels, length 10, 5 repeats: 960 moves down, 760 up.
    Source: A. Lugmayr et al., RePaint, 2022, algorithm 1 and appendix B.
    """
    left = dict.fromkeys(range(1, steps - jump_length + 1, jump_length), repeats - 1)
    moves, level = [], steps
    while level > 0:
        moves.append(DOWN)
        level -= 1
        if left.get(level, 0):
            left[level] -= 1
            moves += [UP] * jump_length
            level += jump_length
    return moves


def noise_like(state: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Return standard normal noise like `state`, each image's from its own generator."""
    drawn = [torch.randn(state.shape[1:], generator=generator) for generator in generators]
    return up(torch.stack(drawn), state.device)
