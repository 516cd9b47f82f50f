"""A walk through the noise levels of a sampling: down by any solver, up again by adding noise.

Levels are the timesteps that a run keeps of the training schedule, index 0 the least noisy and
index n - 1 nearly pure noise. A plain sampling goes down n times; one that starts from an image
begins lower; RePaint climbs back now and then.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from factory.errors import ConfigError
from factory.sample.schedulers import SCHEDULERS, check_scheduler, make_scheduler

DOWN, UP = -1, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Levels:
    """The noise levels of one sampling with one solver."""

    scheduler: str
    training_config: Any
    timesteps: tuple[int, ...]
    """Ascending; n of them."""
    alphas_cumprod: Tensor
    """(n,): at these timesteps."""

    def solver(self, index: int) -> Any:
        """Return a fresh solver without history that starts at level `index`."""
        solver = make_scheduler(self.scheduler, self.training_config, len(self.timesteps))
        if hasattr(solver, "set_begin_index"):
            solver.set_begin_index(len(self.timesteps) - 1 - index)
        return solver

    def alpha(self, index: int) -> Tensor:
        """Return alphas_cumprod at level `index`; -1 is the clean image, 1."""
        return self.alphas_cumprod[index] if index >= 0 else torch.ones(())

    def noised(self, clean: Tensor, noise: Tensor, index: int) -> Tensor:
        """Return a sample of q(x_t | x_0) at level `index` (Ho et al. 2020, equation 4)."""
        alpha = self.alpha(index)
        return alpha.sqrt() * clean + (1 - alpha).sqrt() * noise


def make_levels(scheduler: str, training_config: Any, num_inference_steps: int) -> Levels:
    """Return the levels of `num_inference_steps` with a solver.

    Raises:
        ConfigError: an unknown solver, or one that cannot be walked.
    """
    if not SCHEDULERS[check_scheduler(scheduler)].walks:
        raise ConfigError(
            f"scheduler {scheduler!r} cannot start from an image or go back",
            remedy=f"Choose {', '.join(n for n, s in SCHEDULERS.items() if s.walks)}",
        )
    solver = make_scheduler(scheduler, training_config, num_inference_steps)
    timesteps = tuple(sorted({int(t) for t in solver.timesteps}))
    return Levels(
        scheduler=scheduler,
        training_config=training_config,
        timesteps=timesteps,
        alphas_cumprod=solver.alphas_cumprod[list(timesteps)],
    )


def repaint_moves(steps: int, *, jump_length: int, repeats: int) -> list[int]:
    """Return the moves of RePaint from level `steps` - 1 to the clean image.

    Every `jump_length` levels the walk climbs back as far, `repeats` - 1 times, except within the
    first span below pure noise. 200 levels, length 10, 5 repeats: 960 moves down, 760 up.
    Source: A. Lugmayr et al., RePaint, 2022, algorithm 1 and appendix B.
    """
    left = dict.fromkeys(range(0, steps - jump_length, jump_length), repeats - 1)
    moves, index = [], steps - 1
    while index >= 0:
        moves.append(DOWN)
        index -= 1
        if left.get(index, 0):
            left[index] -= 1
            moves += [UP] * jump_length
            index += jump_length
    return moves


def walk(
    start: Tensor,
    predict: Callable[[Tensor, int], Tensor],
    levels: Levels,
    moves: Sequence[int],
    *,
    first: int,
    generators: Sequence[torch.Generator],
    before: Callable[[Tensor, int], Tensor] = lambda sample, _index: sample,
) -> Tensor:
    """Return where `moves` lead from `start` (B, C, h, w) at level `first`.

    Args:
        start: noisy as level `first` is.
        predict: (sample, level) to a prediction of the solver's kind.
        levels: with their solver, which forgets its history at every climb.
        moves: of `DOWN` and `UP`.
        first: level of `start`.
        generators: one per image: of the noise of stochastic solvers and of climbs.
        before: called on the sample ahead of every move down.
    """
    extra = {"generator": list(generators)} if SCHEDULERS[levels.scheduler].noisy else {}
    sample, index, solver = start, first, None
    for move in moves:
        if move == UP:
            kept = levels.alpha(index + 1) / levels.alpha(index)
            sample = kept.sqrt() * sample + (1 - kept).sqrt() * noise_like(sample, generators)
            index, solver = index + 1, None
            continue
        solver = solver or levels.solver(index)
        sample = before(sample, index)
        timestep = solver.timesteps[len(levels.timesteps) - 1 - index]
        sample = solver.step(predict(sample, index), timestep, sample, **extra).prev_sample
        index -= 1
    return sample


def noise_like(sample: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Return standard normal noise like `sample`, each image's from its own generator."""
    drawn = [torch.randn(sample.shape[1:], generator=generator) for generator in generators]
    return torch.stack(drawn).to(sample.device)


def to_clean(kind: str, sample: Tensor, prediction: Tensor, alpha: Tensor) -> Tensor:
    """Return x_0 (B, C, h, w) that a prediction of `kind` amounts to at noise level `alpha`.

    Source: Ho et al. 2020, equation 15 (noise); Salimans and Ho 2022, appendix D (velocity).
    """
    if kind == "v_prediction":
        return alpha.sqrt() * sample - (1 - alpha).sqrt() * prediction
    if kind == "epsilon":
        return (sample - (1 - alpha).sqrt() * prediction) / alpha.sqrt()
    return prediction


def from_clean(kind: str, sample: Tensor, clean: Tensor, alpha: Tensor) -> Tensor:
    """Return the prediction of `kind` that amounts to `clean`: the inverse of `to_clean`."""
    if kind == "v_prediction":
        return (alpha.sqrt() * sample - clean) / (1 - alpha).sqrt()
    if kind == "epsilon":
        return (sample - alpha.sqrt() * clean) / (1 - alpha).sqrt()
    return clean
