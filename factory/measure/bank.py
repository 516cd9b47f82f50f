"""The bank of the copy gate: what training images look like in each space, and how near is near.

folder/bank.safetensors                vectors of the train part; thresholds and ids in its header
folder/NETWORK.safetensors             the feature network, where features are compared too
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from factory.arrays import Features, Images
from factory.atomic import new_folder
from factory.errors import DataError
from factory.measure.bank_file import (
    BANK_FILE,
    BRIGHTNESS,
    Resemblance,
    brightness_by_class,
    opened_bank,
)
from factory.measure.copies import PERCENTILE, Nearest, nearest, thumbnails, turned_thumbnails
from factory.measure.features import TURNS, FeatureSpace, load_feature_space, turned
from factory.real.dataset import RealDataset
from factory.real.splits import Split, check_dataset

PIXELS = "pixels"
LEAST_HELD_OUT = 20
"""Fewer unseen images say nothing about the 1 % that come nearest."""


@dataclass(frozen=True, kw_only=True)
class CopyBank:
    """Training images in one or two spaces; call it with drawn images (B, H, W, 3)."""

    stored: Mapping[str, Features]
    """Space -> vectors: pixels (M, 3072); features of all eight turns (8 * M, D)."""
    thresholds: Mapping[str, float]
    ids: tuple[str, ...]
    split_digest: str
    network: FeatureSpace | None = None

    def __call__(self, images: Images) -> list[Resemblance]:
        """Return what every image resembles most, under any flip or quarter turn."""
        found = self.distances(images)
        ratios = {s: near.distance / self.thresholds[s] for s, near in found.items()}
        out = []
        for row in range(len(images)):
            space = min(ratios, key=lambda name: ratios[name][row])
            out.append(
                Resemblance(
                    ratio=float(ratios[space][row]),
                    space=space,
                    image_id=self.ids[int(found[space].position[row]) % len(self.ids)],
                )
            )
        return out

    def distances(self, images: Images) -> dict[str, Nearest]:
        """Return the nearest stored vector of every image by space; positions count turns apart."""
        found = {PIXELS: nearest(turned_thumbnails(images), self.stored[PIXELS])}
        if self.network is not None:
            features = self.network.extract(images)[None]
            found[self.network.name] = nearest(features, self.stored[self.network.name])
        return found


def make_bank(
    folder: Path, dataset: RealDataset, split: Split, *, size_px: int, weights: Path | None
) -> CopyBank:
    """Write the bank of a split's train part, calibrated on its val part, and return it.

    Of these unseen images 1 % lie below a threshold, in one space or another. The test part stays
    unseen: what the gate lets through may be studied on it.

    Args:
        folder: new.
        dataset: the real images.
        split: of `dataset`: what a generator may learn from, and what it may not.
        size_px: side at which images are compared, that of the drawn ones.
        weights: see `load_feature_space`; None: pixels alone, which a recoloured copy escapes.

    Raises:
        DataError: a split of other images, fewer than 20 val ones, or val images that equal
            training ones.
        ModelError: see `load_feature_space`.
    """
    check_dataset(split, dataset.fingerprint)
    if len(split.val) < LEAST_HELD_OUT:
        raise DataError(
            f"{len(split.val)} val images do not tell how near unseen ones come",
            remedy=f"Split so that val holds {LEAST_HELD_OUT} images, better a hundred or more",
        )
    train = dataset.array(size_px, list(split.train))
    network = None if weights is None else load_feature_space(weights)
    stored = {PIXELS: thumbnails(train)}
    if network is not None:
        views = [network.extract(turned(train, number)) for number in range(TURNS)]
        stored[network.name] = np.concatenate(views)
    bare = CopyBank(
        stored=stored,
        thresholds=dict.fromkeys(stored, 1.0),
        ids=split.train,
        split_digest=split.digest,
        network=network,
    )
    thresholds = _calibrated(bare.distances(dataset.array(size_px, list(split.val))))
    labels = [dataset.labels[dataset.index_of(image_id)] for image_id in split.train]
    facts = {
        "thresholds": thresholds,
        "ids": list(split.train),
        "split_digest": split.digest,
        BRIGHTNESS: brightness_by_class(train, labels),
    }
    with new_folder(folder) as work:
        tensors = {name: torch.from_numpy(vectors) for name, vectors in stored.items()}
        save_file(tensors, work / BANK_FILE, metadata={"facts": json.dumps(facts)})
        if weights is not None and network is not None:
            shutil.copyfile(weights, work / f"{network.name}.safetensors")
    return load_bank(folder)


def _calibrated(unseen: Mapping[str, Nearest]) -> dict[str, float]:
    """Return a threshold per space, below one of which 1 % of unseen images lie.

    Each space alone is given its own 1 %; two of them refuse up to 2 % together, so all thresholds
    then shrink by the factor that leaves 1 %.

    Raises:
        DataError: so many unseen images equal training ones that nothing tells them apart.
    """
    alone = {s: float(np.percentile(near.distance, PERCENTILE)) for s, near in unseen.items()}
    if not all(alone.values()):
        raise DataError(
            f"{PERCENTILE:g} % or more of the val images equal training images",
            remedy="Split again with `factory real split`, which keeps duplicates together",
        )
    nearest_of_all = np.min([near.distance / alone[s] for s, near in unseen.items()], axis=0)
    shared = float(np.percentile(nearest_of_all, PERCENTILE))
    return {space: shared * threshold for space, threshold in alone.items()}


def load_bank(folder: str | Path) -> CopyBank:
    """Return the bank in `folder`.

    Raises:
        ModelError: missing or damaged.
    """
    path = Path(folder).expanduser()
    with opened_bank(path) as file:
        facts = json.loads(file.metadata()["facts"])
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    networks = [name for name in stored if name != PIXELS]
    return CopyBank(
        stored=stored,
        thresholds=facts["thresholds"],
        ids=tuple(facts["ids"]),
        split_digest=facts["split_digest"],
        network=load_feature_space(path / f"{networks[0]}.safetensors") if networks else None,
    )
