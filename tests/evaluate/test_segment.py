import numpy as np
import pytest
import torch

from factory.errors import ConfigError
from factory.evaluate.config import PooledLoss, SegmenterLearner
from factory.evaluate.segment import (
    TrainingPairs,
    image_losses,
    pair_loss,
    segment,
    train_segmenter_on,
)
from factory.models.experts import state_digest
from factory.models.segmenter_networks import DECODERS, build_segmenter

QUICK = SegmenterLearner(
    size_px=32, channels=(8, 16), steps=30, batch_size=4, learning_rate=3e-3, validate_every=15
)


def discs(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Dark discs on light ground with noise, and their masks."""
    rng = np.random.Generator(np.random.Philox(seed))
    rows, columns = np.mgrid[0:32, 0:32]
    middles = rng.integers(10, 22, (count, 2, 1, 1))
    masks = ((rows - middles[:, 0]) ** 2 + (columns - middles[:, 1]) ** 2 < 50).astype(np.uint8)
    grey = np.where(masks, 70, 190)[..., None] + rng.normal(0, 15, (count, 32, 32, 3))
    return np.clip(grey, 0, 255).astype(np.uint8), masks


def pairs(count: int = 8) -> TrainingPairs:
    images, masks = map(torch.from_numpy, discs(count, 0))
    return TrainingPairs(
        images=images,
        masks=masks,
        synthetic=torch.arange(count) % 2 == 0,
        weights=torch.ones(count),
        augment=True,
    )


def test_a_segmenter_learns_discs_and_repeats_bit_for_bit():
    images, masks = discs(6, 1)
    network, fitted = train_segmenter_on(QUICK, pairs(), (images, masks), num_classes=2, seed=0)
    assert fitted.curve[-1][1][0] > 0.7
    assert segment(network, images).shape == masks.shape
    again, _ = train_segmenter_on(QUICK, pairs(), (images, masks), num_classes=2, seed=0)
    assert state_digest(again) == state_digest(network)


def test_the_loss_of_a_perfect_mask_is_almost_0_and_that_of_its_opposite_large():
    masks = torch.from_numpy(discs(2, 0)[1]).long()
    right = 20 * torch.nn.functional.one_hot(masks, 2).permute(0, 3, 1, 2).float()
    assert image_losses(right, masks).max() < 0.01
    assert image_losses(-right, masks).min() > 10


def test_a_step_without_weight_on_real_pairs_sees_only_synthetic_ones():
    network = build_segmenter(QUICK, 2, seed=0).eval()
    settings = QUICK.model_copy(update={"pooled": PooledLoss(real_weight=0), "batch_size": 8})
    some = pairs()
    spoiled = TrainingPairs(
        images=some.images,
        masks=torch.where(some.synthetic[:, None, None], some.masks, 1 - some.masks),
        synthetic=some.synthetic,
        weights=some.weights,
        augment=True,
    )
    one, two = (pair_loss(network, settings, p, 0, seed=0).item() for p in (some, spoiled))
    assert one == pytest.approx(two)


@pytest.mark.parametrize("decoder", DECODERS)
def test_the_standard_decoders_give_a_logit_per_pixel_and_class(decoder):
    pytest.importorskip("segmentation_models_pytorch")
    settings = SegmenterLearner(decoder=decoder, encoder="mobilenetv3_small_050", size_px=32)
    network = build_segmenter(settings, 3, seed=0).eval()
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 3, 32, 32)


def test_an_encoder_that_timm_lacks_is_named():
    pytest.importorskip("segmentation_models_pytorch")
    with pytest.raises(ConfigError, match="'mit_b0' does not serve as the encoder of unet"):
        build_segmenter(SegmenterLearner(decoder="unet", encoder="mit_b0"), 2, seed=0)
