"""Thresholds follow the real images that a generator learnt, and what a configuration names."""

import numpy as np
import pytest

from factory.config import load_config
from factory.gate.calibration import Calibration, calibrate, gates_for
from factory.gate.pixel import PixelGates
from factory.gate.verdict import status_of
from factory.real.sources import open_dataset
from factory.sample.config import GenerateConfig
from tests.gate.test_pixel import disc

WBC = PixelGates(min_contrast=0.07, max_clipped=0.156, min_sharpness=0.03)
OWN = PixelGates(min_contrast=0.04, max_clipped=0.8, min_sharpness=0.01, max_noise=0.3)


def measured() -> Calibration:
    return Calibration(images=2, thresholds=OWN, real={})


def faded(share: float) -> np.ndarray:
    """A cell of another microscope: the same with `share` of the contrast."""
    return (200 + (disc().astype(float) - 200) * share).astype(np.uint8)


def test_the_real_images_of_any_microscope_pass_and_noise_does_not() -> None:
    dim = [faded(share) for share in (0.1, 0.12, 0.15)]
    assert all(status_of(WBC.judge(image)) == "rejected" for image in dim)  # the fault of old
    found = calibrate(dim, ["a", "a", "b"])
    assert all(status_of(found.thresholds.judge(image)) == "accepted" for image in dim)
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    assert [v.gate for v in found.thresholds.judge(noise) if not v.passed] == ["noise"]
    blank = np.full((64, 64, 3), 200, np.uint8)
    assert status_of(found.thresholds.judge(blank)) == "rejected"


def test_unseen_images_pass_beyond_the_extremes_of_few_and_values_are_kept_by_class() -> None:
    images = open_dataset("smear:60")
    array = images.array(64)
    found = calibrate(array[:16], images.labels[:16])
    extremes = PixelGates(
        **{
            key: getattr(found.thresholds, key) * factor
            for key, factor in {"min_contrast": 2, "min_sharpness": 2, "max_clipped": 0.5}.items()
        }
    )
    assert any(status_of(extremes.judge(image)) == "rejected" for image in array[16:])
    refused = sum(status_of(found.thresholds.judge(image)) == "rejected" for image in array[16:])
    assert refused == 0
    assert found.images == 16
    assert set(found.real) == set(images.labels[:16])
    least, median, greatest = found.real[images.labels[0]]["blank"]
    assert 0 < least <= median <= greatest
    assert found.thresholds.min_contrast < least
    assert Calibration.model_validate_json(found.model_dump_json()) == found


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ([], OWN),
        (["gates=null"], PixelGates(min_contrast=None, max_clipped=None, min_sharpness=None)),
        (["gates.min_contrast=0.05"], OWN.model_copy(update={"min_contrast": 0.05})),
        (["gates.min_contrast=0.02"], OWN.model_copy(update={"min_contrast": 0.02})),
        (["gates.max_noise=2"], OWN.model_copy(update={"max_noise": 2})),
    ],
)
def test_named_thresholds_count_and_the_generators_own_fill_the_rest(
    asked: list[str], expected: PixelGates
) -> None:
    assert gates_for(load_config(GenerateConfig, "wbc", asked).gates, measured()) == expected


def test_without_a_calibration_everything_is_as_it_was() -> None:
    assert gates_for(load_config(GenerateConfig, "wbc").gates, None) == WBC
    assert gates_for(PixelGates(), None) == PixelGates()
    one = PixelGates(min_contrast=0.05)
    assert gates_for(one, None) == one
    asked = load_config(GenerateConfig, "wbc", ["gates.max_clipped=null"]).gates
    assert gates_for(asked, None) == WBC.model_copy(update={"max_clipped": None})


def test_a_configuration_that_was_written_out_whole_still_means_the_generators_own() -> None:
    stored = GenerateConfig(num_images=1).model_dump(mode="json")
    again = GenerateConfig.model_validate(stored)
    assert "gates" in stored
    assert gates_for(again.gates, measured()) == OWN
    preset = load_config(GenerateConfig, "wbc", ["gates.min_contrast=0.02"])
    again = GenerateConfig.model_validate(preset.model_dump(mode="json"))
    assert gates_for(again.gates, measured()) == OWN.model_copy(update={"min_contrast": 0.02})
