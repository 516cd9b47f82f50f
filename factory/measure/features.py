"""A named feature space: images to vectors of a pretrained network that judges, never draws."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from factory.digest import digest_bytes
from factory.errors import ModelError
from factory.models.tensors import read_tensors

BACKBONE = "efficientnet_lite0"
"""The name that figures carry: 'KID (efficientnet_lite0)', not the KID of Inception."""
INPUT_PX = 224
TURNS = 8

Images = NDArray[np.uint8]
Features = NDArray[np.float32]
Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSpace:
    """A frozen network with its name; `digest` names the weights it was made from."""

    name: str
    digest: str
    network: Any

    @torch.inference_mode()
    def extract(self, images: Images, *, batch_size: int = 8) -> Features:
        """Return pooled features (N, 1280) of RGB images (N, H, W, 3), N >= 1.

        Batches of 8 are the fastest on one core (measured: 55 images/s, 36 in batches of 16 with
        channels first). The next batch is brought to size (13 % of the work on a CPU) while the
        network reads the present one.
        """
        device = next(self.network.parameters()).device
        chunks = torch.split(torch.from_numpy(images), batch_size)
        rows = [
            self.network(made).float().cpu()
            for made in one_ahead(chunks, lambda chunk: network_input(chunk.to(device)))
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


def network_input(images: Tensor) -> Tensor:
    """Return (B, 3, 224, 224) in about [-1, 1] from (B, H, W, 3) uint8: bicubic, antialiased."""
    scaled = images.permute(0, 3, 1, 2).float() / 255
    resized = F.interpolate(scaled, (INPUT_PX, INPUT_PX), mode="bicubic", antialias=True)
    normal = (resized.clamp(0, 1) - 0.5) / 0.5  # bicubic overshoots, pictures do not
    return normal.contiguous(memory_format=torch.channels_last)


def load_feature_space(weights: Path, *, device: str | None = None) -> FeatureSpace:
    """Return EfficientNet-Lite0 (M. Tan and Q. Le, ICML 2019) with weights from a local file.

    Args:
        weights: state dict of timm's `tf_efficientnet_lite0`, as safetensors.
        device: default: a GPU if there is one.

    Raises:
        ModelError: the file is missing, unreadable, or of another network.
    """
    import timm

    state = read_tensors(weights, of="timm's tf_efficientnet_lite0")
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0)
    wanted = {name: state.get(name) for name in network.state_dict()}
    lacking = [name for name, value in wanted.items() if value is None]
    try:
        network.load_state_dict({name: value for name, value in wanted.items() if name in state})
    except RuntimeError as error:
        raise ModelError(
            f"{weights} holds no {BACKBONE} (the first of {len(lacking)} lacking tensors:"
            f" {lacking[0] if lacking else 'none, but shapes differ'})",
            remedy="Give the state dict of timm's tf_efficientnet_lite0",
        ) from error
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return FeatureSpace(
        name=BACKBONE,
        digest=digest_bytes(weights.read_bytes()),
        network=network.eval().to(place, memory_format=torch.channels_last),
    )


def turned(images: Images, number: int) -> Images:
    """Return images (N, S, S, 3) under dihedral symmetry `number` in 0..7; cells have no up."""
    rotated = np.rot90(images, number % 4, (1, 2))
    return np.ascontiguousarray(rotated[:, :, ::-1] if number >= 4 else rotated)
