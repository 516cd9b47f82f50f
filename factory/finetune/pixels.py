"""Real images of one part of a split as pixels, in one file that every worker can read."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from factory.atomic import write_bytes
from factory.digest import digest
from factory.errors import DataError
from factory.finetune.stages import check_seal, seal
from factory.real.dataset import RealDataset
from factory.real.splits import Split

FACTS = "facts"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pixels:
    """Images (N, S, S, 3) uint8, masks (N, S, S) uint8 if asked for, and what they are."""

    images: Tensor
    ids: tuple[str, ...]
    labels: tuple[str, ...]
    dataset_fingerprint: str
    split_digest: str
    masks: Tensor | None = None

    @property
    def digest(self) -> str:
        """Names these images at this size: what is learnt from them depends on it."""
        return digest([self.dataset_fingerprint, list(self.ids), self.images.shape[1]])


def take_pixels(
    dataset: RealDataset, ids: Sequence[str], split: Split, *, size_px: int, masks: bool = False
) -> Pixels:
    """Return these images, cut square and scaled to `size_px`.

    Raises:
        DataError: masks are asked for and an image has none.
    """
    labels = dict(zip(dataset.ids, dataset.labels, strict=True))
    return Pixels(
        images=torch.from_numpy(dataset.array(size_px, ids)),
        ids=tuple(ids),
        labels=tuple(labels[i] for i in ids),
        dataset_fingerprint=dataset.fingerprint,
        split_digest=split.digest,
        masks=torch.from_numpy(dataset.mask_array(size_px, ids)) if masks else None,
    )


def save_pixels(pixels: Pixels, path: Path) -> None:
    """Write `path`, whole or not at all."""
    facts = {
        "ids": pixels.ids,
        "labels": pixels.labels,
        "dataset_fingerprint": pixels.dataset_fingerprint,
        "split_digest": pixels.split_digest,
    }
    tensors = {"images": pixels.images}
    if pixels.masks is not None:
        tensors["masks"] = pixels.masks
    write_bytes(path, save(tensors, metadata={FACTS: json.dumps(facts)}))
    seal(path)


def load_pixels(path: Path) -> Pixels:
    """Return what `save_pixels` wrote; the file is mapped, not read at once.

    Raises:
        DataError: missing or damaged.
        ModelError: changed since it was written.
    """
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads(file.metadata()[FACTS])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        found = Pixels(
            images=tensors["images"],
            masks=tensors.get("masks"),
            ids=tuple(facts["ids"]),
            labels=tuple(facts["labels"]),
            dataset_fingerprint=facts["dataset_fingerprint"],
            split_digest=facts["split_digest"],
        )
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise DataError(
            f"{path} cannot be read ({next(iter(str(error).splitlines()), type(error).__name__)})",
            remedy="Delete it and start again: it is made anew, finished stages are kept",
        ) from error
    check_seal(path)
    return found
