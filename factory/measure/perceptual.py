"""LPIPS, the learnt perceptual distance, by weights from a local file.

R. Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, CVPR 2018:
the squared distance of unit-normalised feature maps, weighted by heads that were fitted to what
people see, summed over layers. So an image is a long vector, and LPIPS their squared distance.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from factory.arrays import Images
from factory.errors import ModelError
from factory.models.shards import read_tensors

SQUEEZE = (1, 4, 7, 9, 10, 11, 12)
"""Layers of a SqueezeNet's `features` after which LPIPS reads."""
SIDE_PX = 64
"""Least side that its networks are shown: a smaller image ends in no map at all."""
NETWORKS: Mapping[str, tuple[int, ...]] = {
    "squeezenet1_1": (64, 3, 3, 3),
    "alexnet": (64, 3, 11, 11),
    "vgg16": (64, 3, 3, 3),
    "squeezenet1_0": (96, 3, 7, 7),
}
"""torchvision's networks that it may stand on, by the shape of their first weights."""
_HEADS = {"squeezenet1_1": "squeeze", "alexnet": "alex", "vgg16": "vgg"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Perceptual:
    """A perceptual distance; `name` says whether the published heads weigh it."""

    name: str
    layers: Any
    """Module: images (B, 3, S, S) in [-1, 1] to vectors (B, D)."""

    @torch.inference_mode()
    def unlike(self, images: Images, *, batch_size: int = 16) -> NDArray[np.float64]:
        """Return the distance of all pairs of images (N, S, S, 3), (N, N)."""
        rows = []
        for chunk in torch.split(torch.from_numpy(images), batch_size):
            shown = chunk.permute(0, 3, 1, 2).float() / 127.5 - 1
            if min(shown.shape[-2:]) < SIDE_PX:
                shown = F.interpolate(shown, (SIDE_PX, SIDE_PX), mode="bilinear")
            rows.append(self.layers(shown).double())
        vectors = torch.cat(rows)
        squares = vectors.square().sum(1)
        found = squares[:, None] + squares - 2 * vectors @ vectors.T
        return found.clamp(min=0).fill_diagonal_(0).numpy()


def load_perceptual(weights: Path) -> Perceptual:
    """Return the LPIPS of torchvision's squeezenet1_1, alexnet or vgg16, told by their shapes.

    SqueezeNet 1.0 has no published heads: its layers then count alike, which the paper calls the
    baseline, and `name` says so.

    Args:
        weights: the network's state dict, as safetensors.

    Raises:
        ModelError: the file is missing, unreadable, or of another network.
    """
    state = read_tensors(weights, of=f"torchvision's {', '.join(NETWORKS)}")
    first = tuple(state["features.0.weight"].shape) if "features.0.weight" in state else ()
    fit = [name for name, shape in NETWORKS.items() if shape == first]
    squeezes = "features.3.squeeze.weight" in state
    name = next((each for each in fit if each.startswith("squeeze") is squeezes), None)
    try:
        if name is None:
            raise KeyError(f"first layer {first}")
        layers = _Layers(name, state).eval().requires_grad_(False)
    except (RuntimeError, KeyError) as error:
        raise ModelError(
            f"{weights} holds none of {', '.join(NETWORKS)} ({' '.join(str(error).split())[:160]})",
            remedy="Give the state dict of one of them, as torchvision has it",
        ) from error
    return Perceptual(
        name=f"LPIPS ({name})" if name in _HEADS else f"LPIPS without heads ({name})", layers=layers
    )


class _Layers(nn.Module):
    """Images to the vectors whose squared distance is the perceptual one."""

    shift: Tensor
    scale: Tensor

    def __init__(self, name: str, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        import torchvision.models

        network = getattr(torchvision.models, name)()
        own = network.features.state_dict()
        network.features.load_state_dict({key: state[f"features.{key}"] for key in own})
        self.features: nn.Sequential = network.features
        self.reads: tuple[int, ...] = SQUEEZE
        self.heads: list[Tensor] | None = None
        if name in _HEADS:
            from torchmetrics.functional.image.lpips import _LPIPS

            published = _LPIPS(net=_HEADS[name], pnet_rand=True)
            self.heads = [head.model[-1].weight.detach().reshape(-1) for head in published.lins]
            slices = published.net.named_children()
            ends = [s for _, s in slices] if name != "squeezenet1_1" else published.net.slices
            self.reads = tuple(int(list(dict(part.named_children()))[-1]) for part in ends)
        for layer in self.features.modules():
            if isinstance(layer, nn.ReLU):
                layer.inplace = False  # what is read must stay as it was
        for own_name, values in (
            ("shift", (-0.030, -0.088, -0.188)),
            ("scale", (0.458, 0.448, 0.450)),
        ):
            self.register_buffer(own_name, torch.tensor(values)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        values = (images - self.shift) / self.scale
        parts: list[Tensor] = []
        for number, layer in enumerate(self.features):
            values = layer(values)
            if number in self.reads:
                weight = 1.0 if self.heads is None else self.heads[len(parts)][:, None].sqrt()
                unit = F.normalize(values, dim=1, eps=1e-8).flatten(2)
                parts.append((unit * weight / unit.shape[2] ** 0.5).flatten(1))
        return torch.cat(parts, dim=1)
