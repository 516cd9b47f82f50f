"""A named feature space: images to vectors of a pretrained network that judges, never draws."""

import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from factory.arrays import Features, Images
from factory.device import own_device
from factory.digest import digest_bytes
from factory.errors import ModelError
from factory.models.extractors import IMAGENET
from factory.models.shards import read_tensors

BACKBONE = "efficientnet_lite0"
"""The name that figures carry: 'KID (efficientnet_lite0)', not the KID of Inception."""
INPUT_PX = 224
TURNS = 8

Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSpace:
    """A frozen network with its name; `digest` names the weights it was made from."""

    name: str
    digest: str
    network: Any
    input_px: int = INPUT_PX

    @torch.inference_mode()
    def extract(self, images: Images, *, batch_size: int = 8) -> Features:
        """Return pooled features (N, D), D of the network, of RGB images (N, H, W, 3), N >= 1.

        Batches of 8 are the fastest on one core (measured: 55 images/s, 36 in batches of 16 with
        channels first). The next batch is brought to size (13 % of the work on a CPU) while the
        network reads the present one.
        """
        device = next(self.network.parameters()).device
        chunks = torch.split(torch.from_numpy(images), batch_size)
        rows = [
            self.network(made).float().cpu()
            for made in one_ahead(
                chunks, lambda chunk: network_input(chunk.to(device), self.input_px)
            )
        ]
        return torch.cat(rows).numpy()


def one_ahead(items: Iterable[Item], make: Callable[[Item], Made]) -> Iterator[Made]:
    """Yield `make(item)` of each, made in another thread while the one before is in use."""
    with ThreadPoolExecutor(1) as pool:
        waiting: Future[Made] | None = None
        for item in items:
            following = pool.submit(make, item)
            if waiting is not None:
                yield waiting.result()
            waiting = following
        if waiting is not None:
            yield waiting.result()


def network_input(images: Tensor, side_px: int = INPUT_PX) -> Tensor:
    """Return (B, 3, side, side) in about [-1, 1] from (B, H, W, 3) uint8: bicubic, antialiased.

    That is what 'clean' resizing means (G. Parmar et al., On Aliased Resizing and Surprising
    Subtleties in GAN Evaluation, CVPR 2022).
    """
    scaled = images.permute(0, 3, 1, 2).float() / 255
    resized = F.interpolate(scaled, (side_px, side_px), mode="bicubic", antialias=True)
    normal = (resized.clamp(0, 1) - 0.5) / 0.5  # bicubic overshoots, pictures do not
    return normal.contiguous(memory_format=torch.channels_last)


class _Squeezenet(nn.Module):
    """Input as `network_input` makes it, in [-1, 1], to channel means (B, 512)."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import squeezenet1_0

        self.features = squeezenet1_0().features
        self.register_buffer("mean", torch.tensor(IMAGENET[0])[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET[1])[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        small = F.interpolate(images, (128, 128), mode="area")  # a third of the work of 224
        maps: Tensor = self.features(((small + 1) / 2 - self.mean) / self.std)
        return maps.mean((2, 3))


class _Vit(nn.Module):
    """A vision transformer of timm: input in [-1, 1] to its class token."""

    mean: Tensor
    std: Tensor

    def __init__(self, name: str) -> None:
        super().__init__()
        import timm

        self.net = timm.create_model(name, pretrained=False, num_classes=0)
        self.register_buffer("mean", torch.tensor(IMAGENET[0])[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET[1])[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        token: Tensor = self.net(((images + 1) / 2 - self.mean) / self.std)
        return token


class _Inception(nn.Module):
    """torch-fidelity's network of the FID: input in [-1, 1] at 299 px to its 2,048 features."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        stored = io.BytesIO()  # it reads a file of torch.save alone: this one is ours
        torch.save(dict(state), stored)
        stored.seek(0)
        self.net = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=stored
        )

    def forward(self, images: Tensor) -> Tensor:
        pixels = ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        (found,) = self.net(pixels)
        features: Tensor = found
        return features


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """A network that judges: whose weights it takes, the tensor that tells them, its input."""

    weights: str
    tells: str
    make: Callable[[Mapping[str, Tensor]], nn.Module]
    """Of a state dict; the network."""
    input_px: int = INPUT_PX


def _filled(network: nn.Module, own: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Return `network` once `own`, a part of it or itself, has the weights that it needs."""
    wanted = own.state_dict()
    own.load_state_dict({name: value for name, value in state.items() if name in wanted})
    return network


def _efficientnet(state: Mapping[str, Tensor]) -> nn.Module:
    import timm

    network = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0)
    return _filled(network, network, state)


def _squeezenet(state: Mapping[str, Tensor]) -> nn.Module:
    network = _Squeezenet()
    return _filled(network, network, state)


def _dino(state: Mapping[str, Tensor]) -> nn.Module:
    size = {384: "small", 768: "base"}.get(state["cls_token"].shape[-1], "small")
    network = _Vit(f"vit_{size}_patch8_224")
    return _filled(network, network.net, state)


KINDS: Mapping[str, _Kind] = {
    BACKBONE: _Kind(
        weights="timm's tf_efficientnet_lite0", tells="conv_stem.weight", make=_efficientnet
    ),
    "squeezenet1_0": _Kind(
        weights="torchvision's SqueezeNet 1.0", tells="features.3.squeeze.weight", make=_squeezenet
    ),
    "inception_v3": _Kind(
        weights="torch-fidelity's Inception v3",
        tells="Mixed_7c.branch1x1.conv.weight",
        make=_Inception,
        input_px=299,
    ),
    "dino": _Kind(weights="timm's vit_small_patch8_224.dino", tells="cls_token", make=_dino),
}
"""Networks that features may come from, each known by a tensor of its weights."""


def load_feature_space(weights: Path, *, device: str | None = None) -> FeatureSpace:
    """Return the feature space of a network, which the names of its weights tell.

    EfficientNet-Lite0 (M. Tan and Q. Le, ICML 2019) unless they are those of another one of
    `KINDS`: SqueezeNet 1.0 (F. Iandola et al., 2016), the Inception v3 of the FID (M. Heusel et
    al., 2017), a ViT of DINO (M. Caron et al., 2021).

    Args:
        weights: state dict, as safetensors.
        device: default: see `own_device`.

    Raises:
        ModelError: the file is missing, unreadable, or of another network.
    """
    known = [kind.weights for kind in KINDS.values()]
    state = read_tensors(weights, of=f"{known[0]} (or of {', '.join(known[1:])})")
    name = next((name for name, kind in KINDS.items() if kind.tells in state), BACKBONE)
    kind = KINDS[name]
    try:
        network = kind.make(state)
    except RuntimeError as error:
        raise ModelError(
            f"{weights} holds no {name} ({' '.join(str(error).split())[:160]})",
            remedy=f"Give the state dict of {', '.join(known)}",
        ) from error
    place = device or own_device()
    return FeatureSpace(
        name=name,
        digest=digest_bytes(weights.read_bytes()),
        network=network.eval().to(place).to(memory_format=torch.channels_last),
        input_px=kind.input_px,
    )


def turned(images: Images, number: int) -> Images:
    """Return images (N, S, S, 3) under dihedral symmetry `number` in 0..7; cells have no up."""
    rotated = np.rot90(images, number % 4, (1, 2))
    return np.ascontiguousarray(rotated[:, :, ::-1] if number >= 4 else rotated)
