"""A probe for masks: a linear decoder on the maps of a frozen encoder, solved, not trained.

Ridge regression of pixels: what a view adds to the normal equations is summed up once, so that an
arm is a weighted sum of its images' and another draw of the shots costs one solution.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from factory.device import own_device, up
from factory.digest import digest_bytes
from factory.errors import ConfigError, ModelError
from factory.evaluate.arms import Manifest
from factory.evaluate.backbones import COLOURS, DEFAULT, found_weights
from factory.evaluate.config import MaskProbe
from factory.evaluate.scores import image_dice, mask_rows
from factory.finetune.latents import to_signed, turn
from factory.models.shards import read_tensors
from factory.terminal import Pace, Tell

Maps = Callable[[Tensor], Tensor]
"""Images (B, 3, S, S) in [-1, 1] to maps (B, F, G, G), where the encoder lies."""
_GRID = 2  # pixels of a mask to one of the maps
_BATCH = 8
MOST_KEPT = 2048
"""Equations of views that a process keeps, a megabyte each: trials of a search share them."""
SHIFTS = (-0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3)
"""Added to the score of background: few pixels of foreground pull a regression's scores down."""


@dataclass(frozen=True, kw_only=True)
class Equations:
    """What a view adds: X'X (F, F) and X'Y (F, K) of its pixels, means over them."""

    square: NDArray[np.float32]
    aim: NDArray[np.float32]

    def added(self, views: Sequence["Equations"], weight: float) -> "Equations":
        """Return these and the mean of those of an image's views, times its weight."""
        share = np.float32(weight / len(views))
        return Equations(
            square=self.square + share * sum(view.square for view in views),
            aim=self.aim + share * sum(view.aim for view in views),
        )

    @classmethod
    def none(cls, features: int, classes: int) -> "Equations":
        """Return those of no view."""
        return cls(
            square=np.zeros((features, features), np.float32),
            aim=np.zeros((features, classes), np.float32),
        )


def encoder_of(settings: MaskProbe) -> Maps:
    """Return the encoder of a probe, frozen, on the device that this process has.

    Raises:
        ConfigError: timm knows no such encoder, or it gives no maps.
        ModelError: its weights are nowhere, or of another network.
    """
    known = settings.weights or found_weights(settings.backbone or DEFAULT)
    name = settings.backbone or (DEFAULT if known else COLOURS)
    grid = settings.size_px // _GRID
    if name == COLOURS:
        return lambda images: _fitted([images, *_blurred(images)], grid)
    import timm

    if not timm.is_model(name):
        raise ConfigError(f"timm knows no encoder {name!r}", remedy="Choose one of its names")
    if known is None:
        raise ModelError(
            f"the encoder {name!r} has no weights among the extractors",
            remedy=f"Save timm's state dict as {name}.safetensors, see docs/backbones.md",
        )
    network = timm.create_model(name, pretrained=False, features_only=True)
    state = read_tensors(Path(known), of=f"timm's {name}")
    own = network.state_dict()
    if lacking := [k for k in own if k not in state or state[k].shape != own[k].shape]:
        raise ModelError(f"{known} does not fit {name}: {lacking[0]}", remedy="Give its weights")
    network.load_state_dict({key: state[key] for key in own})
    device = own_device()
    network.eval().requires_grad_(False).to(device)
    facts = timm.get_pretrained_cfg(name)
    mean, std = (
        torch.tensor(values)[:, None, None].to(device) for values in (facts.mean, facts.std)
    )

    def maps(images: Tensor) -> Tensor:
        side = (settings.input_px, settings.input_px)
        there = (up(images, device) + 1) / 2
        shown = F.interpolate(there, side, mode="bilinear", antialias=True)
        return _fitted([F.normalize(m) for m in network((shown - mean) / std)], grid)

    return maps


def _fitted(maps: Sequence[Tensor], grid: int) -> Tensor:
    resized = [
        F.interpolate(m.float(), (grid, grid), mode="bilinear", antialias=True) for m in maps
    ]
    return torch.cat([*resized, torch.ones_like(resized[0][:, :1])], dim=1)


def _blurred(images: Tensor) -> list[Tensor]:
    """Return what surrounds each pixel, at three distances: means and squares of colours."""
    found = []
    for radius in (1, 3, 7):
        size = 2 * min(radius, images.shape[-1] // 4) + 1
        mean = F.avg_pool2d(images, size, 1, size // 2, count_include_pad=False)
        found += [mean, (images - mean) ** 2]
    return found


_kept: OrderedDict[str, Equations] = OrderedDict()


def equations_of(
    maps: Maps,
    images: NDArray[np.uint8],
    masks: NDArray[np.uint8],
    *,
    classes: int,
    turns: int,
    tell: Tell | None = None,
    known_as: str | None = None,
) -> list[list[Equations]]:
    """Return the equations of each image (N, S, S, 3) and mask (N, S, S), for each turn.

    `known_as` names the encoder: what this process computed with it lately is found again.
    """
    found: list[list[Equations]] = []
    pace = Pace(len(images), "pairs looked at", tell)
    for image, mask in zip(images, masks, strict=True):
        pace(len(found))
        own = None
        if known_as is not None:
            own = digest_bytes(known_as.encode(), bytes([classes]), image.tobytes(), mask.tobytes())
        views = []
        for number in range(turns):
            key = f"{own} {number}"
            view = (own and _kept.get(key)) or _equations(maps, image, mask, classes, number)
            if own:
                _kept[key] = view
                _kept.move_to_end(key)
            views.append(view)
        while len(_kept) > MOST_KEPT:
            _kept.popitem(last=False)
        found.append(views)
    return found


@torch.inference_mode()
def _equations(
    maps: Maps, image: NDArray[np.uint8], mask: NDArray[np.uint8], classes: int, number: int
) -> Equations:
    shown = F.one_hot(torch.from_numpy(mask).long(), classes).permute(2, 0, 1)[None].float()
    features = maps(turn(to_signed(torch.from_numpy(image)[None]), number)).flatten(2)[0]
    aim = up(F.avg_pool2d(turn(shown, number), _GRID).flatten(2)[0], features.device)
    square = (features @ features.T / features.shape[1]).cpu().numpy()
    return Equations(square=square, aim=(features @ aim.T / aim.shape[1]).cpu().numpy())


@torch.inference_mode()
def maps_of(maps: Maps, images: NDArray[np.uint8]) -> NDArray[np.float16]:
    """Return the maps (N, F, G, G) of images that masks are looked for in."""
    chunks = torch.split(torch.from_numpy(images), _BATCH)
    return np.asarray(torch.cat([maps(to_signed(chunk)).half().cpu() for chunk in chunks]).numpy())


@dataclass(frozen=True, kw_only=True)
class Dense:
    """What probes for masks work on: equations by training image, maps by held-out image.

    Pasted pairs are of one arm and draw alone: their equations are `summed`, by its manifest.
    """

    equations: Mapping[str, Sequence[Equations]]
    summed: Mapping[str, Equations]
    maps: NDArray[np.float16]
    position: Mapping[str, int]


def solve(settings: MaskProbe, manifest: Manifest, dense: Dense) -> NDArray[np.float64]:
    """Return the decoder (F, K) of an arm; each image weighs as its rows, whatever its views."""
    squares, aims = [], []
    for row in manifest.rows:
        if row.made == "pasted":
            continue
        own = settings.drawn_turns if row.synthetic or row.made else settings.turns
        views = dense.equations[row.id][: own if manifest.augment else 1]
        squares += [row.weight / len(views) * view.square for view in views]
        aims += [row.weight / len(views) * view.aim for view in views]
    if (summed := dense.summed.get(manifest.digest)) is not None:
        squares.append(summed.square)
        aims.append(summed.aim)
    square = np.asarray(np.stack(squares).sum(axis=0), np.float64)
    aim = np.asarray(np.stack(aims).sum(axis=0), np.float64)
    level = float(np.trace(square)) / len(square)
    penalty = level / settings.strength * np.eye(len(square))
    return np.asarray(np.linalg.solve(square + penalty, aim))


def masks_of(
    decoder: NDArray[np.float64], maps: NDArray[np.float16], *, size_px: int, shift: float
) -> NDArray[np.uint8]:
    """Return class indices (N, S, S) from maps (N, F, G, G)."""
    found = []
    device = own_device()
    weights = up(torch.from_numpy(decoder.astype(np.float32)), device)
    for chunk in torch.split(torch.from_numpy(maps), 64):
        scores = torch.einsum("nfhw,fk->nkhw", up(chunk, device).float(), weights)
        scores[:, 0] += shift
        large = F.interpolate(scores, (size_px, size_px), mode="bilinear")
        found.append(large.argmax(1).to(torch.uint8))
    return np.asarray(torch.cat(found).cpu().numpy())


def best_shift(
    decoder: NDArray[np.float64],
    maps: NDArray[np.float16],
    masks: NDArray[np.uint8],
    *,
    size_px: int,
) -> float:
    """Return the shift of background with the best mean Dice on val images; 0 of none."""
    if not len(masks):
        return 0.0

    def dice(shift: float) -> float:
        said = masks_of(decoder, maps, size_px=size_px, shift=shift)
        return float(image_dice(mask_rows(said, masks).sum(axis=0)))

    return max(sorted(SHIFTS, key=abs), key=dice)
