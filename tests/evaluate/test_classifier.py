import numpy as np
import pytest
import torch
from torch import nn

from factory.config import load_config
from factory.errors import ModelError
from factory.evaluate.classifier import (
    RealPart,
    TrainingRows,
    classifier_loss,
    predict,
    train_classifier,
)
from factory.evaluate.config import Classifier, Fitting, PooledLoss, StudyConfig
from factory.evaluate.learner import fit, rate_factor
from factory.models.experts import state_digest

NAMES = ("dark", "light")
QUICK = Classifier(
    backbone="test_resnet", size_px=16, steps=24, batch_size=8, learning_rate=3e-3, validate_every=8
)


def squares(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Dark and light images in turn, with noise."""
    rng = np.random.Generator(np.random.Philox(seed))
    labels = np.arange(count) % 2
    light = np.where(labels, 170, 85)[:, None, None, None]
    return np.clip(light + rng.normal(0, 25, (count, 16, 16, 3)), 0, 255).astype(np.uint8), labels


def rows(count: int = 20, *, augment: bool = True) -> TrainingRows:
    images, labels = squares(count)
    return TrainingRows(
        images=torch.from_numpy(images),
        soft_labels=torch.eye(2)[torch.from_numpy(labels)],
        synthetic=torch.arange(count) % 4 > 1,
        weights=torch.ones(count),
        augment=augment,
    )


VAL = RealPart(images=squares(16, seed=1)[0], labels=squares(16, seed=1)[1])


def test_a_classifier_learns_and_repeats_bit_for_bit():
    network, fitted = train_classifier(QUICK, NAMES, rows(), VAL, seed=3)
    images, labels = squares(20, seed=2)
    assert (predict(network, images).argmax(1) == labels).mean() >= 0.9
    assert predict(network, images).sum(1) == pytest.approx(1)
    again, same = train_classifier(QUICK, NAMES, rows(), VAL, seed=3)
    assert state_digest(again) == state_digest(network)
    assert same == fitted
    assert [step for step, _ in fitted.curve] == [8, 16, 24]


@pytest.mark.parametrize(("steps", "warmup"), [(40, 20), (3000, 900), (400, 20), (8, 8), (5, 0)])
def test_the_whole_warm_up_that_was_asked_for_is_done(steps, warmup):
    settings = Fitting(steps=steps, warmup_steps=warmup)
    rates = [rate_factor(settings, step) for step in range(steps)]
    assert rates.index(1.0) == max(0, warmup - 1)
    assert rates[: warmup or 1] == sorted(rates[: warmup or 1])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
    assert rate_factor(Fitting(steps=3, warmup_steps=20), 2) == 3 / 20


@pytest.mark.parametrize("preset", ["evaluate_clip", "evaluate_resnet50"])
def test_the_presets_warm_up_for_900_steps(preset):
    learner = load_config(StudyConfig, preset).learner
    assert [rate_factor(learner, step) for step in (449, 749, 899)] == [0.5, 750 / 900, 1]


def test_two_passes_over_held_out_images_are_equal():
    network, _ = train_classifier(QUICK.model_copy(update={"steps": 2}), NAMES, rows(), VAL, seed=0)
    assert np.array_equal(predict(network, VAL.images), predict(network, VAL.images))


def test_the_head_alone_is_trained_where_asked():
    settings = QUICK.model_copy(update={"head_only": True, "steps": 4})
    network, _ = train_classifier(settings, NAMES, rows(), VAL, seed=0)
    fresh, _ = train_classifier(
        settings.model_copy(update={"steps": 1}), NAMES, rows(), VAL, seed=0
    )
    one, two = network.state_dict(), fresh.state_dict()
    head = {n for n in one if not torch.equal(one[n], two[n])}
    assert head
    assert all("fc" in name or "head" in name for name in head), head


def test_frozen_norms_keep_the_statistics_that_they_came_with():
    def statistics(**changes):
        settings = QUICK.model_copy(update={"steps": 3, **changes})
        network, _ = train_classifier(settings, NAMES, rows(), VAL, seed=0)
        state = network.state_dict()
        return [v for k, v in state.items() if k.endswith("running_mean")]

    assert all((mean == 0).all() for mean in statistics(frozen_norm=True))
    assert not all((mean == 0).all() for mean in statistics())


def test_an_arm_without_augmentation_shows_its_images_as_they_are():
    seen = []

    class Spy(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(images)
            return images.mean((2, 3))[:, :2]

    train = rows(8, augment=False)
    settings = QUICK.model_copy(update={"pooled": PooledLoss(real_weight=1)})
    loss = classifier_loss(Spy(), settings, train, 0, seed=0)
    shown = {image.numpy().tobytes() for image in seen[0]}
    stored = {
        (i.permute(2, 0, 1).float() / 127.5 - 1).contiguous().numpy().tobytes()
        for i in train.images
    }
    assert shown == stored
    classifier_loss(Spy(), settings, rows(8), 0, seed=0)
    assert not {image.numpy().tobytes() for image in seen[1]} & stored
    assert loss.item() > 0


def test_the_best_validation_state_stays_with_its_buffers():
    network = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))
    states, values = [], iter([0.2, 0.9, 0.9, 0.1])

    def validate(module: nn.Module) -> tuple[float, ...]:
        assert not module.training
        states.append(state_digest(module))
        return (next(values),)

    def loss_of(module: nn.Module, step: int) -> torch.Tensor:
        return (module(torch.arange(4.0)[:, None] + step) - 1).square().mean()

    fitted = fit(network, loss_of, validate, Fitting(steps=8, validate_every=2, batch_size=4))
    assert fitted.best_step == 4  # the first of two equal ones
    assert state_digest(network) == states[1]
    assert len(set(states)) == 4


def test_a_loss_that_is_no_number_stops_with_its_step():
    def loss_of(module: nn.Module, step: int) -> torch.Tensor:
        return module(torch.ones(1, 1)).sum() * (float("nan") if step == 2 else 1)

    with pytest.raises(ModelError, match="the loss is nan at step 3"):
        fit(nn.Linear(1, 1), loss_of, lambda _: (0.0,), Fitting(steps=5))
