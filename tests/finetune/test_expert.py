"""The expert's training: learns, repeats itself to the bit, and gives every class its turn."""

import numpy as np
import pytest
import torch

from factory.errors import DataError, ModelError
from factory.finetune.config import ExpertTraining
from factory.finetune.expert import LabelledImages, accuracy, train_expert
from factory.models.config import ExpertSpec
from factory.models.experts import Expert, build_expert, state_digest

CLASSES = ("blue", "green", "red")
SPEC = ExpertSpec(backbone="test_resnet", class_names=CLASSES, size_px=16)
QUICK = ExpertTraining(steps=3, batch_size=4)


def coloured(counts: dict[str, int], *, seed: int) -> LabelledImages:
    """Return noisy 16 px images with one raised channel each."""
    rng = np.random.default_rng(seed)
    labels = [name for name, count in counts.items() for _ in range(count)]
    values = rng.integers(0, 130, (len(labels), 16, 16, 3))
    for image, label in zip(values, labels, strict=True):
        image[..., ("red", "green", "blue").index(label)] += 60
    return LabelledImages(images=values.astype(np.uint8), labels=labels)


TRAIN = coloured({"red": 30, "green": 6, "blue": 3}, seed=0)
VAL = coloured({"red": 10, "green": 10, "blue": 10}, seed=1)


def test_it_learns_rare_classes_too() -> None:
    losses: list[float] = []
    expert, share = train_expert(
        SPEC,
        TRAIN,
        VAL,
        ExpertTraining(steps=60, batch_size=16, learning_rate=3e-3),
        report=lambda _step, loss: losses.append(loss),
    )
    assert share > 0.9
    assert share == accuracy(expert, VAL.images, VAL.targets(CLASSES), batch_size=7)
    assert len(losses) == 60
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])


def test_a_redone_training_gives_the_same_bits() -> None:
    first, again, other = (
        train_expert(SPEC, TRAIN, VAL, QUICK.model_copy(update={"seed": seed}))
        for seed in (1, 1, 2)
    )
    assert state_digest(first[0]) == state_digest(again[0]) != state_digest(other[0])
    assert first[1] == again[1]


def test_the_result_is_frozen() -> None:
    expert, _ = train_expert(SPEC, TRAIN, VAL, QUICK)
    assert not any(module.training for module in expert.train().modules())


def test_head_only_leaves_the_backbone_to_the_byte() -> None:
    settings = QUICK.model_copy(update={"head_only": True})
    trained, _ = train_expert(SPEC, TRAIN, VAL, settings)
    start = build_expert(SPEC, seed=settings.seed)
    changed = [
        name
        for name, value in trained.network.state_dict().items()
        if not torch.equal(value, start.network.state_dict()[name])
    ]
    assert changed == ["fc.weight", "fc.bias"]


def test_accuracy_counts_right_answers() -> None:
    expert: Expert = build_expert(SPEC, seed=0).freeze()
    fc = expert.network.get_classifier()
    with torch.no_grad():
        fc.weight.zero_()
        fc.bias.copy_(torch.tensor([0.0, 5.0, 0.0]))
    assert accuracy(expert, TRAIN.images, TRAIN.targets(CLASSES)) == pytest.approx(6 / 39)


def test_a_class_without_images_is_named() -> None:
    with pytest.raises(DataError, match="no training images of blue, green"):
        train_expert(SPEC, coloured({"red": 5}, seed=0), VAL, QUICK)


def test_unknown_labels_and_a_missing_val_part_are_refused() -> None:
    odd = LabelledImages(images=VAL.images, labels=["pink"] * len(VAL.images))
    with pytest.raises(DataError, match=r"\['pink'\] are no classes"):
        train_expert(SPEC, TRAIN, odd, QUICK)
    with pytest.raises(DataError, match="needs val images"):
        train_expert(SPEC, TRAIN, coloured({}, seed=0), QUICK)


def test_a_loss_that_is_no_number_stops_the_training() -> None:
    with pytest.raises(ModelError, match=r"loss is (nan|inf) at step \d+\. Lower"):
        train_expert(SPEC, TRAIN, VAL, ExpertTraining(steps=30, batch_size=4, learning_rate=1e20))
