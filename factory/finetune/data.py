"""What a training learns from: the chosen images of a part of a split, and what was made of them.

    images, masks, labels -> one file, named by what it holds -> latents, features, once

Nothing of another part is ever written: a worker cannot see what is held out.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from factory.atomic import write_bytes
from factory.digest import digest
from factory.errors import DataError
from factory.finetune.latents import TURNS, encode_turned
from factory.finetune.stages import check_seal, new_stage, seal
from factory.gate.calibration import Calibration, calibrate
from factory.models.autoencoder import Autoencoder
from factory.real.dataset import RealDataset
from factory.real.splits import Split

GATED = 1000
"""Images by which gates are measured: their extremes hardly move with more."""
FACTS, LATENTS = "facts", "latents.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """Images of one part of a split, and what is known of each; N of everything.

    Args:
        images: (N, S, S, 3) uint8.
        ids: of the real dataset.
        labels: the class of each.
        dataset_fingerprint: of the real dataset.
        split_digest: of the split whose part this is.
        masks: (N, S, S) uint8, as stored or class indices; None: the method reads none.
        mask_values: the stored value of every class of `masks`.
        clusters: of each image; empty without clusters.
        attributes: what else is known of each image; empty: the method reads none.
        latents: unscaled, (N, T, C, h, w) float16 under T turns; None: not encoded.
        features: of an expert, (N, T, F) float16 of the same turned images; None: none are kept.
    """

    images: Tensor
    ids: tuple[str, ...]
    labels: tuple[str, ...]
    dataset_fingerprint: str
    split_digest: str
    masks: Tensor | None = None
    mask_values: tuple[int, ...] = ()
    clusters: tuple[int, ...] = ()
    attributes: tuple[Mapping[str, str | None], ...] = ()
    latents: Tensor | None = None
    features: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def digest(self) -> str:
        """Names these images at this size: what is learnt from them depends on it."""
        return digest([self.dataset_fingerprint, list(self.ids), self.images.shape[1]])

    @property
    def ids_digest(self) -> str:
        """Names the images that are learnt from, in whatever order and size."""
        return digest(sorted(self.ids))

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes there are, in order."""
        return tuple(sorted(set(self.labels)))

    def take(self, rows: Sequence[int]) -> "Material":
        """Return these rows of everything."""
        chosen = list(rows)
        found = {each.name: getattr(self, each.name) for each in fields(self)}
        for name in ("images", "masks", "latents", "features"):
            found[name] = None if found[name] is None else found[name][chosen]
        for name in ("ids", "labels", "clusters", "attributes"):
            found[name] = tuple(found[name][row] for row in chosen) if found[name] else ()
        return Material(**found)

    def of_class(self, class_name: str) -> "Material":
        """Return the images of one class."""
        return self.take([row for row, own in enumerate(self.labels) if own == class_name])

    def of_cluster(self, number: int) -> "Material":
        """Return the images of one cluster.

        Raises:
            DataError: there is none.
        """
        rows = [row for row, own in enumerate(self.clusters) if own == number]
        if not rows:
            raise DataError(
                f"there is no cluster {number}", remedy=f"Choose of {sorted(set(self.clusters))}"
            )
        return self.take(rows)

    def measured(self) -> Calibration:
        """Return what the images score at the gates, by a thousand of them where there are more."""
        rows = spread(self.labels, GATED)
        return calibrate(
            (self.images[row].numpy() for row in rows), [self.labels[row] for row in rows]
        )


def spread(labels: Sequence[str], count: int) -> list[int]:
    """Return `count` rows, or all, with the classes in proportion; always the same ones."""
    order = sorted(range(len(labels)), key=lambda row: (labels[row], row))
    places = np.linspace(0, len(order) - 1, min(count, len(order)))
    return [order[round(place)] for place in places]


def take_material(
    dataset: RealDataset,
    ids: Sequence[str],
    split: Split,
    *,
    size_px: int,
    masks: bool = False,
    attributes: bool = False,
    called: Mapping[str, str] | None = None,
) -> Material:
    """Return these images, cut square and scaled to `size_px`, with what the method reads.

    `called`: class -> the label that is kept of it, where that differs.

    Raises:
        DataError: masks are asked for and an image has none.
    """
    own = dict(zip(dataset.ids, dataset.labels, strict=True))
    labels = {i: (called or {}).get(label, label) for i, label in own.items()}
    return Material(
        images=torch.from_numpy(dataset.array(size_px, ids)),
        ids=tuple(ids),
        labels=tuple(labels[i] for i in ids),
        dataset_fingerprint=dataset.fingerprint,
        split_digest=split.digest,
        masks=torch.from_numpy(dataset.mask_array(size_px, ids)) if masks else None,
        attributes=tuple(dict(dataset.attributes.get(i, {})) for i in ids) if attributes else (),
    )


def save_material(material: Material, folder: Path) -> Path:
    """Write the images and what is known of them into `folder`, once; return the file.

    It is named by all that it holds, so that several trainings may share a folder. Latents and
    features are no part of it: see `encoded`.
    """
    facts: dict[str, Any] = {
        "ids": material.ids,
        "labels": material.labels,
        "dataset_fingerprint": material.dataset_fingerprint,
        "split_digest": material.split_digest,
        "mask_values": material.mask_values,
        "clusters": material.clusters,
        "attributes": [dict(row) for row in material.attributes],
    }
    tensors = {"images": material.images}
    if material.masks is not None:
        tensors["masks"] = material.masks
    name = digest([material.images.shape[1], sorted(tensors), facts])
    path = folder / f"images-{name}.safetensors"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(path, save(tensors, metadata={FACTS: json.dumps(facts)}))
        seal(path)
    return path


def load_material(path: Path) -> Material:
    """Return what `save_material` wrote; the file is mapped, not read at once.

    Raises:
        DataError: missing or damaged.
        ModelError: changed since it was written.
    """
    with restoring(path), safe_open(path, framework="pt") as file:
        facts: dict[str, Any] = json.loads(file.metadata()[FACTS])
        known: Any = {name: tuple(v) if isinstance(v, list) else v for name, v in facts.items()}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        found = Material(images=tensors["images"], masks=tensors.get("masks"), **known)
    check_seal(path)
    return found


def encoded(
    material: Material,
    folder: Path,
    autoencoder: Autoencoder,
    *,
    named: str,
    turns: int = TURNS,
    device: str = "cpu",
    features_of: Any = None,
) -> Material:
    """Return `material` with its latents, made once and kept in `folder`.

    Args:
        material: the images.
        folder: of the stages.
        autoencoder: encodes them; it is moved to `device`.
        named: what names the autoencoder's weights.
        turns: under how many flips and quarter turns, 1 to 8.
        device: to encode on.
        features_of: also keeps what an expert sees, see `factory.finetune.alignment.FeaturesOf`.

    Raises:
        DataError: kept latents that cannot be read.
        ModelError: they were changed since.
    """
    seen = [features_of.digest] if features_of else []
    target = folder / f"latents-{digest([named, material.digest, turns, *seen])}"
    if not (target / LATENTS).exists():
        tensors = {
            "latents": encode_turned(
                autoencoder.to(device), material.images, turns=turns, device=device
            )
        }
        if features_of:
            tensors["features"] = features_of(material.images, turns=turns, device=device)
        with new_stage(target) as work:
            save_file(tensors, work / LATENTS)
    with restoring(target / LATENTS) as path:
        kept = load_file(path)
    check_seal(target)
    return replace(material, latents=kept["latents"], features=kept.get("features"))


@contextmanager
def restoring(path: Path) -> Iterator[Path]:
    """Yield the result of an earlier stage; errors in reading it say how to get it again.

    Raises:
        DataError: missing, truncated, or something else.
    """
    try:
        yield path
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise DataError(
            f"{path} cannot be read ({next(iter(str(error).splitlines()), type(error).__name__)})",
            remedy="Delete it and start again: it is made anew, finished stages are kept",
        ) from error
