"""From real images and a split to an expert's folder."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from factory.atomic import writing
from factory.finetune.config import ExpertConfig
from factory.finetune.expert import LabelledImages, train_expert
from factory.models.config import ExpertSpec
from factory.models.expert_file import ExpertNotes, save_expert
from factory.real.dataset import RealDataset
from factory.real.splits import Split, check_dataset


def make_expert(
    config: ExpertConfig,
    dataset: RealDataset,
    split: Split,
    output: Path,
    *,
    weights: Path | None = None,
    report: Callable[[int, float], object] = lambda _step, _loss: None,
) -> ExpertNotes:
    """Train an expert of the dataset's classes on the train part and write it to `output`.

    Its accuracy is that on the val part, of which it saw nothing.

    Args:
        config: backbone, input, lengths and rates.
        dataset: the real images.
        split: of `dataset`.
        output: folder that is written atomically.
        weights: initial weights of the backbone (safetensors); None: random ones.
        report: is told the step (from 1) and its loss.

    Raises:
        DataError: a split of another dataset, a class without training images, no val part.
        ConfigError: timm knows no such backbone.
        ModelError: `weights` do not fit, or the loss is no number any more.
        OutputError: `output` cannot be written.
    """
    check_dataset(split, dataset.fingerprint)
    labels = dict(zip(dataset.ids, dataset.labels, strict=True))

    def images(ids: Sequence[str]) -> LabelledImages:
        return LabelledImages(
            images=dataset.array(config.size_px, ids), labels=[labels[i] for i in ids]
        )

    expert, val_accuracy = train_expert(
        ExpertSpec(
            backbone=config.backbone,
            class_names=tuple(sorted(set(dataset.labels))),
            size_px=config.size_px,
            grey=config.grey,
        ),
        images(split.train),
        images(split.val),
        config.training,
        weights=weights,
        device="cuda" if torch.cuda.is_available() else "cpu",
        report=report,
    )
    with writing(output):
        return save_expert(output, expert, val_accuracy=val_accuracy, split_digest=split.digest)
