"""Training losses: weighted noise prediction, and the autoencoder's terms."""

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn
from torch.nn import functional as F

from factory.errors import ConfigError, ModelError
from factory.finetune.adversarial import AdversarialTerm
from factory.finetune.base_config import NoiseLevels
from factory.finetune.order import Part, step_generator
from factory.models.autoencoder import Autoencoder, last_weights
from factory.models.shards import read_tensors


@dataclass(frozen=True, slots=True, kw_only=True)
class Noised:
    """Clean latents or pixels (B, C, h, w), the noise and timesteps (B,) drawn, their mixture."""

    clean: Tensor
    noise: Tensor
    timesteps: Tensor
    noisy: Tensor


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
    noise, timesteps = part.take(noise).to(clean.device), part.take(timesteps).to(clean.device)
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
    known = (1 / scheduler.alphas_cumprod.double() - 1).log() / 2
    between = (known[1:] + known[:-1]) / 2
    return torch.searchsorted(between, levels.log_mean + levels.log_deviation * normal)


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
    """Return the x_0 (B, C, h, w) that a prediction amounts to in one step.

    Source: Ho et al. 2020, equation 15 (noise); Salimans and Ho 2022, appendix D (velocity).

    Raises:
        ConfigError: another prediction type.
    """
    alphas_cumprod: Tensor = scheduler.alphas_cumprod.to(noised.noisy.device)
    alpha = alphas_cumprod[noised.timesteps][:, None, None, None]
    match scheduler.config.prediction_type:
        case "epsilon":
            return (noised.noisy - (1 - alpha).sqrt() * prediction.float()) / alpha.sqrt()
        case "v_prediction":
            return alpha.sqrt() * noised.noisy - (1 - alpha).sqrt() * prediction.float()
        case "sample":
            return prediction.float()
    raise ConfigError(
        f"unknown prediction type {scheduler.config.prediction_type!r}",
        remedy="Choose epsilon, v_prediction or sample in the scheduler's configuration",
    )


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


def autoencoder_loss(
    autoencoder: Autoencoder,
    images: Tensor,
    *,
    kl_weight: float,
    perceptual: nn.Module | None,
    perceptual_weight: float,
    generator: torch.Generator,
    adversarial: AdversarialTerm | None = None,
    step: int = 0,
) -> dict[str, Tensor]:
    """Return 'loss', the sum of 'l1', 'kl' (nats per latent value) and 'perceptual', and these.

    Args:
        images: (B, 3, H, W) in [-1, 1].
        perceptual: maps (B, 3, H, W), (B, 3, H, W) to a distance; None leaves the term out.
        adversarial: adds 'generator' and 'discriminator'; None leaves them out.
        step: of the training, for the start of the adversary.
    """
    posterior = autoencoder.encode(images).latent_dist
    latents = posterior.sample(generator)
    decoded = autoencoder.decode(latents).sample.float()
    l1 = (decoded - images).abs().mean()
    kl = posterior.kl().mean() / latents[0].numel()
    distance = l1.new_zeros(()) if perceptual is None else perceptual(decoded, images)
    loss = l1 + kl_weight * kl + perceptual_weight * distance
    terms = {"l1": l1, "kl": kl} | ({"perceptual": distance} if perceptual is not None else {})
    if adversarial is not None:
        scored = adversarial(
            decoded,
            images,
            step=step,
            reconstruction=l1 + perceptual_weight * distance,
            last_layer=last_weights(autoencoder),
        )
        terms |= {name: scored[name] for name in ("generator", "discriminator")}
        loss = loss + scored["generator"] + scored["discriminator"]
    return {"loss": loss} | terms


class FeatureDistance(nn.Module):
    """Squared distance of unit-normalised feature maps, summed over the tapped layers.

    The form of LPIPS (R. Zhang et al., 2018) without its learnt heads; call it by this name.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, features: nn.Sequential, taps: tuple[int, ...]) -> None:
        super().__init__()
        self.layers = features[: max(taps) + 1].eval().requires_grad_(False)
        self.taps = taps
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406])[:, None, None])
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225])[:, None, None])

    def forward(self, drawn: Tensor, real: Tensor) -> Tensor:
        """Return the mean distance between (B, 3, H, W) images in [-1, 1]."""
        with torch.no_grad():
            targets = self._maps(real)
        pairs = zip(self._maps(drawn), targets, strict=True)
        return sum(
            ((a.float() - b.float()).square().sum(1).mean() for a, b in pairs), torch.zeros(())
        )

    def _maps(self, images: Tensor) -> list[Tensor]:
        values = ((images + 1) / 2 - self.mean) / self.std
        maps = []
        for number, layer in enumerate(self.layers):
            values = layer(values)
            if number in self.taps:
                maps.append(F.normalize(values, dim=1))
        return maps


def feature_distance(weights: Path | None) -> FeatureDistance | None:
    """Return the distance in torchvision's SqueezeNet 1.0 with `weights`, or None without a file.

    Raises:
        ModelError: the file is missing or holds something else.
    """
    if weights is None:
        return None
    from torchvision.models import squeezenet1_0

    network = squeezenet1_0()
    try:
        network.load_state_dict(read_tensors(weights, of="torchvision's SqueezeNet 1.0"))
    except RuntimeError as error:
        raise ModelError(
            f"{weights} does not hold weights of SqueezeNet 1.0 ({error})",
            remedy="Give torchvision's squeezenet1_0 as safetensors, or leave it out",
        ) from error
    return FeatureDistance(network.features, taps=(1, 4, 7))
