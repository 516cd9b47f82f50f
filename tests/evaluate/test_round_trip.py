"""Round trips of real images: better with steps, counted, and held against both measures."""

import numpy as np
import pytest

from factory.errors import DataError
from factory.evaluate.drawing import Order
from factory.evaluate.round_trip import round_trips
from factory.models.generator import Generator
from factory.sample.engine import Engine
from tests.fakes.pairs import disc_pair

ORDER = Order(class_name="monocyte", prompt="a monocyte", count=0)


@pytest.mark.slow
def test_images_come_back_better_with_steps_and_corrections(tiny: Generator):
    images = np.stack([disc_pair(number)[0] for number in range(2)])
    engine = Engine(tiny)
    found = round_trips(engine, ORDER, images, steps=(5, 160), corrections=(0, 2), batch_size=2)
    few, few_mended, many, _ = found.trips
    assert (few.steps, few_mended.corrections, many.steps) == (5, 2, 160)
    assert [trip.evaluations for trip in found.trips] == [10, 20, 320, 640]
    assert (many.to_kept > few.to_kept + 5).all()
    assert (few_mended.to_kept > few.to_kept).all()
    assert many.to_kept.shape == found.autoencoder.shape == (2,)
    gap = (many.to_real - found.autoencoder).abs()
    assert (gap < 1).all()  # what is lost against the real image, the autoencoder lost
    other = round_trips(engine, ORDER, images, steps=(160,), batch_size=1).trips[0]
    assert other.to_kept.numpy() == pytest.approx(many.to_kept.numpy(), abs=0.1)


def test_no_images_are_refused(tiny: Generator):
    with pytest.raises(DataError, match="round trip of no images"):
        round_trips(Engine(tiny), ORDER, np.zeros((0, 16, 16, 3), np.uint8), steps=(5,))
