"""A study of segmenters: real pairs against real and drawn ones, by Dice of each image."""

from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation

from factory.config import parse_config
from factory.errors import ConfigError, DataError
from factory.evaluate import mask_probe
from factory.evaluate.config import StudyConfig
from factory.evaluate.derived import pasted
from factory.evaluate.mask_probe import Equations, equations_of
from factory.evaluate.material import study_material
from factory.evaluate.placement import execute_here
from factory.evaluate.study import Inputs, plan_study
from factory.evaluate.study_report import to_markdown
from factory.evaluate.study_run import read_result, run_study
from factory.real.dataset import RealDataset
from factory.real.sources import open_dataset
from factory.real.splits import Split
from tests.fakes.pairs import disc_pair, publish_pairs, write_pairs
from tests.fakes.splits import split_of

LEARNER = {
    "task": "segment",
    "size_px": 32,
    "channels": [8, 16],
    "steps": 60,
    "batch_size": 8,
    "learning_rate": 3e-3,
    "validate_every": 30,
}
ARMS = {"real": {"design": "real"}, "mixed": {"design": "ratio", "ratio": 1}}
STORED = (0, 128, 255)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> RealDataset:
    folder = tmp_path_factory.mktemp("pairs")
    return open_dataset(write_pairs(folder, count=16, size_px=32, values=STORED)[0])


@pytest.fixture(scope="module")
def split(real: RealDataset) -> Split:
    return split_of(real, train=0.5, val=0.25, test=0.25)


def config() -> StudyConfig:
    stored = {"name": "discs", "learner": LEARNER, "arms": ARMS, "seeds": [0, 1]}
    return parse_config(StudyConfig, stored, where="test")


@pytest.mark.slow
def test_segmenters_are_compared_by_dice(real: RealDataset, split: Split, tmp_path: Path) -> None:
    catalog = publish_pairs(tmp_path / "catalog", split, masks=True)
    planned = plan_study(config(), Inputs(dataset=real, splits=(split,), catalog=catalog))
    report = run_study(planned, tmp_path / "out", execute_here)
    assert report.task == "segment"
    assert report.floor == ()
    assert report.arms["mixed"].num_synthetic == len(split.train)
    dice, iou = (report.arms["mixed"].test[name] for name in ("dice", "iou"))
    assert all(0.5 < small < large <= 1 for small, large in zip(iou, dice, strict=True))
    assert report.comparisons["mixed"]["real"].difference.n == 2
    text = to_markdown(report)
    assert "| arm | real rows | synthetic | val Dice | Dice | IoU | pooled Dice |" in text
    assert "majority class" not in text
    found = read_result(tmp_path / "out" / "units", planned.units[0])
    assert found is not None
    assert len(found.said) == len(split.test)
    again = run_study(planned, tmp_path / "out", execute_here)
    assert again.to_json() == report.to_json()


def test_drawn_images_without_masks_are_refused(
    real: RealDataset, split: Split, tmp_path: Path
) -> None:
    catalog = publish_pairs(tmp_path / "catalog", split, masks=False)
    planned = plan_study(config(), Inputs(dataset=real, splits=(split,), catalog=catalog))
    with pytest.raises(DataError, match="has no mask"):
        run_study(planned, tmp_path / "out", execute_here)


def test_a_linear_decoder_finds_masks_without_being_trained(real, split, tmp_path):
    """Many draws of the shots, and pairs that look like the real ones are no loss."""
    learner = {"task": "probe_masks", "backbone": "colours", "size_px": 32, "turns": 2}
    arms = {"real": {"design": "real"}, "all": {"design": "real", "shots": "all"}}
    arms["mixed"] = {"design": "add", "per_class": 6}
    arms["pasted"] = {"design": "copy_paste", "per_class": 6}
    asked = {"learner": learner, "arms": arms, "seeds": [0], "shots": 2, "draws": 3}
    asked["equal_information"] = False  # each draw is another one than the generator's
    config = parse_config(StudyConfig, asked, where="test")
    catalog = publish_pairs(tmp_path / "catalog", split, masks=True)
    planned = plan_study(config, Inputs(dataset=real, splits=(split,), catalog=catalog))
    material = study_material(planned.units, real, catalog)
    kept = material.dense.equations
    assert not [row_id for row_id in kept if row_id.startswith("pasted:")], "each holds a megabyte"
    own = {unit.manifest.digest for unit in planned.units if unit.manifest.arm == "pasted"}
    assert material.dense.summed.keys() == own
    report = run_study(planned, tmp_path / "out", execute_here)
    assert min(report.arms["mixed"].test["dice"]) > 0.8
    assert report.findings["mixed"] != "hurts"
    assert min(report.arms["pasted"].test["dice"]) > 0.7
    assert report.arms["pasted"].num_synthetic == 0
    assert "pasted" in planned.config.controls
    assert report.curve is not None


def test_a_pasted_object_lies_in_another_image_and_in_its_mask():
    pairs = [disc_pair(number, size_px=32, values=(0, 1, 2)) for number in range(8)]
    images, masks = (np.stack(part) for part in zip(*pairs, strict=True))
    black = np.zeros_like(images), np.zeros_like(masks)
    shown, where = pasted((images, masks), black, number=3)
    assert (shown[where > 0].max(axis=-1) > 0).mean() > 0.9
    far = binary_dilation(where > 0, np.ones((1, 7, 7)))
    assert shown[~far].max() == 0, "nothing else comes with it"
    assert set(np.unique(where)) <= {0, 1, 2}
    before, after = ((part > 0).sum(axis=(1, 2)) for part in (masks, where))
    assert (after > 0).all()
    assert (after <= 1.4**2 * before + 20).all()
    again, other = (pasted((images, masks), black, number=n)[0] for n in (3, 4))
    assert np.array_equal(again, shown)
    assert not np.array_equal(other, shown)
    takers = images[::-1].copy(), masks[::-1].copy()
    kept, under = pasted((images, masks), takers, number=3)
    outside = ~far
    assert np.array_equal(kept[outside], takers[0][outside])
    assert np.array_equal(under[where == 0], takers[1][where == 0])


def test_objects_are_laid_into_images_with_masks_alone():
    arms = {"real": {"design": "real"}, "pasted": {"design": "copy_paste", "per_class": 2}}
    arms["mixed"] = {"design": "add", "per_class": 2}
    with pytest.raises(ConfigError, match="pasted lays objects into other images"):
        parse_config(StudyConfig, {"learner": {"task": "probe"}, "arms": arms}, where="test")


def test_equations_of_weighted_images_add_up():
    rng = np.random.Generator(np.random.Philox(1))
    views = [
        Equations(square=rng.random((3, 3), np.float32), aim=rng.random((3, 2), np.float32))
        for _ in range(4)
    ]
    total = Equations.none(3, 2).added(views[:3], 0.5).added(views[3:], 2.0)
    squares, aims = ([getattr(view, name) for view in views] for name in ("square", "aim"))
    assert np.allclose(total.square, 0.5 * np.mean(squares[:3], axis=0) + 2 * squares[3])
    assert np.allclose(total.aim, 0.5 * np.mean(aims[:3], axis=0) + 2 * aims[3])


def test_equations_are_computed_once_for_each_pixels_mask_turn_and_encoder(monkeypatch):
    monkeypatch.setattr(mask_probe, "_kept", OrderedDict())
    monkeypatch.setattr(mask_probe, "MOST_KEPT", 6)
    pairs = [disc_pair(number, size_px=32, values=(0, 1, 2)) for number in range(3)]
    images, masks = (np.stack(part) for part in zip(*pairs, strict=True))
    looked = []

    def maps(shown):
        looked.append(1)
        return torch.nn.functional.avg_pool2d(shown, 2)

    def found(name, turns=2, own=masks):
        del looked[:]
        views = equations_of(maps, images, own, classes=3, turns=turns, known_as=name)
        return len(looked), views

    count, first = found("one")
    assert count == 6
    again, second = found("one")
    assert again == 0
    assert all(a is b for one, other in zip(first, second, strict=True)
               for a, b in zip(one, other, strict=True))  # fmt: skip
    assert found("two")[0] == 6
    assert found("one")[0] == 6, "the oldest went"
    assert found("one", own=np.zeros_like(masks))[0] == 6
    assert found(None)[0] == 6
    assert len(mask_probe._kept) == 6
