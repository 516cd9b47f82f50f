"""The adversarial term of an autoencoder's loss: a patch discriminator that learns beside it."""

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from factory.finetune.class_config import AdversarialConfig

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
        weight = torch.tensor(self.config.weight, device=decoded.device)
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
