"""DDIM inversion and denoising: the deterministic way from an image to its noise, and back.

Source: J. Song et al., Denoising Diffusion Implicit Models, 2021, eq. 12 with eta 0, run in both
directions as X. Su et al., Dual Diffusion Implicit Bridges, 2023. Nothing is clipped.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from factory.errors import ConfigError

Predict = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Noisy (B, C, h, w), timesteps (B,), and which image each row is (B,), to predictions."""

PREDICTIONS = ("epsilon", "v_prediction", "sample")


@dataclass(frozen=True, kw_only=True, eq=False)
class Ladder:
    """Noise levels 0 (clean) .. N (noisiest), and how a network's prediction reads at each.

    Level 0 has no noise at all, so the last step of a denoising returns the estimate of the clean
    image. The original began at the first noisy level and decoded one level below the one that it
    had inverted to; here both directions name the same levels.
    """

    alphas: Tensor
    """(N + 1,) cumulative products of 1 - beta, float64, falling from 1."""
    timesteps: Tensor
    """(N + 1,) what the network is told, int64; level 0 is shown to it as timestep 0."""
    prediction_type: str

    @property
    def top(self) -> int:
        """N, the deepest level."""
        return len(self.alphas) - 1

    def clean_and_noise(
        self, predicted: Tensor, noisy: Tensor, level: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return estimates of the clean image and of its noise, (B, C, h, w) each.

        Args:
            predicted: what the network says of `noisy`.
            noisy: its input (B, C, h, w).
            level: (B,) levels whose timesteps it was told, none of them 0.
        """
        signal, sigma = self._scales(level, noisy)
        match self.prediction_type:
            case "v_prediction":  # T. Salimans and J. Ho, Progressive Distillation, 2022, app. D
                return signal * noisy - sigma * predicted, signal * predicted + sigma * noisy
            case "sample":
                return predicted, (noisy - signal * predicted) / sigma
        return (noisy - sigma * predicted) / signal, predicted

    def at(self, level: Tensor, clean: Tensor, noise: Tensor) -> Tensor:
        """Return `clean` with so much of `noise` as `level` (B,) has."""
        signal, sigma = self._scales(level, clean)
        return signal * clean + sigma * noise

    def _scales(self, level: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        alphas = self.alphas[level.cpu()].view(-1, *[1] * (like.ndim - 1))
        return alphas.sqrt().to(like), (1 - alphas).sqrt().to(like)


def make_ladder(training_config: Mapping[str, Any], num_steps: int) -> Ladder:
    """Return `num_steps` levels, evenly spaced up to the noisiest timestep.

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
    return Ladder(
        alphas=alphas,
        timesteps=timesteps.clamp(min=0),
        prediction_type=str(schedule.config.prediction_type),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """Where an inversion stands: `state` (B, C, h, w) at `level`, and the `clean` image in it."""

    level: int
    state: Tensor
    clean: Tensor


def invert(
    predict: Predict, ladder: Ladder, clean: Tensor, *, corrections: int = 0
) -> Iterator[Rung]:
    """Yield levels 0, 1, .. N of an inversion, each step done when it is asked for.

    A step up has to use the noise that the step down will see, at a state not known yet. The
    network is asked at the level above about the state below, and again about each result,
    `corrections` times: a fixed-point iteration (Z. Pan et al., Effective Real Image Editing with
    Accelerated Iterative Diffusion Inversion, 2023).

    Args:
        predict: the source's network; called 1 + `corrections` times a step.
        ladder: levels to climb.
        clean: (B, C, h, w) images or scaled latents.
        corrections: 0 is DDIM inversion as diffusers and DDIB do it.
    """
    yield Rung(level=0, state=clean, clean=clean)
    rows = torch.arange(len(clean), device=clean.device)
    state = clean
    for level in range(1, ladder.top + 1):
        below, above = torch.full_like(rows, level - 1), torch.full_like(rows, level)
        timesteps = ladder.timesteps.to(clean.device)[above]
        guess = state
        for _ in range(1 + corrections):
            predicted = predict(guess, timesteps, rows)
            _, noise = ladder.clean_and_noise(predicted, guess, above)
            estimate = _without(ladder, state, noise, below)
            guess = ladder.at(above, estimate, noise)
        state = guess
        yield Rung(level=level, state=state, clean=estimate)


def _without(ladder: Ladder, state: Tensor, noise: Tensor, level: Tensor) -> Tensor:
    """Return the clean image that `noise` leaves of `state` at `level`, which is not the top."""
    at_level = ladder.at(level, torch.zeros_like(state), noise)
    signal = ladder.at(level, torch.ones_like(state), torch.zeros_like(state))
    return (state - at_level) / signal


def denoise_from(
    predict: Predict, ladder: Ladder, states: Tensor, depths: Sequence[int], *, slots: int
) -> Tensor:
    """Return the clean images (n, C, h, w) of `states`, each from its own level down to 0.

    Images of different depths share forwards of one fixed shape: a slot whose image is done takes
    the next one, the deepest first. So an image's bits do not depend on the depths beside it, and
    few slots run empty.

    Args:
        predict: the target's network, called with exactly `slots` rows; empty ones repeat a row.
        ladder: levels to descend.
        states: (n, C, h, w).
        depths: n levels, 0 .. N.
        slots: rows of a forward.
    """
    images, levels = states.clone(), list(depths)
    waiting = sorted((row for row, depth in enumerate(depths) if depth), key=lambda r: depths[r])
    active: list[int] = []
    while waiting or active:
        while waiting and len(active) < slots:
            active.append(waiting.pop())
        rows = torch.tensor([*active, *[active[-1]] * (slots - len(active))], device=states.device)
        level = torch.tensor([levels[row] for row in rows.tolist()], device=states.device)
        noisy = images[rows]
        predicted = predict(noisy, ladder.timesteps.to(states.device)[level], rows)
        moved = ladder.at(level - 1, *ladder.clean_and_noise(predicted, noisy, level))
        images[active] = moved[: len(active)]
        for row in active:
            levels[row] -= 1
        active = [row for row in active if levels[row]]
    return images


class Counted:
    """A `Predict` that counts: `evaluations` of images, without empty slots, and `forwards`."""

    def __init__(self, predict: Predict) -> None:
        self._predict = predict
        self.evaluations = self.forwards = 0

    def __call__(self, noisy: Tensor, timesteps: Tensor, rows: Tensor) -> Tensor:
        """Count and predict."""
        self.forwards += 1
        self.evaluations += len(set(rows.tolist()))
        return self._predict(noisy, timesteps, rows)


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
