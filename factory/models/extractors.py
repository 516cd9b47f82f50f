"""Pretrained networks that lead style: found by name as safetensors, never downloaded.

A file `<name>.safetensors` is looked for in the folders of FACTORY_EXTRACTORS, in `extractors/` of
the user's cache, and in `extractors/` of the generator. A recipe holds the digest of what was used.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from factory.digest import digest_bytes
from factory.errors import ConfigError, ModelError
from factory.models.shards import read_tensors

FOLDERS = "FACTORY_EXTRACTORS"
"""Environment variable: folders, separated as in PATH."""
CACHE = Path("~/.cache/medimage-factory/extractors")
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class Outputs(nn.Module):
    """A network with the input it wants: images in [-1, 1] to what `read` takes of it."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        read: Callable[[Any, Tensor], list[Tensor]],
        *,
        input_px: int | None,
        colours: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET,
    ) -> None:
        """`input_px` None: images are seen at their own size."""
        super().__init__()
        self.network, self.read, self.input_px = network, read, input_px
        self.register_buffer("mean", torch.tensor(colours[0])[:, None, None])
        self.register_buffer("std", torch.tensor(colours[1])[:, None, None])

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return features of images (B, 3, S, S) in [-1, 1], each with B rows."""
        side = self.input_px or images.shape[-1]
        fitted = images if side == images.shape[-1] else resized(images, side)
        return self.read(self.network, ((fitted + 1) / 2 - self.mean) / self.std)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One known network: how it is built without weights, its use, whose weights it takes."""

    build: Callable[[], Outputs]
    use: str
    """'vector': a feature per image, for the whole look; 'maps': where things are."""
    weights: str


def _timm(name: str, *, input_px: int = 224, **settings: Any) -> Callable[[], Outputs]:
    def build() -> Outputs:
        import timm

        network = timm.create_model(name, pretrained=False, num_classes=0)
        return Outputs(network, lambda net, x: [net(x)], input_px=input_px, **settings)

    return build


def _stages(name: str, ends: tuple[int, ...]) -> Callable[[], Outputs]:
    """Return what builds torchvision's `name` up to its last layer of `ends`, and reads them."""

    def read(network: Any, images: Tensor) -> list[Tensor]:
        found = []
        for number, layer in enumerate(network["features"]):
            images = layer(images)
            found += [images] if number in ends else []
        return found

    def build() -> Outputs:
        import torchvision.models

        features = getattr(torchvision.models, name)().features[: max(ends) + 1]
        network = nn.ModuleDict({"features": features})
        for layer in features.modules():
            if isinstance(layer, nn.ReLU):
                layer.inplace = False  # what is kept must stay as it was
        return Outputs(network, read, input_px=None)

    return build


KINDS: Mapping[str, Kind] = {
    "efficientnet_lite0": Kind(
        build=_timm("tf_efficientnet_lite0", colours=HALF),
        use="vector",
        weights="timm's tf_efficientnet_lite0",
    ),
    "dino_vits8": Kind(
        build=_timm("vit_small_patch8_224"),
        use="vector",
        weights="timm's vit_small_patch8_224.dino",
    ),
    "dino_vitb8": Kind(
        build=_timm("vit_base_patch8_224"), use="vector", weights="timm's vit_base_patch8_224.dino"
    ),
    "squeezenet1_0": Kind(
        build=_stages("squeezenet1_0", (1, 4)), use="maps", weights="torchvision's squeezenet1_0"
    ),
    "vgg19": Kind(build=_stages("vgg19", (0, 5)), use="maps", weights="torchvision's vgg19"),
}
"""By name. ViTs give their class token (DiffuseIT: dino_vitb8), the VGG its conv1_1 and conv2_1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extractor:
    """A frozen network: images (B, 3, S, S) in [-1, 1] to features with B rows each."""

    name: str
    digest: str
    outputs: Callable[[Tensor], list[Tensor]]


def find_extractor(name: str, *, use: str, generator: Path) -> Path:
    """Return the file of an extractor's weights.

    Raises:
        ConfigError: no such extractor, or one for something else.
        ModelError: its weights are nowhere; says where they belong and whose they are.
    """
    fit = sorted(known for known, kind in KINDS.items() if kind.use == use)
    if name not in fit:
        raise ConfigError(f"no extractor of {use} is called {name!r}", remedy=f"Choose of {fit}")
    named = [part for part in os.environ.get(FOLDERS, "").split(os.pathsep) if part]
    places = [*map(Path, named), CACHE.expanduser(), generator / "extractors"]
    for place in places:
        if (path := place / f"{name}.safetensors").is_file():
            return path
    raise ModelError(
        f"the extractor {name!r} has no weights in {', '.join(map(str, places))}",
        remedy=f"Save the state dict of {KINDS[name].weights} there as {name}.safetensors"
        f" (safetensors.torch.save_file), name its folder in {FOLDERS}, or set its terms to 0",
    )


def load_extractor(name: str, path: Path, *, device: str) -> Extractor:
    """Return the extractor `name` with weights from `path`.

    Raises:
        ModelError: the file is unreadable, or of another network.
    """
    kind = KINDS[name]
    stored, outputs = read_tensors(path, of=kind.weights), kind.build()
    wanted = outputs.network.state_dict()
    try:
        outputs.network.load_state_dict({k: v for k, v in stored.items() if k in wanted})
    except RuntimeError as error:
        raise ModelError(
            f"{path} does not hold {kind.weights} ({str(error).splitlines()[-1].strip()})",
            remedy=f"Give the state dict of {kind.weights}",
        ) from error
    return Extractor(
        name=name,
        digest=digest_bytes(path.read_bytes()),
        outputs=outputs.eval().requires_grad_(False).to(device),
    )


def resized(images: Tensor, side: int) -> Tensor:
    """Return images (B, 3, side, side), bilinear, as two matrix products.

    Their gradient is the same on every run: CUDA's own resizing adds up in any order.
    """
    unit = torch.eye(images.shape[-1], device=images.device)[None, None]
    rows = F.interpolate(unit, (side, images.shape[-1]), mode="bilinear")[0, 0].to(images.dtype)
    return rows @ images @ rows.T
