"""Noise and what is learnt of it: the schedule, the mixture, the target and its weights."""

from dataclasses import dataclass

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from factory.device import up
from factory.errors import ConfigError
from factory.finetune.config import STABLE_DIFFUSION, NoiseConfig, NoiseLevels
from factory.finetune.order import Part, step_generator
from factory.sample.levels import clean_of

VALIDATION_SEED = 1_000_003
"""Of the noise that held-out images are shown with, the same in every validation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Noised:
    """Clean latents or pixels (B, C, h, w), the noise and timesteps (B,) drawn, their mixture."""

    clean: Tensor
    noise: Tensor
    timesteps: Tensor
    noisy: Tensor

    def rows(self, rows: slice) -> "Noised":
        """Return these images."""
        return Noised(
            clean=self.clean[rows],
            noise=self.noise[rows],
            timesteps=self.timesteps[rows],
            noisy=self.noisy[rows],
        )


def training_scheduler(noise: NoiseConfig = STABLE_DIFFUSION) -> DDPMScheduler:
    """Return the scaled-linear noise schedule that training and sampling share.

    Samples are latents: they know no [-1, 1] to be clipped to. The default is Stable Diffusion's
    with v-prediction.

    Source: R. Rombach et al., 2022 (scaled-linear betas 0.00085..0.012); T. Salimans and J. Ho,
    Progressive Distillation, 2022 (v-prediction).
    """
    return DDPMScheduler(
        beta_start=noise.beta_start,
        beta_end=noise.beta_end,
        beta_schedule="scaled_linear",
        prediction_type=noise.prediction_type,
        clip_sample=False,
        steps_offset=1,
    )


def add_noise(
    scheduler: DDPMScheduler,
    clean: Tensor,
    part: Part,
    *,
    batch_size: int,
    seed: int,
    levels: NoiseLevels | None = None,
) -> Noised:
    """Mix the images of `part` with noise that depends on the step and their places in its batch.

    Args:
        clean: (B, C, h, w), this part only, about unit variance.
        batch_size: of the whole step: noise is drawn for all of it, whoever computes it.
        levels: which are drawn; None: every timestep as often.
    """
    generator = step_generator(part.step, seed=seed)
    noise = torch.randn((batch_size, *clean.shape[1:]), generator=generator)
    steps: int = scheduler.config.num_train_timesteps
    if levels is None:
        timesteps = torch.randint(0, steps, (batch_size,), generator=generator)
    else:
        timesteps = log_normal_timesteps(scheduler, batch_size, levels, generator)
    noise, timesteps = (up(part.take(each), clean.device) for each in (noise, timesteps))
    noisy = scheduler.add_noise(clean, noise, timesteps)
    return Noised(clean=clean, noise=noise, timesteps=timesteps, noisy=noisy)


def log_normal_timesteps(
    scheduler: DDPMScheduler, count: int, levels: NoiseLevels, generator: torch.Generator
) -> Tensor:
    """Return timesteps (count,) in random order whose log noise levels are normally distributed.

    The level is sigma = sqrt(1 / alpha_bar - 1), the noise beside an image of unit scale; most is
    learnt where it is near the image's own deviation. One is drawn from each of `count` equally
    likely strata, which makes the gradients of small batches less noisy.

    Source: T. Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models,
    2022, table 1; strata: D. Kingma et al., Variational Diffusion Models, 2021, appendix I.
    """
    places = torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)
    normal = torch.special.ndtri((places.double() / count).clamp(1e-9, 1 - 1e-9))
    alphas_cumprod = torch.cumprod(scheduler.alphas, 0)  # its own may lie on a GPU by now
    known = (1 / alphas_cumprod.double() - 1).log() / 2
    between = (known[1:] + known[:-1]) / 2
    return torch.searchsorted(between, levels.log_mean + levels.log_deviation * normal)


def add_flow_noise(
    clean: Tensor, part: Part, *, batch_size: int, seed: int, shift: float = 1.0
) -> Noised:
    """Move the images of `part` along the straight line to noise, x_s = (1 - s) x + s noise.

    s is logit-normal, most often in the middle, and moved towards noise by `shift` as in drawing:
    shift s / (1 + (shift - 1) s). It stands in `Noised.timesteps`, float32 in (0, 1).

    Source: P. Esser et al., Scaling Rectified Flow Transformers, 2024, section 3.1 (rf/lognorm
    with m = 0, s = 1) and equation 23.

    Args:
        clean: (B, C, h, w), this part only, about unit variance.
        part: of a step.
        batch_size: of the whole step: noise is drawn for all of it, whoever computes it.
        seed: of the training.
        shift: of the model's own scheduler.
    """
    generator = step_generator(part.step, seed=seed)
    noise = torch.randn((batch_size, *clean.shape[1:]), generator=generator)
    level = torch.sigmoid(torch.randn(batch_size, generator=generator))
    level = shift * level / (1 + (shift - 1) * level)
    noise, level = part.take(noise).to(clean.device), part.take(level).to(clean.device)
    share = level.view(-1, 1, 1, 1)
    noisy = (1 - share) * clean + share * noise
    return Noised(clean=clean, noise=noise, timesteps=level, noisy=noisy)


def flow_loss(noised: Noised, prediction: Tensor) -> Tensor:
    """Return the mean squared error of a velocity (B, C, h, w); the true one is noise - image."""
    return (prediction.float() - (noised.noise - noised.clean)).square().mean()


def denoising_loss(
    scheduler: DDPMScheduler, noised: Noised, prediction: Tensor, *, snr_gamma: float | None
) -> Tensor:
    """Return the mean squared error of `prediction` (B, C, h, w), weighted by min-SNR.

    Args:
        scheduler: says what is predicted: 'epsilon', 'v_prediction' or 'sample'.
        snr_gamma: clamp of the signal-to-noise ratio, 5 in the paper; None weighs all steps alike.

    Raises:
        ConfigError: another prediction type.
    """
    difference = prediction.float() - training_target(scheduler, noised)
    error = difference.square().mean((1, 2, 3))
    if snr_gamma is None:
        return error.mean()
    return (error * min_snr_weight(scheduler, noised.timesteps, gamma=snr_gamma)).mean()


def training_target(scheduler: DDPMScheduler, noised: Noised) -> Tensor:
    """Return (B, C, h, w): what the network should have predicted."""
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return noised.noise
    if kind == "sample":
        return noised.clean
    if kind == "v_prediction":
        velocity: Tensor = scheduler.get_velocity(noised.clean, noised.noise, noised.timesteps)
        return velocity
    raise ConfigError(
        f"unknown prediction type {kind!r}",
        remedy="Choose epsilon, v_prediction or sample in the scheduler's configuration",
    )


def predicted_clean(scheduler: DDPMScheduler, noised: Noised, prediction: Tensor) -> Tensor:
    """Return the x_0 (B, C, h, w) that a prediction amounts to in one step, see `clean_of`.

    Raises:
        ConfigError: another prediction type.
    """
    alphas_cumprod: Tensor = scheduler.alphas_cumprod.to(noised.noisy.device)
    alpha = alphas_cumprod[noised.timesteps][:, None, None, None]
    kind = scheduler.config.prediction_type
    if kind not in ("epsilon", "v_prediction", "sample"):
        raise ConfigError(
            f"unknown prediction type {kind!r}",
            remedy="Choose epsilon, v_prediction or sample in the scheduler's configuration",
        )
    signal, sigma = alpha.sqrt(), (1 - alpha).sqrt()
    return clean_of(kind, noised.noisy, prediction.float(), signal, sigma)


def min_snr_weight(scheduler: DDPMScheduler, timesteps: Tensor, *, gamma: float) -> Tensor:
    """Return min-SNR weights (B,) of the squared error in the scheduler's own prediction type.

    min(SNR, gamma), divided by SNR for noise and by SNR + 1 for velocity.
    Source: T. Hang et al., Efficient Diffusion Training via Min-SNR Weighting Strategy, 2023.
    """
    alpha = scheduler.alphas_cumprod.to(timesteps.device)[timesteps]
    snr = alpha / (1 - alpha)
    scale = {"epsilon": snr, "v_prediction": snr + 1, "sample": torch.ones_like(snr)}
    weight: Tensor = snr.clamp(max=gamma) / scale[scheduler.config.prediction_type]
    return weight
