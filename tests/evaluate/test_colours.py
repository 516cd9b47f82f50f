"""Colours: the middle of an image, whatever its turn; hues that differ are far apart."""

import numpy as np

from factory.evaluate.colours import colour_quantiles
from factory.measure.features import turned


def test_a_plain_image_has_its_colour_as_every_quantile() -> None:
    plain = np.full((1, 16, 16, 3), (200, 90, 40), np.uint8)
    found = colour_quantiles(plain).reshape(6, 19)
    assert np.array_equal(found, np.repeat([[200], [90], [40], [110], [160], [50]], 19, axis=1))


def test_turns_do_not_matter_and_the_border_does_not_count() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    found = colour_quantiles(images)
    assert found.shape == (3, 114)
    for number in range(8):
        assert np.allclose(colour_quantiles(turned(images, number)), found, atol=1e-4)
    images[:, :12] = 0
    assert np.array_equal(colour_quantiles(images), found)
    images[:, 12:20] = 0
    assert not np.array_equal(colour_quantiles(images), found)
