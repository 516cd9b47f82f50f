"""Gates that know the class that was asked for: brightness within its band, an expert's view."""

from pathlib import Path

import numpy as np
import pytest

from factory.errors import ModelError
from factory.gate.brightness import BrightnessGate
from factory.gate.confidence import ConfidenceGate
from factory.measure.bank_file import brightness, brightness_by_class
from factory.models.config import ExpertSpec
from factory.models.expert_file import save_expert
from factory.models.experts import build_expert

DARK, BRIGHT = np.full((1, 8, 8, 3), 51, np.uint8), np.full((1, 8, 8, 3), 204, np.uint8)
BOTH = np.concatenate([DARK, BRIGHT])


def test_bounds_for_every_class_refuse_by_the_mean_and_none_refuses_nothing() -> None:
    assert brightness(BOTH) == pytest.approx([0.2, 0.8])
    judge = BrightnessGate(max_brightness=0.5).open()
    (low,), (high,) = judge(BOTH, None, ["a", "b"])
    assert low.passed
    assert high.score == pytest.approx(0.8)
    assert high.reason == "brightness 0.800 outside  to 0.5"
    plain = BrightnessGate().open()(BOTH, None, ["a", "b"])
    assert all(verdict.passed for (verdict,) in plain)


def test_a_class_has_the_band_of_its_real_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).integers(-5, 6, (20, 1, 1, 1))
    images = np.concatenate([DARK.repeat(10, 0), BRIGHT.repeat(10, 0)]) + noise
    labels = ["dark"] * 10 + ["bright"] * 10
    known = brightness_by_class(images.astype(np.uint8), labels)
    assert known["dark"][0] == pytest.approx(0.2, abs=0.01)
    monkeypatch.setattr("factory.gate.brightness.read_brightness", lambda _: known)
    judge = BrightnessGate(bank="bank").open()
    found = judge(BOTH[[0, 1, 0, 1]], None, ["dark", "bright", "bright", "other"])
    assert [verdict.passed for (verdict,) in found] == [True, True, False, True]
    assert found[2][0].reason.startswith("brightness 0.200, real bright 0.7")


def test_a_bank_that_is_missing_is_told_before_anything_is_drawn(tmp_path: Path) -> None:
    gate = BrightnessGate(bank=str(tmp_path / "none"))
    with pytest.raises(ModelError, match="factory bank"):
        gate.check(None)
    BrightnessGate().check(None)


def test_the_expert_must_see_the_class_that_was_asked_for(tmp_path: Path) -> None:
    spec = ExpertSpec(backbone="test_resnet", class_names=("x", "y"), size_px=16)
    expert = build_expert(spec, seed=3).freeze()
    save_expert(tmp_path / "expert", expert, val_accuracy=0.5, split_digest="s")
    gate = ConfidenceGate(expert=str(tmp_path / "expert"), min_probability=0.5)
    gate.check(None)
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3)).astype(np.uint8)
    found = gate.open()(images, None, ["x", "y", "z"])
    assert found[2] == []  # a class that it does not know
    first, second = found[0][0], found[1][0]
    assert first.gate == "confidence"
    others = gate.open()(images, None, ["y", "x", "z"])
    assert first.score + others[0][0].score == pytest.approx(1, abs=1e-6)
    assert first.passed is (first.score >= 0.5)
    assert second.passed is not others[1][0].passed
    with pytest.raises(ModelError):
        ConfidenceGate(expert=str(tmp_path / "none")).check(None)
