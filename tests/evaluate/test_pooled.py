import numpy as np
import pytest
import torch
import torch.nn.functional as F

from factory.evaluate.augment import apply_geometry, colours, geometry, jitter_stains
from factory.evaluate.config import Augmentation, Mixing, PooledLoss
from factory.evaluate.pooled import (
    batch_loss,
    mixed,
    partners,
    soft_cross_entropy,
)
from factory.real.smear import draw_cell

LOSSES = torch.tensor([1.0, 2.0, 4.0, 8.0])
SYNTHETIC = torch.tensor([False, False, False, True])
EQUAL = torch.ones(4)


def drawer(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_soft_cross_entropy_of_a_certain_label_is_the_usual_one():
    logits = torch.randn(5, 3, generator=drawer())
    hard = torch.tensor([0, 2, 1, 1, 0])
    expected = F.cross_entropy(logits, hard, reduction="none")
    assert torch.allclose(soft_cross_entropy(logits, F.one_hot(hard, 3).float()), expected)
    half = soft_cross_entropy(logits, torch.full((5, 3), 1 / 3))
    assert torch.allclose(half, -logits.log_softmax(1).mean(1))


@pytest.mark.parametrize(
    ("synthetic", "pooled", "expected"),
    [
        (SYNTHETIC, None, 15 / 4),
        (SYNTHETIC, PooledLoss(real_weight=0.8), 0.8 * 7 / 3 + 0.2 * 8),
        (
            SYNTHETIC,
            PooledLoss(real_weight=0.8, batch_shares=True),
            0.8 * 0.75 * 7 / 3 + 0.2 * 0.25 * 8,
        ),
        (~SYNTHETIC, PooledLoss(real_weight=0.5), 0.5 * 8 + 0.5 * 7 / 3),
        (EQUAL > 2, PooledLoss(real_weight=0.8), 0.8 * 15 / 4),  # no synthetic row
        (EQUAL > 0, PooledLoss(real_weight=0.8, batch_shares=True), 0.2 * 15 / 4),  # no real row
    ],
)
def test_the_pooled_loss_of_a_batch_worked_out_by_hand(synthetic, pooled, expected):
    assert batch_loss(LOSSES, synthetic, EQUAL, pooled).item() == pytest.approx(expected)


def test_row_weights_count_within_their_side():
    weights = torch.tensor([1.0, 1.0, 2.0, 0.5])
    assert batch_loss(LOSSES, SYNTHETIC, weights, None).item() == pytest.approx(15 / 4.5)
    pooled = batch_loss(LOSSES, SYNTHETIC, weights, PooledLoss(real_weight=0.5))
    assert pooled.item() == pytest.approx(0.5 * 11 / 4 + 0.5 * 8)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixing_does_not_cross_the_border_within_sides(kind):
    synthetic = torch.arange(16) % 3 == 0
    images = synthetic.float()[:, None, None, None].expand(16, 3, 8, 8)
    targets = F.one_hot(synthetic.long(), 2).float()
    always = Mixing(probability=1, kind=kind)
    for seed in range(8):
        same = mixed(images, targets, synthetic, always, drawer(seed), within_sides=True)
        assert torch.equal(same[0], images)
        assert torch.allclose(same[1], targets)
    crossed = mixed(images, targets, synthetic, always, drawer(1), within_sides=False)
    assert not torch.allclose(crossed[1], targets)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_labels_are_mixed_in_the_proportion_of_the_pixels(kind):
    images = torch.eye(8)[:, :, None, None].expand(8, 8, 16, 16)  # image i is all of colour i
    always = Mixing(probability=1, kind=kind)
    out, targets = mixed(
        images, torch.eye(8), torch.zeros(8) > 0, always, drawer(3), within_sides=False
    )
    assert torch.allclose(out.mean((2, 3)), targets, atol=1e-6)
    assert not torch.allclose(targets, torch.eye(8))


def test_mixing_happens_on_its_share_of_the_batches():
    images, targets = torch.rand(6, 3, 4, 4, generator=drawer()), torch.eye(6)
    real = torch.zeros(6) > 0
    changed = [
        not torch.equal(
            mixed(images, targets, real, Mixing(), drawer(seed), within_sides=False)[1], targets
        )
        for seed in range(200)
    ]
    assert 20 <= sum(changed) <= 62  # a fifth, and a permutation may be the identity


def test_partners_are_a_permutation_of_each_side():
    synthetic = torch.arange(11) > 6
    found = partners(synthetic, drawer(), within_sides=True)
    assert sorted(found.tolist()) == list(range(11))
    assert torch.equal(synthetic[found], synthetic)


def test_augmentation_varies_each_image_for_itself_and_repeats_with_its_generator():
    cell = torch.from_numpy(draw_cell(3, size_px=32).pixels).permute(2, 0, 1).float() / 255
    images = cell.expand(12, 3, 32, 32)
    kind = Augmentation()

    def shown(seed: int) -> torch.Tensor:
        generator = drawer(seed)
        return colours(
            kind, apply_geometry(images, *geometry(kind, 12, generator)).clamp(0, 1), generator
        )

    out = shown(0)
    assert torch.equal(out, shown(0))
    assert out.min() >= 0
    assert out.max() <= 1
    differences = [(out[i] - out[j]).abs().mean().item() for i in range(12) for j in range(i)]
    assert min(differences) > 0.01
    nothing = Augmentation(
        turns=False, min_crop=1, brightness=0, contrast=0, saturation=0, hed=0, blur=0
    )
    same = colours(nothing, apply_geometry(images, *geometry(nothing, 12, drawer())), drawer())
    assert torch.allclose(same, images)


def test_a_mask_goes_through_the_same_geometry():
    cell = draw_cell(3, size_px=32)
    image = torch.from_numpy(np.repeat(cell.mask[None, None], 4, 0)).float()
    turns, grids = geometry(Augmentation(), 4, drawer(2))
    moved = apply_geometry(image, turns, grids, mode="nearest")
    assert set(moved.unique().tolist()) <= {0.0, 1.0, 2.0}
    assert not torch.equal(moved[0], moved[1])


def test_stain_jitter_changes_stains_and_spares_empty_images():
    cell = torch.from_numpy(draw_cell(3, size_px=32).pixels).permute(2, 0, 1)[None].float() / 255
    images = torch.cat([cell.clamp(0.01, 0.99), torch.ones(1, 3, 32, 32)])
    assert torch.allclose(jitter_stains(images, 0.0, drawer()), images, atol=1e-4)
    out = jitter_stains(images, 0.05, drawer())
    assert 0.005 < (out[0] - images[0]).abs().mean() < 0.2
    assert torch.equal(out[1], images[1])
