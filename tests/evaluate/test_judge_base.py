"""The whole measurement on drawn cells and an untrained generator, and what it refuses."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from factory.errors import ConfigError, DataError
from factory.evaluate.drawing import Order, Settings, draw
from factory.evaluate.judge_base import Counts, judge_base
from factory.evaluate.reference import PIXELS, Reference, make_reference
from factory.measure.cache import ArrayCache
from factory.measure.features import FeatureSpace
from factory.models.folder import MANIFEST
from factory.models.generator import Generator, open_generator
from factory.real.dataset import RealDataset
from factory.real.splits import Split
from factory.sample.engine import Engine
from tests.fakes.fields import drawing_pixels, with_pixels
from tests.fakes.splits import split_of
from tests.fakes.tiny import tiny_generator

QUICK = Settings(guidance_scale=1, num_inference_steps=2, scheduler="ddim", batch_size=4)


@pytest.fixture(scope="module")
def dataset(cells: RealDataset) -> RealDataset:
    return cells


@pytest.fixture(scope="module")
def split(dataset: RealDataset) -> Split:
    return split_of(dataset, train=0.4, val=0.6)


@pytest.fixture(scope="module")
def generator(
    dataset: RealDataset, split: Split, tmp_path_factory: pytest.TempPathFactory
) -> Generator:
    folder = tmp_path_factory.mktemp("models") / "smear"
    made = tiny_generator(folder, class_names=dataset.class_names)
    config = {"prompt": {"subject": "{size} {class_name}"}}
    manifest = {**made.manifest, "split_digest": split.digest, "config": config}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return open_generator(folder)


@pytest.fixture
def reference(
    generator: Generator,
    dataset: RealDataset,
    split: Split,
    tiny_space: FeatureSpace,
    tmp_path: Path,
) -> Reference:
    cache = ArrayCache(folder=tmp_path / "cache")
    return make_reference(generator, dataset, split, space=tiny_space, cache=cache)


def test_a_generator_is_measured_and_the_report_holds_every_figure(
    generator: Generator, reference: Reference, tmp_path: Path
) -> None:
    told = []
    found = judge_base(
        Engine(generator),
        reference,
        QUICK,
        Counts(per_class=5, per_value=0),
        out=tmp_path,
        report=lambda done, of: told.append((done, of)),
    )
    assert told[-1] == (7, 7)  # 25 images in batches of 4
    assert found.named.drawn.n == 25
    assert found.named.drawn.value < found.named.real.value  # untrained: noise against cells
    assert found.fidelity.kid.low > found.fidelity.kid_floor.high
    assert found.fidelity.frechet > found.fidelity.frechet_floor
    assert found.fidelity.num_images == 25
    assert found.scale is None  # noise has none
    assert [check.space for check in found.copies] == ["tiny", PIXELS]
    stored = json.loads((tmp_path / "report.json").read_text())
    assert stored["named"]["drawn"]["value"] == found.named.drawn.value
    table = (tmp_path / "report.md").read_text()
    for words in ("KID (tiny)", "Fréchet distance (tiny)", "| neutrophil |", "| judge names"):
        assert words in table
    assert Image.open(tmp_path / "drawn.png").size == (5 * 34, 5 * (34 + 18))
    assert {"real-beside-drawn.png", "closest.png"} < {path.name for path in tmp_path.iterdir()}


def test_another_scale_is_in_the_report(
    generator: Generator, reference: Reference, tmp_path: Path
) -> None:
    """Frames of 16 px: real ones show 16 µm, drawn ones 8."""
    engine, counts = Engine(drawing_pixels(generator, 0.5)), Counts(per_class=4, per_value=0)
    wide = replace(reference, dataset=with_pixels(reference.dataset, 1.0))
    found = judge_base(engine, wide, QUICK, counts, out=tmp_path)
    assert "drawn images show 8 µm, real images 16 µm" in found.scale
    assert "--crop 8um shows real images alike" in (tmp_path / "report.md").read_text()


def test_a_repeated_measurement_computes_nothing_again(
    generator: Generator, reference: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, counts = Engine(generator), Counts(per_class=4, per_value=0)
    first = judge_base(engine, reference, QUICK, counts, out=tmp_path / "one")

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(Engine, "draw", forbidden)
    monkeypatch.setattr(FeatureSpace, "extract", forbidden)
    again = judge_base(engine, replace(reference), QUICK, counts, out=tmp_path / "two")
    assert again == first


def test_attribute_prompts_are_drawn_and_judged(
    generator: Generator, dataset: RealDataset, reference: Reference, tmp_path: Path
) -> None:
    """The tiny features see brightness: call bright cells big, and the judge tells them."""
    brightness = dataset.array(16).mean(axis=(1, 2, 3))
    labels = np.array(dataset.labels)
    middle = {name: np.median(brightness[labels == name]) for name in dataset.class_names}
    items = tuple(
        replace(item, attributes={"size": "big" if own > middle[item.label] else "small"})
        for item, own in zip(dataset.items, brightness, strict=True)
    )
    known = replace(reference, dataset=replace(dataset, items=items))
    counts = Counts(per_class=4, per_value=3)
    found = judge_base(Engine(generator), known, QUICK, counts, out=tmp_path)
    (own,) = found.attributes
    assert own.drawn.n == 6
    assert own.real.value > 0.6
    assert "chance 0.5" in (tmp_path / "report.md").read_text()
    assert (tmp_path / "attributes.png").exists()


def test_images_come_back_in_the_order_asked(generator: Generator, tmp_path: Path) -> None:
    engine, cache = Engine(generator), ArrayCache(folder=tmp_path)
    orders = [
        Order(class_name=name, prompt=f"a {name}", count=count)
        for name, count in zip(generator.class_names[:3], (3, 1, 2), strict=True)
    ]
    together = draw(engine, orders, QUICK, cache=cache)
    alone = [draw(engine, [order], QUICK, cache=cache)[0] for order in orders]
    for one, other, order in zip(together, alone, orders, strict=True):
        assert one.shape == (order.count, 16, 16, 3)
        assert np.array_equal(one, other)


def test_an_unknown_class_or_scheduler_is_refused(generator: Generator, tmp_path: Path) -> None:
    engine, cache = Engine(generator), ArrayCache(folder=tmp_path)
    order = Order(class_name="monocyte", prompt="a monocyte", count=1)
    with pytest.raises(ConfigError, match="'blast' is unknown"):
        draw(engine, [replace(order, class_name="blast")], QUICK, cache=cache)
    with pytest.raises(ConfigError, match="'euler'"):
        draw(engine, [order], replace(QUICK, scheduler="euler"), cache=cache)


def test_cells_that_the_generator_may_have_seen_do_not_judge_it(
    generator: Generator, dataset: RealDataset, split: Split, tiny_space: FeatureSpace
) -> None:
    other = replace(split, train=split.val, val=split.train)
    cache = ArrayCache()
    with pytest.raises(DataError, match=f"trained on split {split.digest}"):
        make_reference(generator, dataset, other, space=tiny_space, cache=cache)
    empty = replace(split, val=())
    manifest = {**generator.manifest, "split_digest": empty.digest}
    unheld = replace(generator, manifest=manifest)
    with pytest.raises(DataError, match="'basophil' is missing from train or from val"):
        make_reference(unheld, dataset, empty, space=tiny_space, cache=cache)
    foreign = replace(split, dataset="0" * 32)
    with pytest.raises(DataError, match="made for dataset 0000"):
        make_reference(generator, dataset, foreign, space=tiny_space, cache=cache)
