"""What a training of pairs learns from: the train part's images and masks, for all workers."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from factory.digest import digest
from factory.errors import DataError
from factory.finetune.latents import encode_turned
from factory.finetune.pairs_config import PairsConfig
from factory.finetune.stages import check_seal, new_stage
from factory.models.pair_codec import class_index_array
from factory.real.clusters import Clusters, load_clusters
from factory.real.dataset import RealDataset
from factory.real.leaks import check_apart
from factory.real.mask_values import found_values
from factory.real.splits import Split


@dataclass(frozen=True, slots=True, kw_only=True)
class PairSet:
    """Pairs in memory: images (N, S, S, 3) uint8, masks (N, S, S) class indices, what they are.

    `latents` (N, 8, c, h, w) float16, unscaled, of all turns, in latent form; else None.
    """

    images: Tensor
    masks: Tensor
    latents: Tensor | None
    ids: tuple[str, ...]
    labels: tuple[str, ...]
    clusters: tuple[int, ...]
    """Cluster of each; empty without clusters."""
    mask_values: tuple[int, ...]
    dataset_fingerprint: str
    split_digest: str

    @property
    def ids_digest(self) -> str:
        """Names the images that are learnt from."""
        return digest(sorted(self.ids))

    @property
    def members(self) -> dict[str, list[str]]:
        """Ids by cluster, as the manifest of a generator lists them."""
        found: dict[str, list[str]] = {}
        for image_id, number in sorted(zip(self.ids, self.clusters, strict=False)):
            found.setdefault(str(number), []).append(image_id)
        return dict(sorted(found.items(), key=lambda pair: int(pair[0])))

    def of_cluster(self, number: int) -> "PairSet":
        """Return the pairs of one cluster.

        Raises:
            DataError: there is none.
        """
        rows = [row for row, own in enumerate(self.clusters) if own == number]
        if not rows:
            raise DataError(
                f"there is no cluster {number}", remedy=f"Choose of {sorted(set(self.clusters))}"
            )
        return PairSet(
            images=self.images[rows],
            masks=self.masks[rows],
            latents=None if self.latents is None else self.latents[rows],
            ids=tuple(self.ids[row] for row in rows),
            labels=tuple(self.labels[row] for row in rows),
            clusters=tuple(self.clusters[row] for row in rows),
            mask_values=self.mask_values,
            dataset_fingerprint=self.dataset_fingerprint,
            split_digest=self.split_digest,
        )


def prepare_pairs(
    config: PairsConfig,
    dataset: RealDataset,
    split: Split,
    folder: Path,
    *,
    autoencoder: Any = None,
) -> None:
    """Write the train part, and nothing of val or test, into `folder` for all workers.

    Raises:
        DataError: a split or clusters of another dataset, an image without a mask, an empty train
            part, or a mask whose values are no classes.
    """
    check_apart(dataset, split)
    clusters = None if config.clusters is None else load_clusters(config.clusters, split)
    labels = dict(zip(dataset.ids, dataset.labels, strict=True))
    wanted = config.only or tuple(sorted(set(dataset.labels)))
    ids = tuple(sorted(i for i in split.train if labels[i] in wanted))
    if not ids:
        raise DataError(
            f"the train part has no image of {', '.join(wanted)}",
            remedy="Choose other classes, or a split that has train images of them",
        )
    values = config.mask_values or found_values(dataset, ids)
    _write(config, dataset, split, ids, values, folder, _numbers(clusters, ids), autoencoder)


def prepare_held_out(
    config: PairsConfig,
    dataset: RealDataset,
    split: Split,
    folder: Path,
    *,
    like: PairSet,
    autoencoder: Any = None,
) -> bool:
    """Write the pairs of the val part that a validation can use; tell whether there are any.

    They are of the classes and mask values of the train part, `like`.
    """
    labels = dict(zip(dataset.ids, dataset.labels, strict=True))
    contents = dict(zip(dataset.ids, dataset.contents, strict=True))
    known = set(like.mask_values)
    ids = [
        i
        for i in split.val
        if labels[i] in like.labels
        and contents[i].mask_values
        and {count.value for count in contents[i].mask_values} <= known
    ]
    if ids:
        _write(config, dataset, split, ids, like.mask_values, folder, [], autoencoder)
    return bool(ids)


def _write(
    config: PairsConfig,
    dataset: RealDataset,
    split: Split,
    ids: Sequence[str],
    values: Sequence[int],
    folder: Path,
    clusters: list[int],
    autoencoder: Any,
) -> None:
    labels = dict(zip(dataset.ids, dataset.labels, strict=True))
    stored = dataset.mask_array(config.size_px, ids)
    images = torch.from_numpy(dataset.array(config.size_px, ids))
    masks = torch.from_numpy(class_index_array(stored, values, names=ids))
    tensors = {"images": images, "masks": masks}
    if autoencoder is not None:
        tensors["latents"] = encode_turned(autoencoder, images)
    facts = {
        "ids": list(ids),
        "labels": [labels[i] for i in ids],
        "clusters": clusters,
        "mask_values": list(values),
        "dataset_fingerprint": dataset.fingerprint,
        "split_digest": split.digest,
    }
    with new_stage(folder) as work:
        save_file(tensors, work / "pairs.safetensors")
        (work / "pairs.json").write_text(json.dumps(facts))


def load_pairs(folder: Path) -> PairSet:
    """Return what `prepare_pairs` wrote.

    Raises:
        DataError: it is missing or damaged.
        ModelError: it was changed since.
    """
    try:
        facts = json.loads((folder / "pairs.json").read_text())
        tensors = load_file(folder / "pairs.safetensors")
        found = PairSet(
            images=tensors["images"],
            masks=tensors["masks"],
            latents=tensors.get("latents"),
            ids=tuple(facts["ids"]),
            labels=tuple(facts["labels"]),
            clusters=tuple(facts["clusters"]),
            mask_values=tuple(facts["mask_values"]),
            dataset_fingerprint=facts["dataset_fingerprint"],
            split_digest=facts["split_digest"],
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise DataError(
            f"prepared pairs in {folder} cannot be read ({error})",
            remedy="Delete the folder and start again: they are made anew",
        ) from error
    check_seal(folder)
    return found


def _numbers(clusters: Clusters | None, ids: Sequence[str]) -> list[int]:
    if clusters is None:
        return []
    number = dict(zip(clusters.ids, clusters.numbers.tolist(), strict=True))
    return [number[image_id] for image_id in ids]
