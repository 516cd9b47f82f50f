"""The pixel gates catch what is broken and let believable images through."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from factory.gate.pixel import PixelGates
from factory.gate.verdict import Verdict, status_of


def disc(size: int = 64) -> np.ndarray:
    y, x = np.mgrid[:size, :size] / size - 0.5
    inside = (x**2 + y**2 < 0.08)[..., None]
    texture = np.random.default_rng(0).normal(0, 12, (size, size, 1))
    return np.clip(np.where(inside, (90, 40, 130), (230, 200, 190)) + texture, 1, 254).astype(
        np.uint8
    )


def verdicts(image: np.ndarray, gates: PixelGates | None = None) -> dict[str, Verdict]:
    return {v.gate: v for v in (gates or PixelGates()).judge(image)}


def test_a_cell_like_image_passes_every_gate() -> None:
    assert status_of(list(verdicts(disc()).values())) == "accepted"


def test_a_blank_field_is_rejected_with_its_score() -> None:
    verdict = verdicts(np.full((64, 64, 3), 210, np.uint8))["blank"]
    assert verdict.score == pytest.approx(0, abs=1e-6)
    assert verdict.reason.startswith("contrast")


def test_a_collapsed_image_is_rejected_by_range() -> None:
    image = np.where(disc() > 128, 255, 0).astype(np.uint8)
    verdict = verdicts(image)["range"]
    assert verdict.score == 1
    assert not verdict.passed


def test_blur_lowers_sharpness_until_it_is_rejected() -> None:
    soft = np.asarray(Image.fromarray(disc()).filter(ImageFilter.GaussianBlur(12)))
    assert verdicts(soft)["blur"].score < verdicts(disc())["blur"].score / 10
    assert not verdicts(soft)["blur"].passed


def test_a_gate_that_is_off_still_scores() -> None:
    gates = PixelGates(min_contrast=None)
    verdict = verdicts(np.full((64, 64, 3), 210, np.uint8), gates)["blank"]
    assert verdict.passed
    scored = {"blank_score", "range_score", "blur_score", "noise_score"}
    assert {f"{v.gate}_score" for v in gates.judge(disc())} == scored


def test_noise_is_told_from_fine_texture_by_its_colours() -> None:
    rng = np.random.default_rng(1)
    noise = rng.normal(128, 45, (64, 64, 3)).clip(0, 255).astype(np.uint8)
    stain = np.array([1.0, 1.6, 0.8])  # one dye: all colours darken together, if unequally
    texture = (200 - rng.uniform(0, 60, (64, 64, 1)) * stain).astype(np.uint8)
    scores = {
        name: verdicts(image)["noise"].score
        for name, image in {"noise": noise, "texture": texture, "cell": disc()}.items()
    }
    assert scores["noise"] == pytest.approx(1, abs=0.05)
    assert scores["texture"] < 0.05
    assert scores["cell"] < 0.05
    assert verdicts(noise)["noise"].passed  # of older runs nothing more is refused
    assert not verdicts(noise, PixelGates(max_noise=0.2))["noise"].passed
    assert verdicts(np.full((8, 8, 3), 7, np.uint8))["noise"].score == 0


def test_a_later_threshold_that_says_nothing_leaves_no_trace() -> None:
    assert list(PixelGates().model_dump()) == ["min_contrast", "max_clipped", "min_sharpness"]
    assert PixelGates(max_noise=0.2).model_dump(mode="json")["max_noise"] == 0.2
