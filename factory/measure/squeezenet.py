"""A second feature space, of another architecture: where nobody else's features may decide."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from factory.digest import digest_bytes
from factory.errors import ModelError
from factory.measure.features import FeatureSpace
from factory.models.tensors import read_tensors

INPUT_PX = 128
"""A third of the work of 224, and twice the side of the small images that are judged."""


class _Pooled(nn.Module):
    """Input as `network_input` makes it, in [-1, 1], to channel means (B, 512)."""

    mean: Tensor
    std: Tensor

    def __init__(self, features: nn.Module) -> None:
        super().__init__()
        self.layers = features
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406])[:, None, None])
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225])[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        small = F.interpolate(images, (INPUT_PX, INPUT_PX), mode="area")
        maps: Tensor = self.layers(((small + 1) / 2 - self.mean) / self.std)
        return maps.mean((2, 3))


def load_squeezenet_space(weights: Path, *, device: str | None = None) -> FeatureSpace:
    """Return SqueezeNet 1.0 (F. Iandola et al., 2016) with weights from a local file.

    Args:
        weights: torchvision's `squeezenet1_0`, as safetensors.
        device: default: a GPU if there is one.

    Raises:
        ModelError: the file is missing, unreadable, or of another network.
    """
    from torchvision.models import squeezenet1_0

    network = squeezenet1_0()
    try:
        network.load_state_dict(read_tensors(weights, of="torchvision's SqueezeNet 1.0"))
    except RuntimeError as error:
        raise ModelError(
            f"{weights} does not hold weights of SqueezeNet 1.0 ({str(error).splitlines()[0]})",
            remedy="Give the state dict of torchvision's squeezenet1_0",
        ) from error
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return FeatureSpace(
        name="squeezenet1_0",
        digest=digest_bytes(weights.read_bytes()),
        network=_Pooled(network.features).eval().to(place),
    )
