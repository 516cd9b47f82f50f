"""The networks of segmenters: a small U-Net, or a timm encoder under a standard decoder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from factory.errors import ConfigError, ModelError
from factory.models.config import SegmenterSpec
from factory.models.experts import seeded
from factory.models.shards import read_tensors

DECODERS = {
    "unet": "Unet",
    "unet++": "UnetPlusPlus",
    "fpn": "FPN",
    "deeplabv3+": "DeepLabV3Plus",
}
"""Our names of segmentation-models-pytorch's, the extra `segmenters`."""


class SmallUnet(nn.Module):
    """A small U-Net with residual blocks and skips (O. Ronneberger et al., U-Net, 2015).

    diffusers' `UNet2DModel` at one timestep is one.
    """

    def __init__(self, network: UNet2DModel) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, K, S, S) of images (B, 3, S, S) in [-1, 1]."""
        never = torch.zeros(1, dtype=torch.long, device=images.device)  # a 0 would be copied there
        logits: Tensor = self.network(images, never).sample
        return logits.float()


class EncodedUnet(nn.Module):
    """A network of segmentation-models-pytorch that sees images as its encoder was shown them."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, K, S, S) of images (B, 3, S, S) in [-1, 1]."""
        logits: Tensor = self.network(((images + 1) / 2 - self.mean) / self.std)
        return logits.float()


def build_segmenter(spec: SegmenterSpec, num_classes: int, *, seed: int) -> nn.Module:
    """Return an untrained network: (B, 3, S, S) in [-1, 1] to logits (B, K, S, S).

    Its layers come from `seed`, its encoder from `encoder_weights` if given. Encoders are timm's
    alone: one of the other library's own is not free to use.

    Raises:
        ConfigError: the extra is not installed, or timm has no such encoder.
        ModelError: the encoder's weights are missing, unreadable, or of another network.
    """
    with seeded(seed):
        build = _small if spec.decoder == "small_unet" else _encoded
        return build(spec, num_classes)


def _small(spec: SegmenterSpec, num_classes: int) -> SmallUnet:
    levels = len(spec.channels)
    return SmallUnet(
        UNet2DModel(
            in_channels=3,
            out_channels=num_classes,
            block_out_channels=tuple(spec.channels),
            layers_per_block=1,
            down_block_types=("DownBlock2D",) * levels,
            up_block_types=("UpBlock2D",) * levels,
            norm_num_groups=spec.norm_num_groups,
            add_attention=False,
        )
    )


def _encoded(spec: SegmenterSpec, num_classes: int) -> EncodedUnet:
    try:
        import segmentation_models_pytorch as smp
    except ImportError as error:
        raise ConfigError(
            f"decoder {spec.decoder!r} needs segmentation-models-pytorch",
            remedy="pip install 'medimage-factory[segmenters]', or choose small_unet",
        ) from error
    import timm

    weights = _encoder_weights(spec)
    try:
        decoder = getattr(smp, DECODERS[spec.decoder])
        network = decoder(f"tu-{spec.encoder}", classes=num_classes, **weights)
    except (KeyError, RuntimeError, ValueError, AttributeError) as error:
        if spec.encoder_weights and timm.is_model(spec.encoder):
            raise ModelError(
                f"{spec.encoder_weights} does not fit the encoder {spec.encoder}"
                f" ({' '.join(str(error).split())[:200]})",
                remedy="Give the state dict of this timm backbone",
            ) from error
        raise ConfigError(
            f"{spec.encoder!r} does not serve as the encoder of {spec.decoder}"
            f" ({str(error).splitlines()[0]})",
            remedy="Choose a convolutional backbone of timm, such as resnet18",
        ) from error
    facts = timm.get_pretrained_cfg(spec.encoder)
    return EncodedUnet(network, facts.mean, facts.std)


def _encoder_weights(spec: SegmenterSpec) -> dict[str, Any]:
    """Return the arguments under which the encoder reads its weights from their file."""
    if spec.encoder_weights is None:
        return {"encoder_weights": None}
    path = Path(spec.encoder_weights)
    read_tensors(path, of=f"timm's {spec.encoder}")  # safetensors, or refused before timm opens it
    return {"encoder_weights": True, "pretrained_cfg_overlay": {"file": str(path)}}
