"""What a fine-tuning learns from: chosen images of the train part as latents, made once."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from diffusers import AutoencoderKL
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from factory.digest import digest
from factory.errors import DataError
from factory.finetune.expert_features import FeaturesOf
from factory.finetune.latents import encode_turned
from factory.finetune.stages import check_seal, new_stage
from factory.gate.calibration import Calibration, calibrate
from factory.models.generator import Generator
from factory.real.dataset import RealDataset
from factory.real.splits import Split

GATED = 1000
"""Images by which gates are measured: their extremes hardly move with more."""
FACTS, FEATURES = "material.json", "features.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """Unscaled latents (N, T, C, h, w) float16 under T turns, and what they are images of."""

    latents: Tensor
    ids: tuple[str, ...]
    labels: tuple[str, ...]
    dataset_fingerprint: str
    split_digest: str
    features: Tensor | None = None
    """An expert's features (N, T, F) float16 of the same turned images, for an aligned loss."""

    def of_class(self, class_name: str) -> "Material":
        """Return the images of one class."""
        rows = [i for i, label in enumerate(self.labels) if label == class_name]
        return Material(
            latents=self.latents[rows],
            ids=tuple(self.ids[i] for i in rows),
            labels=tuple(self.labels[i] for i in rows),
            dataset_fingerprint=self.dataset_fingerprint,
            split_digest=self.split_digest,
            features=None if self.features is None else self.features[rows],
        )

    @property
    def ids_digest(self) -> str:
        """Names the images that were learnt from."""
        return digest(sorted(self.ids))


def spread(labels: Sequence[str], count: int) -> list[int]:
    """Return `count` rows, or all, with the classes in proportion; always the same ones."""
    order = sorted(range(len(labels)), key=lambda row: (labels[row], row))
    places = np.linspace(0, len(order) - 1, min(count, len(order)))
    return [order[round(place)] for place in places]


def measured(images: Tensor, labels: Sequence[str]) -> Calibration:
    """Return what images (N, S, S, 3) uint8 score, by a thousand of them where there are more."""
    rows = spread(labels, GATED)
    return calibrate((images[row].numpy() for row in rows), [labels[row] for row in rows])


def make_material(
    dataset: RealDataset,
    ids: Sequence[str],
    split: Split,
    *,
    generator: Generator,
    autoencoder: AutoencoderKL,
    size_px: int,
    turns: bool,
    folder: Path,
    features_of: FeaturesOf | None = None,
) -> Path:
    """Encode `ids` once; return the folder, named by all that it depends on, below `folder`.

    Args:
        features_of: also keeps what an expert sees in the images.
    """
    name = digest(
        [dataset.fingerprint, generator.model_id, list(ids), size_px, turns]
        + ([features_of.digest] if features_of else [])
    )
    target = folder / f"latents-{name}"
    if (target / FACTS).exists():
        return target
    images = torch.from_numpy(dataset.array(size_px, ids))
    latents = encode_turned(autoencoder, images)
    latents = latents if turns else latents[:, :1]
    labels = dict(zip(dataset.ids, dataset.labels, strict=True))
    material = Material(
        latents=latents,
        ids=tuple(ids),
        labels=tuple(labels[i] for i in ids),
        dataset_fingerprint=dataset.fingerprint,
        split_digest=split.digest,
        features=features_of(images, turns=latents.shape[1]) if features_of else None,
    )
    save_material(material, target)
    return target


def save_material(material: Material, folder: Path) -> None:
    """Write `folder`, whole or not at all."""
    facts = {
        "shape": list(material.latents.shape[1:]),
        "dataset_fingerprint": material.dataset_fingerprint,
        "split_digest": material.split_digest,
    }
    table = pa.table(
        {
            "image_id": list(material.ids),
            "class_name": list(material.labels),
            "latents": [row.numpy().tobytes() for row in material.latents],
        }
    )
    with new_stage(folder) as work:
        pq.write_table(table, work / "latents.parquet", compression="zstd")
        if material.features is not None:
            save_file({"features": material.features}, work / FEATURES)
        (work / FACTS).write_text(json.dumps(facts))


def load_material(folder: Path) -> Material:
    """Return what `save_material` wrote.

    Raises:
        DataError: the folder is missing or damaged.
        ModelError: it was changed since.
    """
    try:
        facts = json.loads((folder / FACTS).read_text())
        table = pq.read_table(folder / "latents.parquet")
        rows = [np.frombuffer(row, np.float16) for row in table["latents"].to_pylist()]
        latents = torch.from_numpy(np.stack(rows).reshape(-1, *facts["shape"]))
        stored = folder / FEATURES
        features = load_file(stored)["features"] if stored.exists() else None
    except (OSError, ValueError, KeyError, pa.ArrowException, SafetensorError) as error:
        raise DataError(
            f"cached latents {folder} cannot be read ({error})",
            remedy="Delete the folder; they are made again",
        ) from error
    check_seal(folder)
    return Material(
        latents=latents,
        ids=tuple(table["image_id"].to_pylist()),
        labels=tuple(table["class_name"].to_pylist()),
        dataset_fingerprint=facts["dataset_fingerprint"],
        split_digest=facts["split_digest"],
        features=features,
    )
