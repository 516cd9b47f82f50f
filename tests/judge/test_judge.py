"""The whole judgement on drawn cells and an untrained generator, and what it refuses."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from catalog import Catalog, SampleSink, write_batch
from factory.config import load_config
from factory.errors import CatalogError, ConfigError, DataError
from factory.judge import commands
from factory.judge import judge as module
from factory.judge.config import FIGURES, PAGE, JudgeConfig
from factory.judge.judge import Judged, Subject, judge
from factory.judge.report import to_text, write_report
from factory.judge.sets import ImageSet, draw_set, learnt_from, read_sets
from factory.measure.cache import ArrayCache
from factory.measure.features import FeatureSpace
from factory.models.config import ExpertSpec
from factory.models.expert_file import save_expert
from factory.models.experts import build_expert
from factory.models.generator import Generator
from factory.real.dataset import RealDataset
from factory.real.splits import Split
from factory.sample.config import GenerateConfig
from factory.sample.engine import Engine
from tests.fakes.accessible import faults_of
from tests.fakes.browser import needs_chromium
from tests.fakes.fields import drawing_pixels, with_pixels
from tests.fakes.rows import rows_table, sample_row
from tests.fakes.splits import split_of
from tests.fakes.tiny import CLASSES, tiny_generator
from tests.judge.conftest import SHOTS

Call = Callable[..., Judged]


def settings(*changes: str) -> JudgeConfig:
    quick = {
        "num_images": 25,
        "guidance_scale": 1,
        "num_inference_steps": 2,
        "scheduler": "ddim",
        "batch_size": 8,
    }
    known = [f"generate.{key}={value}" for key, value in quick.items()]
    return load_config(JudgeConfig, "judge", [*known, "features=/tmp", *changes])


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> ArrayCache:
    return ArrayCache(folder=tmp_path_factory.mktemp("cache"))


@pytest.fixture
def judged(
    generator: Generator,
    cells: RealDataset,
    split: Split,
    tiny_space: FeatureSpace,
    cache: ArrayCache,
    monkeypatch: pytest.MonkeyPatch,
) -> Call:
    monkeypatch.setattr(module, "load_feature_space", lambda _: tiny_space)

    def call(*changes: str, **others: object) -> Judged:
        given = {"generator": generator, "dataset": cells, "split": split, "beside": ()} | others
        subject = Subject(generator=given["generator"], beside=given["beside"])
        return judge(settings(*changes), subject, given["dataset"], given["split"], cache=cache)

    return call


def test_an_untrained_generator_is_far_from_the_floor_in_every_figure(
    judged: Call, tmp_path: Path
) -> None:
    made = judged("autoencoder=true")
    report = made.report
    floor, (returned, drawn) = report.floor, report.sets
    assert [each.name for each in report.sets] == ["unseen, by autoencoder", "drawn"]
    assert report.num_learnt == 5 * SHOTS
    assert drawn.num_images == drawn.distances.n == floor.distances.n == 25
    assert drawn.distances.few
    assert drawn.distances.kid.low > floor.distances.kid.high
    assert drawn.distances.frechet > floor.distances.frechet
    assert drawn.distances.overlap.precision < floor.distances.overlap.precision
    assert drawn.judge.overall.value < floor.judge.overall.value
    assert (
        set(drawn.distances_by_class) == set(drawn.judge.by_class) == set(report.floor.judge.called)
    )
    assert set(drawn.diversity) == {"1 - SSIM", "1 - MS-SSIM"}
    assert drawn.ssim_to_nearest.value < floor.ssim_to_nearest.value
    assert list(drawn.copies) == ["tiny", "pixels"]
    assert all(check.share.value == 0 for check in drawn.copies.values())
    assert report.autoencoder.psnr_db < 20  # untrained as well
    assert returned.judge.overall.value < floor.judge.overall.value
    write_report(made, tmp_path)
    stored = json.loads((tmp_path / FIGURES).read_text())
    assert stored["sets"][1]["distances"]["kid"]["value"] == drawn.distances.kid.value
    assert stored["settings"]["num_inference_steps"] == 2
    page = (tmp_path / PAGE).read_text()
    for words in (
        "<h1>",
        "Class by class",
        "<td>neutrophil</td>",
        "LPIPS is not measured",
        "25 *",
        "images in distances",
    ):
        assert words in page
    assert page.count("data:image/png;base64,") == 2
    assert "KID x 1000" in to_text(report)


@pytest.mark.slow
@needs_chromium
def test_everyone_can_read_the_page(judged: Call, tmp_path: Path) -> None:
    write_report(judged("autoencoder=true"), tmp_path)
    assert faults_of(tmp_path / PAGE) == {}


def test_a_repeated_judgement_computes_nothing_again(
    judged: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = judged()

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(Engine, "draw", forbidden)
    monkeypatch.setattr(FeatureSpace, "extract", forbidden)
    assert judged().report == first.report


def test_distances_may_be_measured_to_the_train_part(judged: Call) -> None:
    found = judged("reference=train", "reference_per_class=8").report
    assert found.sets[0].distances.n_reference == 5 * 8
    assert found.floor.distances.kid.value == pytest.approx(0, abs=0.05)


def test_another_generator_is_judged_beside_it_though_its_classes_are_others(
    judged: Call, tmp_path: Path
) -> None:
    base = tiny_generator(tmp_path / "base", seed=1, class_names=("gland", "crypt"))
    before, after = judged(beside=(base,)).report.sets
    assert (before.name, after.name) == (base.name, "drawn")
    assert before.judge is None
    assert before.distances_by_class == {}
    assert before.num_images == 25
    wide = tiny_generator(tmp_path / "wide", size_px=32)
    with pytest.raises(ConfigError, match="draws 32 px"):
        judged(beside=(wide,))


def test_one_that_repeats_what_it_learnt_is_called_a_copier(
    judged: Call,
    generator: Generator,
    cells: RealDataset,
    split: Split,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    learnt = learnt_from(generator, cells, split, split.train)
    assert len(learnt) == 5 * SHOTS
    shots = ImageSet(
        name="drawn",
        images=cells.array(16, learnt),
        labels=[cells.labels[cells.index_of(i)] for i in learnt],
    )
    monkeypatch.setattr(module, "draw_set", lambda *_, **__: shots)
    (found,) = judged().report.sets
    assert all(check.share.value == 1 for check in found.copies.values())
    assert found.ssim_to_nearest.value == pytest.approx(1, abs=1e-4)
    assert found.judge.overall.value > 0.6


def test_the_expert_that_led_the_training_is_asked_beside_the_judge(
    judged: Call, generator: Generator, tmp_path: Path
) -> None:
    spec = ExpertSpec(backbone="test_resnet", class_names=generator.class_names, size_px=16)
    expert = build_expert(spec, seed=0).freeze()
    save_expert(tmp_path / "expert", expert, val_accuracy=0.75, split_digest="s")
    config = {**generator.manifest["config"], "expert": str(tmp_path / "expert")}
    report = judged(
        generator=replace(generator, manifest={**generator.manifest, "config": config})
    ).report
    assert report.expert_val_accuracy == 0.75
    assert report.sets[0].expert.overall.n == report.sets[0].judge.overall.n == 25
    assert report.floor.expert is not None


def test_another_scale_is_in_the_notes(
    judged: Call, generator: Generator, cells: RealDataset
) -> None:
    """Frames of 16 px: real ones show 16 µm, drawn ones 8."""
    wide = with_pixels(cells, 1.0)
    found = judged(generator=drawing_pixels(generator, 0.5), dataset=wide).report
    assert any("drawn images show 8 µm, real images 16 µm" in note for note in found.notes)


def test_attribute_prompts_are_drawn_and_judged(
    judged: Call, generator: Generator, cells: RealDataset, split: Split
) -> None:
    """The tiny features see brightness: call bright cells big, and the judge tells them."""
    brightness, labels = cells.array(16).mean(axis=(1, 2, 3)), np.array(cells.labels)
    middle = {name: np.median(brightness[labels == name]) for name in cells.class_names}
    items = tuple(
        replace(item, attributes={"size": "big" if own > middle[item.label] else "small"})
        for item, own in zip(cells.items, brightness, strict=True)
    )
    known = replace(cells, items=items)
    own_split = replace(split, dataset=known.fingerprint)
    told = {"split_digest": own_split.digest, "dataset_fingerprint": known.fingerprint}
    model = replace(generator, manifest=generator.manifest | told)
    found = judged("attributes=3", dataset=known, split=own_split, generator=model)
    (own,) = found.report.attributes
    assert own.drawn.n == 6
    assert own.real.value > 0.6
    assert "Two prompts that differ in one attribute" in found.sheets


def test_images_that_a_generator_may_have_seen_do_not_judge_it(
    judged: Call, generator: Generator, cells: RealDataset, split: Split
) -> None:
    other = split_of(cells, train=0.5, val=0.2, test=0.3, seed=1)
    with pytest.raises(DataError, match=f"was trained on split {split.digest}, this one is"):
        judged(split=other)
    with pytest.raises(DataError, match="made for dataset 0000"):
        judged(split=replace(split, dataset="0" * 32))
    with pytest.raises(DataError, match="the val part has 0 images"):
        judged("part=val", split=replace(split, val=()))
    foreign = {**generator.manifest, "dataset_fingerprint": "f" * 32}
    found = judged(generator=replace(generator, manifest=foreign)).report
    assert found.num_learnt == 0
    assert found.sets[0].copies == {}
    assert any("learnt from none of these" in note for note in found.notes)


def test_what_a_set_holds_is_what_a_run_would_draw(generator: Generator, cache: ArrayCache) -> None:
    names = generator.class_names[:3]
    config = settings().generate.model_copy(update={"num_images": 7, "classes": {}})
    whole = draw_set("drawn", generator, _of(config, names), cache=cache)
    assert whole.labels == [names[0]] * 3 + [names[1]] * 2 + [names[2]] * 2
    alone = draw_set("drawn", generator, _of(config, names[1:2], num_images=2), cache=cache)
    assert np.array_equal(alone.images, whole.images[3:5])
    assert whole.take([4, 3]).labels == [names[1]] * 2


def _of(config: GenerateConfig, names: tuple[str, ...], **changes: object) -> GenerateConfig:
    classes = {name: f"a {name}" for name in names}
    return config.model_copy(update={"classes": classes, **changes})


def test_what_was_published_is_judged_with_and_without_what_gates_refused(tmp_path: Path) -> None:
    rows = [sample_row(number) for number in range(4)]
    rows[0] |= {"gate_status": "rejected", "gate_reasons": ["blank"]}
    files = [write_batch(tmp_path, run_id="run-1", batch_index=0, rows=rows_table(rows))]
    SampleSink(tmp_path, "run-1").commit(files)
    own = tiny_generator(tmp_path / "own", class_names=CLASSES)
    drawn_by = replace(own, model_id=rows[0]["model_id"])
    accepted, whole = read_sets(Catalog(tmp_path), "run_id = 'run-1'", drawn_by)
    assert (accepted.name, whole.name) == ("drawn, accepted", "drawn, all")
    assert len(whole) == len(accepted) + 1 == len(rows)
    assert whole.masks is None
    with pytest.raises(CatalogError, match="drawn by another generator"):
        read_sets(Catalog(tmp_path), "true", own)
    with pytest.raises(CatalogError, match="0 of the 0 samples"):
        read_sets(Catalog(tmp_path), "false", drawn_by)


def test_the_command_judges_writes_and_says_what_comes_next(
    generator: Generator,
    cells: RealDataset,
    split: Split,
    tiny_space: FeatureSpace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "load_feature_space", lambda _: tiny_space)
    monkeypatch.setattr(commands, "opened", lambda *_: cells)
    split.save(tmp_path / "split.json")
    output = tmp_path / "judged"
    quick = ("num_inference_steps=1", "guidance_scale=1", "scheduler=ddim")
    words = [word for each in quick for word in ("--set", f"generate.{each}")]
    words += ["--set", f"features={tmp_path}", "--num-images", "10", "--output", str(output)]
    words += ["--data", "cells", "--split", str(tmp_path / "split.json")]
    done = CliRunner().invoke(commands.judge, [str(generator.folder), *words])
    assert done.exit_code == 0, done.output
    assert {PAGE, FIGURES} <= {path.name for path in output.iterdir()}
    assert any(line.startswith("KID x 1000 ") for line in done.output.splitlines())
    assert "\\n" not in done.output  # a table is lines
    assert f"page: {output / PAGE}" in done.output
    assert "generate --set" in done.output
    stored = json.loads((output / FIGURES).read_text())
    assert stored["sets"][0]["num_images"] == 10
