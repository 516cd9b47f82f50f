"""Bridges: ranks by hand, sources as the unit, real images in between, and there and back."""

import numpy as np
import pytest

from factory.config import load_config
from factory.errors import ConfigError, DataError
from factory.judge import judge as module
from factory.judge.bridges import (
    Grader,
    Progression,
    between_figures,
    correlation,
    direction_figures,
    progressions,
    round_trips,
    spearman,
)
from factory.judge.config import JudgeConfig
from factory.judge.judge import Subject, judge
from factory.judge.report import to_html
from factory.judge.sets import ImageSet
from factory.measure.cache import ArrayCache
from factory.measure.features import FeatureSpace
from factory.models.config import ExpertSpec
from factory.models.domains import Domain
from factory.models.expert_file import save_expert
from factory.models.experts import build_expert
from factory.models.generator import Generator
from factory.real.dataset import RealDataset
from factory.real.splits import Split
from tests.fakes.bridge import tiny_bridge
from tests.fakes.pairs import disc_pair


def progression(probability: list[float], ssim: list[float], name: str = "a") -> Progression:
    m = len(ssim)
    return Progression(
        source_id=name,
        source="h",
        target="t",
        rows=range(m),
        target_probability=np.array(probability),
        odds=np.array(probability) / 2,
        arrived=probability[-1] > 0.5,
        ssim=np.array(ssim),
        label=np.arange(1, m + 1) / m,
        depth=np.arange(1, m + 1) / m,
        evaluations=12,
    )


def test_ranks_along_k() -> None:
    assert spearman(np.array([0.1, 0.2, 0.9])) == pytest.approx(1)
    assert spearman(np.array([0.9, 0.2, 0.1])) == pytest.approx(-1)
    assert spearman(np.array([0.1, 0.9, 0.2])) == pytest.approx(0.5)
    assert spearman(np.zeros(4)) == correlation(np.arange(4.0), np.ones(4)) == 0


def test_every_source_counts_once_and_failures_are_seen() -> None:
    rising = progression([0.1, 0.4, 0.9], [0.8, 0.5, 0.2])
    stuck = progression([0.2, 0.2, 0.2], [0.8, 0.9, 0.1])
    (found,) = direction_figures([rising, stuck])
    assert found.num_sources == 2
    assert found.probability_rises.value == pytest.approx(0.5)
    assert found.odds_rise.value == pytest.approx(0.5)
    assert found.ssim_falls.value == pytest.approx((1 + 0.5) / 2)
    assert found.steps_ssim_falls.value == 3 / 4
    assert found.arrived.value == 0.5
    assert [each.value for each in found.curves["ssim"]] == pytest.approx([0.8, 0.7, 0.15])
    assert [each.value for each in found.curves["label"]] == pytest.approx([1 / 3, 2 / 3, 1])


def test_progressions_of_other_lengths_are_refused() -> None:
    with pytest.raises(DataError, match=r"progressions of \[2, 3\] images"):
        direction_figures([progression([0, 1], [1, 0]), progression([0, 0, 1], [1, 0, 0])])


def test_real_images_in_between_are_placed() -> None:
    scores = {
        "h": np.array([0.0, 0.1, 0.2]),
        "adenoma": np.array([0.3, 0.15, 0.5]),
        "t": np.array([0.5, 0.9, 1.0]),
    }
    found = between_figures(scores, "h", "t")
    assert found.above_source == {"adenoma": pytest.approx(8 / 9)}
    assert found.below_target == {"adenoma": pytest.approx(8.5 / 9)}
    assert found.scores["t"].value == pytest.approx(0.8)


def test_a_bridge_is_drawn_and_judged_by_whoever_knows_its_domains(
    cells: RealDataset,
    split: Split,
    tiny_space: FeatureSpace,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    names = ("monocyte", "neutrophil")
    generator = tiny_bridge(tmp_path_factory.mktemp("models"), names)
    monkeypatch.setattr(module, "load_feature_space", lambda _: tiny_space)
    options = "{depths: 3, measure: radial, soft_label: depth}"
    draw = ("num_images=12", "num_inference_steps=4", "guidance_scale=1", "scheduler=ddim")
    keys = [f"generate.{each}" for each in (*draw, "batch_size=6", f"options={options}")]
    changes = [*keys, "generate.method=bridge", "features=/tmp", "round_trips=[3]"]
    config = load_config(JudgeConfig, "judge", [*changes, "round_trip_images=2"])
    found = judge(config, Subject(generator=generator), cells, split, cache=ArrayCache())
    bridge = found.report.bridge
    assert bridge.grader == "judge"
    assert [(each.source, each.target) for each in bridge.directions] == [names, names[::-1]]
    assert {each.num_sources for each in bridge.directions} == {2}
    assert bridge.evaluations.value > 0
    assert [each.domain for each in bridge.trips] == list(names)
    assert bridge.between == []  # the two are all that was known
    (deepest,) = found.report.sets
    assert (deepest.name, deepest.num_images) == ("deepest", 4)
    page = to_html(found)
    assert "monocyte to neutrophil" in page
    assert "there and back" in page
    half = ExpertSpec(backbone="test_resnet", class_names=("monocyte", "other"), size_px=16)
    folder = tmp_path_factory.mktemp("expert") / "half"
    save_expert(folder, build_expert(half, seed=0), val_accuracy=0.5, split_digest="0")
    config = config.model_copy(update={"expert": folder})
    found = judge(config, Subject(generator=generator), cells, split, cache=ArrayCache())
    assert found.report.bridge is None  # nobody knows both sides: the images are judged as such
    (every,) = found.report.sets
    assert (every.name, every.num_images) == ("drawn", 12)
    assert any("the expert knows no 'neutrophil'" in note for note in found.report.notes)


def test_what_no_bridge_drew_and_whom_the_grader_does_not_know_is_refused() -> None:
    grader = Grader(name="expert", class_names=("a", "b"), probabilities=lambda x: np.ones((2, 2)))
    images = np.zeros((2, 16, 16, 3), np.uint8)
    with pytest.raises(DataError, match="no bridge drew"):
        progressions(ImageSet(name="drawn", images=images, labels=["a", "b"]), grader)
    with pytest.raises(ConfigError, match="the expert knows no class 'c'"):
        grader.column("c")


def test_images_come_back_better_with_steps_and_corrections(tiny: Generator) -> None:
    domain = Domain(name="monocyte", generator=tiny, class_name="monocyte")
    images = np.stack([disc_pair(number)[0] for number in range(2)])
    found = round_trips(domain, images, steps=(4, 64), corrections=(0, 1), batch_size=2)
    few, few_mended, many, _ = found
    assert (few.steps, few_mended.corrections, many.steps) == (4, 1, 64)
    assert [trip.evaluations for trip in found] == [8, 12, 128, 192]
    assert many.to_kept.value > few.to_kept.value + 3
    assert few_mended.to_kept.value > few.to_kept.value
    # what is lost against the real image, the autoencoder lost
    assert many.to_real.value == pytest.approx(many.autoencoder.value, abs=1)
    with pytest.raises(DataError, match="round trip of 1 images"):
        round_trips(domain, images[:1], steps=(5,))
