"""Noise depends on the image's seed and on nothing else."""

import torch

from factory.sample.noise import Stream, batch_noise, image_noise, step_generators


def test_noise_is_a_function_of_the_seed() -> None:
    assert torch.equal(image_noise(5, (4, 8, 8)), image_noise(5, (4, 8, 8)))
    assert not torch.equal(image_noise(5, (4, 8, 8)), image_noise(6, (4, 8, 8)))


def test_a_slot_does_not_know_its_neighbours() -> None:
    together = batch_noise([1, 2, 3], (4, 8, 8))
    assert torch.equal(together[1], batch_noise([2], (4, 8, 8))[0])


def test_streams_of_one_image_are_independent() -> None:
    initial = image_noise(5, (64, 64)).flatten()
    steps = image_noise(5, (64, 64), stream=Stream.STEPS).flatten()
    assert abs(float(torch.corrcoef(torch.stack([initial, steps]))[0, 1])) < 0.06


def test_noise_is_standard_normal() -> None:
    noise = batch_noise(range(64), (4, 16, 16))
    assert abs(float(noise.mean())) < 0.02
    assert abs(float(noise.std()) - 1) < 0.02


def test_known_values_hold_the_stream_still() -> None:
    """If numpy ever changes its stream, published images could no longer be redrawn."""
    expected = [0.1592954695224762, -1.77418851852417, 1.3265118598937988, 1.2048090696334839]
    assert image_noise(0, (4,)).tolist() == expected


def test_step_generators_belong_to_the_image() -> None:
    one, two = step_generators([3, 4])
    again = step_generators([4])[0]
    assert torch.equal(torch.randn(5, generator=two), torch.randn(5, generator=again))
    assert not torch.equal(torch.randn(5, generator=one), torch.randn(5, generator=again))
