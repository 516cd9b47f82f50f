"""Noise levels: how much image and noise a state holds, and how a prediction reads there."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from factory.errors import ConfigError
from factory.sample.schedulers import SCHEDULERS, check_scheduler, make_scheduler

PREDICTIONS = ("epsilon", "v_prediction", "sample")


@dataclass(frozen=True, kw_only=True, eq=False)
class Levels:
    """Noise levels 0 (clean) .. N (noisiest) that a run keeps of the training schedule.

    Level 0 has no noise at all, so the last step of a denoising returns the estimate of the clean
    image. The original of the bridge began at the first noisy level and decoded one level below the
    one that it had inverted to; here both directions name the same levels.
    """

    alphas_cumprod: Tensor
    """(N + 1,) cumulative products of 1 - beta, falling from 1."""
    timesteps: Tensor
    """(N + 1,) what the network is told, int64; level 0 is shown to it as timestep 0."""
    prediction_type: str

    @property
    def top(self) -> int:
        """N, the noisiest level."""
        return len(self.alphas_cumprod) - 1

    def on(self, device: torch.device | str) -> Self:
        """Return the same levels where rows of states ask for theirs, see `scales`."""
        return replace(
            self,
            alphas_cumprod=self.alphas_cumprod.to(device),
            timesteps=self.timesteps.to(device),
        )

    def scales(self, level: Tensor | int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return the shares of image and noise at a level, or at those (B,) of the rows of `like`.

        sqrt(alphas_cumprod) and sqrt(1 - alphas_cumprod), Ho et al. 2020, equation 4. One level for
        all is a number, which a GPU takes from the host without a copy; those of rows lie where
        the levels do.
        """
        alphas = self.alphas_cumprod[level]
        if alphas.ndim:
            alphas = alphas.view(-1, *[1] * (like.ndim - 1))
        return alphas.sqrt().to(like.dtype), (1 - alphas).sqrt().to(like.dtype)

    def at(self, level: Tensor | int, clean: Tensor, noise: Tensor) -> Tensor:
        """Return `clean` (B, C, h, w) with so much of `noise` as the level has."""
        signal, sigma = self.scales(level, clean)
        return signal * clean + sigma * noise

    def clean(self, predicted: Tensor, noisy: Tensor, level: Tensor | int) -> Tensor:
        """Return the clean image that a prediction amounts to at a level, which is not 0."""
        return clean_of(self.prediction_type, noisy, predicted, *self.scales(level, noisy))

    def clean_and_noise(
        self, predicted: Tensor, noisy: Tensor, level: Tensor | int
    ) -> tuple[Tensor, Tensor]:
        """Return estimates of the clean image and of its noise, (B, C, h, w) each.

        Args:
            predicted: what the network says of `noisy`.
            noisy: its input (B, C, h, w).
            level: whose timestep it was told, or (B,) of them; none is 0.
        """
        scales = self.scales(level, noisy)
        return (
            clean_of(self.prediction_type, noisy, predicted, *scales),
            noise_of(self.prediction_type, noisy, predicted, *scales),
        )

    def prediction(self, clean: Tensor, noisy: Tensor, level: Tensor | int) -> Tensor:
        """Return the prediction that amounts to `clean`: the inverse of `clean_of`."""
        signal, sigma = self.scales(level, noisy)
        if self.prediction_type == "v_prediction":
            return (signal * noisy - clean) / sigma
        if self.prediction_type == "epsilon":
            return (noisy - signal * clean) / sigma
        return clean


def clean_of(kind: str, noisy: Tensor, predicted: Tensor, signal: Tensor, sigma: Tensor) -> Tensor:
    """Return x_0 (B, C, h, w) that a prediction of `kind` amounts to between these `scales`.

    Source: Ho et al. 2020, equation 15 (noise); Salimans and Ho, Progressive Distillation, 2022,
    appendix D (velocity).
    """
    if kind == "v_prediction":
        return signal * noisy - sigma * predicted
    if kind == "epsilon":
        return (noisy - sigma * predicted) / signal
    return predicted


def noise_of(kind: str, noisy: Tensor, predicted: Tensor, signal: Tensor, sigma: Tensor) -> Tensor:
    """Return the noise in `noisy` according to a prediction, see `clean_of`."""
    if kind == "v_prediction":
        return signal * predicted + sigma * noisy
    if kind == "sample":
        return (noisy - signal * predicted) / sigma
    return predicted


@dataclass(frozen=True, kw_only=True, eq=False)
class SolverLevels(Levels):
    """Levels that a solver visits, which may begin at any of them."""

    scheduler: str
    training_config: Any

    def solver(self, level: int) -> Any:
        """Return a fresh solver without history that starts at `level`."""
        solver = make_scheduler(self.scheduler, self.training_config, self.top)
        if hasattr(solver, "set_begin_index"):
            solver.set_begin_index(self.top - level)
        return solver


def solver_levels(scheduler: str, training_config: Any, num_inference_steps: int) -> SolverLevels:
    """Return the levels of `num_inference_steps` with a solver.

    Raises:
        ConfigError: an unknown solver, or one that cannot begin at a level.
    """
    if not SCHEDULERS[check_scheduler(scheduler)].walks:
        raise ConfigError(
            f"scheduler {scheduler!r} cannot start from an image or go back",
            remedy=f"Choose {', '.join(n for n, s in SCHEDULERS.items() if s.walks)}",
        )
    solver = make_scheduler(scheduler, training_config, num_inference_steps)
    timesteps = sorted({int(t) for t in solver.timesteps})
    return SolverLevels(
        scheduler=scheduler,
        training_config=training_config,
        prediction_type=str(solver.config.prediction_type),
        timesteps=torch.tensor([0, *timesteps]),
        alphas_cumprod=torch.cat([torch.ones(1), solver.alphas_cumprod[timesteps]]),
    )


def even_levels(training_config: Mapping[str, Any], num_steps: int) -> Levels:
    """Return `num_steps` levels, evenly spaced up to the noisiest timestep, in float64.

    Args:
        training_config: of the generator's diffusers scheduler.
        num_steps: N, at most its num_train_timesteps.

    Raises:
        ConfigError: more levels than timesteps, or a prediction type that is none of diffusers'.
    """
    from diffusers import DDPMScheduler

    schedule = DDPMScheduler.from_config(dict(training_config))
    known = len(schedule.alphas_cumprod)
    if not 1 <= num_steps <= known:
        raise ConfigError(
            f"{num_steps} inversion steps, the generator knows {known} timesteps",
            remedy=f"Set num_inference_steps to 1 .. {known}",
        )
    if schedule.config.prediction_type not in PREDICTIONS:
        raise ConfigError(
            f"prediction_type {schedule.config.prediction_type!r} cannot be inverted",
            remedy=f"Use a generator that predicts one of {', '.join(PREDICTIONS)}",
        )
    timesteps = (torch.arange(num_steps + 1) * known / num_steps).round().long() - 1
    alphas = schedule.alphas_cumprod.double()[timesteps.clamp(min=0)]
    alphas[0] = 1.0
    return Levels(
        alphas_cumprod=alphas,
        timesteps=timesteps.clamp(min=0),
        prediction_type=str(schedule.config.prediction_type),
    )
