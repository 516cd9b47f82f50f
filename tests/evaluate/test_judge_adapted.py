"""An adapted generator beside its base, from the folders to report and sheets."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from factory.errors import DataError
from factory.evaluate import judge_adapted as module
from factory.evaluate.drawing import Order, Settings, draw
from factory.evaluate.judge_adapted import AdaptedReport, Part, judge_adapted, shared_out
from factory.measure.cache import ArrayCache
from factory.measure.features import FeatureSpace, Images
from factory.models.folder import MANIFEST
from factory.models.generator import Generator, open_generator
from factory.real.dataset import RealDataset
from factory.real.sources import open_dataset
from factory.real.splits import Split
from factory.sample.engine import Engine
from tests.fakes.fields import drawing_pixels, with_pixels
from tests.fakes.splits import split_of
from tests.fakes.tiny import CLASSES, tiny_generator

QUICK = Settings(guidance_scale=1, num_inference_steps=2, scheduler="ddim", batch_size=8)
SHOTS = 4


@pytest.fixture(scope="module")
def dataset(cells: RealDataset) -> RealDataset:
    return cells


@pytest.fixture(scope="module")
def split(dataset: RealDataset) -> Split:
    return split_of(dataset, train=0.5, val=0.2, test=0.3)


@pytest.fixture(scope="module")
def adapted(
    dataset: RealDataset, split: Split, tmp_path_factory: pytest.TempPathFactory
) -> Generator:
    """Untrained; its manifest says that it learnt four images of each class."""
    folder = tmp_path_factory.mktemp("adapted") / "generator"
    made = tiny_generator(folder, class_names=dataset.class_names)
    config = {"n_shot": SHOTS, "seed": 7}
    manifest = {**made.manifest, "split_digest": split.digest, "config": config}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return open_generator(folder)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Generator:
    """Of three classes, of which the dataset has five."""
    names = ("gland", *CLASSES[1:])
    return tiny_generator(tmp_path_factory.mktemp("base") / "generator", seed=1, class_names=names)


@pytest.fixture
def judge(
    adapted: Generator,
    base: Generator,
    dataset: RealDataset,
    split: Split,
    tiny_space: FeatureSpace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., AdaptedReport]:
    monkeypatch.setattr(module, "load_feature_space", lambda _: tiny_space)

    def call(part: Part = "test", **changes: object) -> AdaptedReport:
        known = {"features": tmp_path, "settings": QUICK, "out": tmp_path / "judged"}
        given = {"generator": adapted, "base": base, "dataset": dataset, "split": split} | changes
        return judge_adapted(**given, part=part, **known)

    return call


def test_two_untrained_generators_are_measured_and_shown(
    judge: Callable[..., AdaptedReport], split: Split, tmp_path: Path
) -> None:
    found = judge()
    best, before, after = found.figures
    assert [each.name for each in found.figures] == ["other real images", "base", "adapted"]
    assert {each.num_images for each in found.figures} == {len(split.test)}
    assert found.n_learnt == 5 * SHOTS
    assert found.scale is None  # noise has none
    assert before.named is None  # of other classes
    assert after.named is not None
    assert best.kid.high < min(before.kid.low, after.kid.low)
    stored = json.loads((tmp_path / "judged" / "report.json").read_text())
    assert stored["figures"][2]["kid"]["value"] == after.kid.value
    assert stored["split_digest"] == split.digest
    sheet = Image.open(tmp_path / "judged" / "real-base-adapted.png")
    assert sheet.height == 5 * (2 * 16 + 2 + 18)
    names = {path.name for path in (tmp_path / "judged").glob("*.png")}
    assert names == {"real-base-adapted.png", "closest-tiny.png", "closest-pixels.png"}


@pytest.mark.slow
def test_one_that_learnt_to_repeat_its_shots_falls_to_the_floor_as_a_copier(
    judge: Callable[..., AdaptedReport],
    adapted: Generator,
    dataset: RealDataset,
    split: Split,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    learnt = module.choose_images(dataset, split, module._Learnt.of(adapted))
    labels = dict(zip(dataset.ids, dataset.labels, strict=True))

    def repeat(
        engine: Engine, orders: Sequence[Order], settings: Settings, *, cache: ArrayCache
    ) -> list[Images]:
        if engine.generator.name != adapted.name:
            return draw(engine, orders, settings, cache=cache)
        shots = {o.class_name: [i for i in learnt if labels[i] == o.class_name] for o in orders}
        return [
            dataset.array(16, [shots[o.class_name][k % SHOTS] for k in range(o.count)])
            for o in orders
        ]

    monkeypatch.setattr(module, "draw", repeat)
    found = judge("held_out")
    _, before, after = found.figures
    assert after.num_images == len(split.val) + len(split.test)
    assert all(check.share.value == 1 for check in after.copies.values())
    assert all(check.share.value < 0.1 for check in before.copies.values())
    assert found.fall.kid.low > 0.5
    assert after.named is not None
    assert after.named.value > 0.8


def test_another_scale_is_in_the_report(
    judge: Callable[..., AdaptedReport], adapted: Generator, dataset: RealDataset
) -> None:
    found = judge(generator=drawing_pixels(adapted, 0.5), dataset=with_pixels(dataset, 1.0))
    assert "drawn images show 8 µm, real images 16 µm" in found.scale


def test_another_split_than_that_of_the_training_is_refused(
    judge: Callable[..., AdaptedReport], dataset: RealDataset, split: Split
) -> None:
    other = split_of(dataset, train=0.5, val=0.2, test=0.3, seed=1)
    with pytest.raises(DataError, match=f"trained on split {split.digest}"):
        judge(split=other)
    smaller = open_dataset("smear:20?seed=5&size=16")
    with pytest.raises(DataError):
        judge(dataset=smaller)


def test_images_are_shared_out_evenly() -> None:
    assert shared_out(8, ("a", "b", "c")) == {"a": 3, "b": 3, "c": 2}
    assert shared_out(2, ("a", "b", "c")) == {"a": 1, "b": 1}
    assert np.sum(list(shared_out(240, tuple("abcdefg")).values())) == 240
