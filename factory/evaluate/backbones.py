"""What a probe looks through: a frozen network by name, and features that are computed once.

Features are kept by what decides them: the image's pixels, the view of it, the backbone's weights
and input. They are neither images nor tied to a study, so that the next study finds them again.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from factory.arrays import Features, Images
from factory.atomic import write_bytes
from factory.device import own_device, up
from factory.digest import digest, digest_bytes
from factory.errors import ModelError
from factory.evaluate.augment import augmented
from factory.evaluate.config import Augmentation, Probe
from factory.evaluate.pictures import Pictures
from factory.finetune.latents import to_signed, turn
from factory.models.config import ExpertSpec
from factory.models.experts import Expert, build_expert
from factory.models.extractors import CACHE, FOLDERS
from factory.terminal import Pace, Tell

DEFAULT = "tf_efficientnet_lite0"
COLOURS = "colours"
KEPT = "FACTORY_FEATURES"
"""Environment variable: the folder of kept features."""
_BATCH = 8  # the fastest on one core, see `factory.measure.features`
_GPU_BATCH = 128  # of which 2 GiB are activations, at 224 px and of the largest that are usual
_AT_ONCE = 512  # images between two writes: what a killed study does not lose


@dataclass(frozen=True, slots=True, kw_only=True)
class Backbone:
    """Images (N, S, S, 3) uint8 to features (N, F); `digest` names all that decides them."""

    name: str
    digest: str
    extract: Callable[[Images], Features]


def open_backbone(settings: Probe, *, gpus: float = 0.0) -> Backbone:
    """Return the backbone of a probe; with `gpus` of Ray it looks in an actor that holds them.

    Raises:
        ConfigError: timm knows no such backbone.
        ModelError: its weights are nowhere, or of another network.
    """
    name = backbone_name(settings)
    if name == COLOURS:
        return Backbone(name=name, digest=digest([COLOURS, 1]), extract=colours_of)
    path = settings.weights or found_weights(name)
    spec = ExpertSpec(backbone=name, class_names=("one", "other"), size_px=settings.input_px)
    network = build_expert(spec, seed=0, weights=path).freeze()
    if path is None:
        raise ModelError(
            f"the backbone {name!r} has no weights in {', '.join(map(str, _places()))}",
            remedy=f"Save timm's state dict there as {name}.safetensors"
            " (safetensors.torch.save_file), or name the file: --set learner.weights=FILE",
        )
    key = [name, digest_bytes(Path(path).read_bytes()), settings.input_px, 1]
    return Backbone(name=name, digest=digest(key), extract=_placed(network, gpus))


def expert_backbone(folder: Path, *, gpus: float = 0.0) -> Backbone:
    """Return the network of an expert, what its classifying layer sees; `gpus` as a backbone's.

    Raises:
        ModelError: see `load_expert`.
    """
    from factory.models.expert_file import WEIGHTS, load_expert

    expert, notes = load_expert(folder)
    key = [notes.model_dump(mode="json"), digest_bytes((folder / WEIGHTS).read_bytes()), 1]
    place = f"the expert in {folder}"
    return Backbone(name=place, digest=digest(key), extract=_placed(expert, gpus))


class Looker:
    """An actor of Ray that looks at images for a process without a GPU."""

    def __init__(self, network: Expert) -> None:
        self._extract = _seen_by(network)

    def extract(self, images: Images) -> Features:
        """Return the features of images (N, S, S, 3)."""
        return self._extract(images.copy())  # Ray's own may not be written, which PyTorch minds


def _placed(network: Expert, gpus: float) -> Callable[[Images], Features]:
    """Return what gives features: here, or in an actor that holds `gpus` while this is kept.

    The network travels, for its weights need not lie on that machine; features are kept here. The
    actor starts with the first images: several networks may want the same GPU in turn.
    """
    if not gpus:
        return _seen_by(network)
    import ray

    from factory.sample.stream import fetched

    actors: list[Any] = []

    def extract(images: Images) -> Features:
        if not actors:
            kind = ray.remote(num_cpus=0, num_gpus=gpus, max_restarts=3, max_task_retries=3)
            actors.append(kind(Looker).remote(network))
        return np.asarray(fetched(actors[0].extract.remote(images)))

    return extract


def _seen_by(network: Expert) -> Callable[[Images], Features]:
    """Return what gives the features of a frozen network, of unit length."""
    device = own_device()
    network.to(device).to(memory_format=torch.channels_last)
    size = _BATCH if device == "cpu" else _GPU_BATCH

    @torch.inference_mode()
    def extract(images: Images) -> Features:
        rows = [
            F.normalize(network.features(to_signed(up(chunk, device)))).float()
            for chunk in torch.split(torch.from_numpy(images), size)
        ]
        return np.asarray(torch.cat(rows).cpu().numpy())

    return extract


def backbone_name(settings: Probe) -> str:
    """Return the backbone that a probe looks through: see `Probe.backbone`."""
    known = settings.weights is not None or found_weights(DEFAULT) is not None
    return settings.backbone or (DEFAULT if known else COLOURS)


def found_weights(name: str) -> Path | None:
    """Return the file of a backbone's weights among extractors, if it is there."""
    paths = (folder / f"{name}.safetensors" for folder in _places())
    return next((path for path in paths if path.is_file()), None)


def _places() -> list[Path]:
    named = [part for part in os.environ.get(FOLDERS, "").split(os.pathsep) if part]
    return [*map(Path, named), CACHE.expanduser()]


def colours_of(images: Images) -> Features:
    """Return means, spreads and edges of a 3 x 3 grid and of the middle of images: (N, 69)."""
    values = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    side = values.shape[-1] // 4
    middle = values[..., side:-side, side:-side]
    parts = [F.adaptive_avg_pool2d(values, 3).flatten(1)]
    for part in (values, middle):
        flat = part.flatten(2)
        edges = (part[..., 1:] - part[..., :-1]).abs().mean((2, 3))
        quantiles = [flat.quantile(share, 2) for share in (0.1, 0.5, 0.9)]
        parts += [flat.mean(2), flat.std(2), edges, *quantiles, flat.amin(2)]
    return np.asarray(torch.cat(parts, dim=1).numpy())


def view_names(settings: Probe, *, turns: int, varied: int = 0) -> list[str]:
    """Return the names of views: flips and quarter turns, then varied ones."""
    told = digest(settings.augmentation.model_dump(mode="json"))
    return [f"turn{n}" for n in range(turns)] + [f"varied{n}-{told}" for n in range(varied)]


def seen_as(images: Images, names: Sequence[str], view: str, varying: Augmentation) -> Images:
    """Return images (N, S, S, 3) under a view; varied ones follow from pixels and view."""
    if view.startswith("turn"):
        turned = turn(torch.from_numpy(images).permute(0, 3, 1, 2), int(view[4:]))
        return np.ascontiguousarray(turned.permute(0, 2, 3, 1).numpy())
    out = np.empty_like(images)
    for row, name in enumerate(names):
        generator = torch.Generator().manual_seed(int(digest([name, view])[:15], 16))
        signed = to_signed(torch.from_numpy(images[row : row + 1]))
        changed, _turns, _grids = augmented(varying, signed, generator)
        pixels = ((changed.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        out[row] = pixels[0].permute(1, 2, 0).numpy()
    return out


def features_of(
    backbone: Backbone,
    images: Images | Pictures,
    views: Sequence[Sequence[str]],
    varying: Augmentation,
    *,
    staining: Augmentation | None = None,
    tell: Tell | None = None,
) -> Features:
    """Return features (M, F) of all views of all images, from disk where they are.

    Args:
        backbone: what looks.
        images: (N, S, S, 3).
        views: of each image.
        varying: of varied views.
        staining: of views in other stains.
        tell: gets lines before and during work that takes long.
    """
    shown = (images[n] for n in range(len(images)))
    names = [digest_bytes(str(image.shape).encode(), image.tobytes()) for image in shown]
    wanted = {(names[n], view): n for n, own in enumerate(views) for view in own}
    kept = dict(_stored(backbone, wanted))
    lacking = [key for key in wanted if key not in kept]
    if tell and lacking:
        tell(f"{backbone.name} looks at {len(lacking)} views of images ({len(kept)} are known)")
    pace = Pace(len(lacking), "views", tell)
    for start in range(0, len(lacking), _AT_ONCE):
        pace(start)
        chunk = lacking[start : start + _AT_ONCE]
        pixels = np.concatenate(
            [
                seen_as(
                    images[wanted[k]][None],
                    [k[0]],
                    k[1],
                    staining if staining and k[1].startswith("stained") else varying,
                )
                for k in chunk
            ]
        )
        made = backbone.extract(pixels).astype(np.float16)
        keys = np.stack([_row(*key) for key in chunk])
        path = _folder(backbone) / f"{digest_bytes(keys.tobytes())}.safetensors"
        write_bytes(path, save({"keys": keys, "features": made}))
        kept |= dict(zip(chunk, made, strict=True))
    rows = [(names[n], view) for n, own in enumerate(views) for view in own]
    found = np.empty((len(rows), len(next(iter(kept.values()), ()))), np.float32)
    for n, row in enumerate(rows):
        found[n] = kept[row]
    return found


def _folder(backbone: Backbone) -> Path:
    return Path(os.environ.get(KEPT) or CACHE.parent / "features").expanduser() / backbone.digest


def _row(name: str, view: str) -> NDArray[np.uint8]:
    return np.frombuffer(bytes.fromhex(digest([name, view])), np.uint8)


def _stored(
    backbone: Backbone, wanted: Mapping[tuple[str, str], int]
) -> Iterator[tuple[tuple[str, str], NDArray[np.float16]]]:
    """Yield what earlier studies kept of the views that are wanted."""
    keys = {_row(*key).tobytes(): key for key in wanted}
    for path in sorted(_folder(backbone).glob("*.safetensors")):
        try:
            with safe_open(path, framework="numpy") as file:
                rows = [row.tobytes() for row in file.get_tensor("keys")]
                if keys.keys().isdisjoint(rows):
                    continue
                stored = file.get_tensor("features")
        except (OSError, SafetensorError):  # damaged, or not ours: computed anew
            continue
        yield from ((keys[row], stored[n]) for n, row in enumerate(rows) if row in keys)
