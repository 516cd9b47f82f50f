"""The terms of an autoencoder's loss: distances to the image, and an adversary beside it."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from factory.device import up
from factory.errors import ModelError
from factory.finetune.config import AdversarialConfig
from factory.models.autoencoder import Autoencoder, last_weights
from factory.models.shards import read_tensors

MAX_WEIGHT = 1e4


class PatchDiscriminator(nn.Sequential):
    """Images (B, 3, H, W) in [-1, 1] to scores (B, 1, h, w), high where a patch looks real.

    Source: P. Isola et al., Image-to-Image Translation with Conditional Adversarial Networks, 2017,
    with group norm for batch norm, whose statistics would mix real with decoded images and differ
    between workers. Three levels judge patches of 46 px, in images of 16 px or more.
    """

    def __init__(self, channels: tuple[int, ...] = (64, 128, 256)) -> None:
        widths = zip((3, *channels), channels, strict=False)
        levels = [_level(before, after, first=not n) for n, (before, after) in enumerate(widths)]
        super().__init__(*levels, nn.Conv2d(channels[-1], 1, 4, padding=1))


class AdversarialTerm(nn.Module):
    """The discriminator and both sides' losses; it trains in the same backward as the autoencoder.

    The terms share no gradient: 'generator' is scored by detached weights, 'discriminator' sees
    detached images. So their sum may be minimised by one optimiser, or each by its own.
    """

    def __init__(self, config: AdversarialConfig) -> None:
        super().__init__()
        self.config = config
        self.discriminator = PatchDiscriminator(config.channels)

    def forward(
        self,
        decoded: Tensor,
        images: Tensor,
        *,
        step: int,
        reconstruction: Tensor,
        last_layer: nn.Parameter,
    ) -> dict[str, Tensor]:
        """Return 'generator' (weighted), 'discriminator' and the 'weight' used; 0 before the start.

        Args:
            decoded: (B, 3, H, W), with gradients into the autoencoder.
            images: (B, 3, H, W) in [-1, 1].
            step: of the training.
            reconstruction: the loss to balance against: l1 + perceptual. Read if adaptive.
            last_layer: weights through which `decoded` came, e.g. `decoder.conv_out.weight`.
                Read if adaptive.
        """
        if step < self.config.start_step:
            zero = torch.zeros((), device=decoded.device)
            return {"generator": zero, "discriminator": zero, "weight": zero}
        frozen = {name: p.detach() for name, p in self.discriminator.named_parameters()}
        loss = generator_loss(functional_call(self.discriminator, frozen, (decoded,)))
        weight = torch.full((), self.config.weight, device=decoded.device)
        if self.config.adaptive:
            weight = weight * gradient_ratio(reconstruction, loss, last_layer)
        scores = self.discriminator(torch.cat([images, decoded.detach().to(images.dtype)]))
        return {
            "generator": weight * loss,
            "discriminator": discriminator_loss(*scores.chunk(2)),
            "weight": weight,
        }


def discriminator_loss(real: Tensor, decoded: Tensor) -> Tensor:
    """Return the hinge loss of scores: real ones above 1 and decoded ones below -1 cost nothing.

    Source: J. H. Lim and J. C. Ye, Geometric GAN, 2017; halved as by Esser et al. 2021.
    """
    return (F.relu(1 - real.float()).mean() + F.relu(1 + decoded.float()).mean()) / 2


def generator_loss(decoded: Tensor) -> Tensor:
    """Return minus the mean score of decoded images."""
    return -decoded.float().mean()


def gradient_ratio(reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor) -> Tensor:
    """Return |d reconstruction / d last_layer| / |d adversarial / d last_layer|, at most 10,000.

    Source: P. Esser et al., Taming Transformers for High-Resolution Image Synthesis, 2021, eq. 7.
    """
    norms = [
        torch.autograd.grad(loss, last_layer, retain_graph=True)[0].norm()
        for loss in (reconstruction, adversarial)
    ]
    ratio: Tensor = norms[0] / (norms[1] + 1e-6)
    return ratio.clamp(max=MAX_WEIGHT)


def _level(before: int, after: int, *, first: bool) -> nn.Sequential:
    """Return a layer that halves each side; the first sees colours as they are, unnormalised."""
    norm = nn.Identity() if first else nn.GroupNorm(8, after)
    return nn.Sequential(nn.Conv2d(before, after, 4, stride=2, padding=1), norm, nn.LeakyReLU(0.2))


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
    noise = torch.randn(
        posterior.mean.shape, generator=generator, dtype=posterior.mean.dtype
    )  # on the CPU, as `sample` draws it
    latents = posterior.mean + posterior.std * up(noise, images.device)
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
