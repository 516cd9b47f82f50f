"""The scripts beside docs/studies: their arithmetic, and that they start on a tiny generator."""

import importlib.util
import json
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch.nn.functional as F
from PIL import Image

from factory.config import load_config
from factory.errors import DataError
from factory.evaluate.config import StudyConfig
from factory.judge.autoencoder import round_trip
from factory.models.generator import Generator
from factory.search.config import SweepConfig
from factory.search.space import check_space

STUDIES = Path(__file__).parents[2] / "docs" / "studies"


sys.path.insert(0, str(STUDIES))  # where a script finds what lies beside it


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, STUDIES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[name] = found  # where dataclasses look for it
    spec.loader.exec_module(found)
    return found


def test_the_fall_is_all_none_or_negative_and_half_the_way_three_quarters() -> None:
    """Moved by d in one feature, a set is d^2 farther: 1/4 of the distance at d/2."""
    fall = script("fall").fall
    rng = np.random.default_rng(0)
    real, near = (rng.standard_normal((60, 8)).astype(np.float32) for _ in range(2))
    step = np.zeros((1, 8), np.float32)
    step[0, 0] = 20
    whole = fall(near + step, near, real)
    assert whole.kid.low > 0.9
    assert whole.frechet.low > 0.9
    same = fall(near + step, near + step, real)
    assert same.kid.low == same.kid.value == same.kid.high == 0
    assert fall(near, near + step, real).frechet.value < 0
    half = fall(real + step, real + step / 2, real)
    assert half.frechet.value == pytest.approx(0.75, abs=0.01)


def test_heads_learn_texture_that_a_smoothing_autoencoder_takes_away() -> None:
    def sees(images: np.ndarray) -> np.ndarray:
        grey = images.astype(np.float32).mean(-1)
        step = np.abs(np.diff(grey, axis=2)).mean((1, 2))
        return np.stack([step, np.full_like(step, 30)], axis=1)

    def through(decoder: Any) -> Any:
        mode = SimpleNamespace
        return SimpleNamespace(
            encode=lambda x: mode(latent_dist=mode(mode=lambda: x)),
            decode=lambda x: mode(sample=decoder(x)),
        )

    grain = np.random.default_rng(0).integers(-60, 60, (24, 16, 16, 1))
    images = (128 + grain * np.repeat([0, 1], 12)[:, None, None, None]).repeat(3, axis=3)
    images, labels = images.astype(np.uint8), ["a"] * 12 + ["b"] * 12
    heads = script("autoencoder").heads
    smooth = through(lambda x: F.avg_pool2d(x, 5, stride=1, padding=2))
    for autoencoder, kept in ((through(lambda x: x), True), (smooth, False)):
        back = round_trip(autoencoder, images)
        sides = (sees(images), sees(back))
        found = heads(sides, sides, (labels, labels))
        assert found["real -> real"].value == 1
        assert (found["real -> returned"].value == 1) is kept


def test_a_set_of_few_labels_shares_two_classes_with_wbc_base(tmp_path: Path) -> None:
    few = script("few_labels")
    shared, others = few.shared_classes("smear:10?size=16")
    assert list(shared) == ["basophil", "eosinophil", "lymphocyte", "monocyte", "neutrophil"]
    assert others == []
    for name, colour in (("Monocytes", "red"), ("adenoma", "blue")):
        (tmp_path / name).mkdir()
        Image.new("RGB", (16, 16), colour).save(tmp_path / name / "1.png")
    with pytest.raises(DataError, match=r"\(Monocytes, adenoma\) wbc-base knows 1"):
        few.shared_classes(str(tmp_path))


@pytest.mark.parametrize("name", ["autoencoder", "fall", "small_n"])
def test_a_missing_split_is_told_before_anything_is_drawn(
    name: str, tiny: Generator, tmp_path: Path
) -> None:
    split = tmp_path / "split.json"
    words = {
        "autoencoder": ["--features", str(tmp_path / "absent.safetensors")],
        "fall": [str(tiny.folder), "--output", str(tmp_path / "out")],
        "small_n": ["--output", str(tmp_path / "out")],
    }[name]
    call = [
        *([] if name == "small_n" else [str(tiny.folder)]),
        *words,
        "--data",
        "smear:20?size=16",
        "--split",
        str(split),
    ]
    with pytest.raises(DataError, match="not a readable split"):
        script(name).main.main(call, standalone_mode=False)


def test_nulls_are_study_1_with_labels_that_are_anybodys() -> None:
    found = script("nulls")
    cells = pa.table({"image_id": [str(n) for n in range(40)], "class": ["a", "b"] * 20})
    mixed = found.shuffled(cells, 3)
    assert mixed["image_id"] == cells["image_id"]
    assert mixed["class"] != cells["class"]
    assert Counter(mixed["class"].to_pylist()) == {"a": 20, "b": 20}
    assert found.shuffled(cells, 3) == mixed
    study = load_config(StudyConfig, found.STUDY)
    for primary, arms in {"mixed minus real": found.NULL, **found.ORACLES}.items():
        made = found.config("one", arms, primary, draws=4)
        assert (made.primary, made.shots, made.learner) == (primary, study.shots, study.learner)
        assert made.arms["real"] == study.arms["real"]


def test_a_table_has_a_line_for_every_n_and_a_column_for_every_r() -> None:
    found = script("small_n")
    arms = json.loads(found.arms([1, 2, 3]).removeprefix("arms="))
    assert list(arms) == ["real", "duplicate", "r1", "r2", "r3"]
    assert arms["duplicate"]["like"] == "r3"
    scores = {name: {"test": {"iou": [0.5, 0.7]}} for name in arms}
    lines = list(found.table({16: {"arms": scores}, 32: {"arms": scores}}, "iou"))
    assert lines[0] == "| N real | real | duplicate | r1 | r2 | r3 |"
    assert lines[2].startswith("| 16 | 0.600 ± 0.141 (n 2) |")
    assert len(lines) == 4


def test_the_picture_on_the_first_screen_is_that_of_the_tables() -> None:
    found = script("learning_curve")
    page = found.PAGE.read_text()
    drawn, unlabelled, real, control = found.lines(page)
    assert unlabelled.points[0][1].value == 0.856
    assert [(n, span.value) for n, span in real.points][:2] == [(1, 0.396), (4, 0.638)]
    assert drawn.points[2][1].value == 0.847
    assert control.points[0][1].value == 0.647
    assert f"{found.picture(page)}\n" == found.PICTURE.read_text()


@pytest.mark.parametrize("name", ["sweep_cells", "sweep_polyps"])
def test_searches_of_the_pages_begin_with_what_everybody_takes(name: str) -> None:
    config = load_config(SweepConfig, STUDIES / f"{name}.yaml")
    check_space(config)
    assert config.start[0]["arm.ratio"] == 1
    assert config.start[0]["generate.guidance_scale"] == 2
