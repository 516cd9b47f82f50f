"""Pairs as tensors: what goes in comes out, in pixel and in latent form."""

import numpy as np
import pytest
import torch

from factory.errors import ConfigError, DataError
from factory.models.autoencoder import small_autoencoder
from factory.models.pair_codec import PairCodec, class_indices, to_indices, to_planes

RNG = np.random.default_rng(0)


def masks(num_classes: int) -> torch.Tensor:
    return torch.from_numpy(RNG.integers(0, num_classes, (2, 16, 16), np.uint8))


@pytest.mark.parametrize("num_classes", [2, 3, 5])
@pytest.mark.parametrize("fold", [1, 2, 4])
def test_pixel_pairs_come_back_exactly(num_classes: int, fold: int) -> None:
    codec = PairCodec(num_classes=num_classes, fold=fold)
    images, indices = torch.rand(2, 3, 16, 16) * 2 - 1, masks(num_classes)
    pairs = codec.encode(images, indices)
    assert (
        pairs.shape[1:] == codec.shape(16) == ((2 + num_classes) * fold**2, 16 // fold, 16 // fold)
    )
    again, planes = codec.decode(pairs)
    assert torch.equal(again, images)
    assert torch.equal(to_indices(planes), indices)


def test_latent_pairs_lose_nothing_of_the_mask() -> None:
    codec = PairCodec(num_classes=3, fold=4, vae=small_autoencoder(sample_size_px=16).eval())
    indices = masks(3)
    with torch.no_grad():
        pairs = codec.encode(torch.rand(2, 3, 16, 16), indices)
        images, planes = codec.decode(pairs)
    assert pairs.shape[1:] == codec.shape(16) == (4 + 2 * 16, 4, 4)
    assert images.shape == (2, 3, 16, 16)
    assert torch.equal(to_indices(planes), indices)


@pytest.mark.parametrize("vae", [None, small_autoencoder(sample_size_px=16).eval()])
def test_a_region_reaches_every_value_that_shows_it(vae: object) -> None:
    codec = PairCodec(num_classes=2, fold=4, vae=vae)
    region = torch.zeros(1, 16, 16, dtype=torch.bool)
    region[0, 5, 6] = True
    spread = codec.spread(region)
    assert spread.shape[1:] == codec.shape(16)
    image, planes = codec.decode(spread) if vae is None else (None, None)
    if image is not None and planes is not None:
        assert torch.equal(image[0].bool(), region.expand(3, -1, -1))
        assert torch.equal(planes[0].bool(), region)
    else:
        assert spread[0, :4, 1, 1].all()  # one pixel makes its whole latent drawn
        assert spread.sum() == 4 + 1


def test_the_threshold_decides_between_background_and_object() -> None:
    planes = torch.tensor([[[[-0.5, 0.2, 0.6]], [[-0.9, 0.3, 0.5]]]])
    assert to_indices(planes).tolist() == [[[0, 2, 1]]]
    assert to_indices(planes, threshold=0.4).tolist() == [[[0, 0, 1]]]
    assert to_planes(torch.tensor([[[0, 2]]]), 3).tolist() == [[[[-1, -1]], [[-1, 1]]]]


def test_a_mask_value_of_no_class_is_named() -> None:
    stored = np.array([[0, 128, 255]], np.uint8)
    assert class_indices(stored, (0, 128, 255), name="a").tolist() == [[0, 1, 2]]
    with pytest.raises(DataError, match=r"mask of 'a' holds the value 128, .* \[0, 255\]"):
        class_indices(stored, (0, 255), name="a")


def test_a_side_that_cannot_be_folded_is_refused() -> None:
    with pytest.raises(ConfigError, match="18 px cannot be folded by 4"):
        PairCodec(num_classes=2, fold=4).shape(18)
