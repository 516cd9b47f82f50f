"""Studies end to end on drawn cells: null and oracle, leaks, resume, and what the catalog keeps."""

import dataclasses
import json
import re
import shlex
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from catalog import Catalog, SampleSink, sql, write_batch
from catalog.releasing import create_release
from catalog.sink import record_model
from factory.config import load_config, parse_config, to_yaml
from factory.digest import digest
from factory.errors import CatalogError, ConfigError, DataError
from factory.evaluate import outset
from factory.evaluate.arms import Drawn
from factory.evaluate.commands import evaluate
from factory.evaluate.config import LATER, StudyConfig, SyntheticChoice
from factory.evaluate.designs import LATER_OF_ARMS
from factory.evaluate.outset import own_splits
from factory.evaluate.placement import execute_here, execute_on_ray
from factory.evaluate.study import Inputs, plan_study, plan_units
from factory.evaluate.study_html import to_html
from factory.evaluate.study_report import StudyReport, make_report, to_markdown
from factory.evaluate.study_run import (
    record_study,
    run_study,
)
from factory.evaluate.synthetic import pool_of, read_pool
from factory.evaluate.units import Material
from factory.models.generator import find_generator
from factory.real.build import build_dataset
from factory.real.dataset import RealDataset
from factory.real.images import encode_png
from factory.real.smear import smear_items
from factory.real.splits import Split, load_split, make_folds, n_shot
from tests.fakes.accessible import faults_of
from tests.fakes.browser import needs_chromium
from tests.fakes.fields import with_pixels
from tests.fakes.ridge import execute_ridge
from tests.fakes.rows import rows_table, sample_row
from tests.fakes.splits import split_of

SIZE_PX = 24
NOW = datetime(2026, 11, 21, tzinfo=UTC)
ARMS = {
    "real": {"design": "real"},
    "duplicate": {"design": "duplicate", "like": "mixed"},
    "mixed": {"design": "add", "per_class": 8},
}
QUICK = {
    "backbone": "test_resnet",
    "size_px": SIZE_PX,
    "steps": 3,
    "batch_size": 4,
    "validate_every": 2,
}


def config(**changes: object) -> StudyConfig:
    plain = {"name": "smear", "learner": QUICK, "arms": ARMS, "seeds": [0, 1], "shots": 3}
    return parse_config(StudyConfig, {**plain, **changes}, where="test")


@pytest.fixture(scope="module")
def cells() -> RealDataset:
    return build_dataset(smear_items(100, seed=4, size_px=SIZE_PX))


@pytest.fixture(scope="module")
def others() -> RealDataset:
    """More cells of the same kind, which no part of a split holds."""
    return build_dataset(smear_items(100, seed=99, size_px=SIZE_PX))


@pytest.fixture(scope="module")
def material(cells: RealDataset, others: RealDataset) -> Material:
    real, drawn = list(cells.ids), [f"drawn/{i}" for i in others.ids]
    return Material(
        class_names=cells.class_names,
        images=np.concatenate([cells.array(SIZE_PX), others.array(SIZE_PX)]),
        position={i: n for n, i in enumerate([*real, *drawn])},
        labels=dict(zip(cells.ids, cells.labels, strict=True)),
        groups=dict(zip(cells.ids, cells.groups, strict=True)),
    )


def folds(cells: RealDataset, seed: int) -> list[Split]:
    return make_folds(
        dataset=cells.fingerprint,
        ids=cells.ids,
        labels=cells.labels,
        groups=cells.groups,
        k=5,
        seed=seed,
    )


def disguised(
    others: RealDataset, names: tuple[str, ...], *, shuffled_by: int | None
) -> list[Drawn]:
    """Real cells as if they were drawn: with their labels, or with shuffled ones."""
    labels = np.array(others.labels)
    if shuffled_by is not None:
        labels = np.random.Generator(np.random.Philox(shuffled_by)).permutation(labels)
    return [
        Drawn(id=f"drawn/{i}", class_name=str(n), soft_label=tuple(float(n == o) for o in names))
        for i, n in zip(others.ids, labels, strict=True)
    ]


def study(
    cells: RealDataset, others: RealDataset, material: Material, *, seed: int, shuffled: bool
) -> StudyReport:
    drawn = disguised(others, cells.class_names, shuffled_by=seed if shuffled else None)
    made = config(shots_seed=seed)
    units = plan_units(made, cells, folds(cells, seed), [drawn] * 5)
    results = {result.unit_id: result for result in execute_ridge(units, material)}
    return make_report(made, units, results, material)


@pytest.mark.parametrize(
    ("nulls", "oracles"), [(3, 1), pytest.param(20, 3, marks=pytest.mark.slow)]
)
def test_real_cells_in_disguise_help_and_relabelled_ones_never_do(
    nulls, oracles, cells, others, material
):
    null = [
        study(cells, others, material, seed=seed, shuffled=True).effects["mixed"]
        for seed in range(nulls)
    ]
    assert null.count("helps") <= nulls // 10, null
    oracle = [study(cells, others, material, seed=s, shuffled=False) for s in range(oracles)]
    assert [report.effects["mixed"] for report in oracle] == ["helps"] * oracles
    assert "mixed helps by" in oracle[0].verdicts["mixed"]


def test_the_report_shows_floor_controls_and_pairs(cells, others, material):
    report = study(cells, others, material, seed=0, shuffled=False)
    assert (report.num_folds, report.num_seeds, report.num_test) == (5, 2, 100)
    assert report.baseline in ("real", "duplicate")
    assert report.comparisons["mixed"]["real"].difference.n == 10
    assert [floor.accuracy for floor in report.floor] == pytest.approx([0.2] * 5)
    text = to_markdown(report)
    lines = text.splitlines()
    first = [line.split("|")[1].strip() for line in lines if line.startswith("| ")]
    assert first[:5] == ["arm", "majority class", "real", "duplicate", "mixed"]
    assert lines[2] == f"- {report.verdicts['mixed']}"
    json.dumps(report.to_json())


def test_finished_trainings_are_found_again_but_those_whose_warm_up_was_cut(cells):
    arms = {name: ARMS[name] for name in ("real",)} | {"even": {"design": "oversample"}}
    for warmup, version in ((20, 2), (21, 3)):
        made = config(arms=arms, learner={**QUICK, "steps": 80, "warmup_steps": warmup})
        unit = plan_units(made, cells, folds(cells, 0)[:1], [[]])[0]
        learner = made.learner.model_dump(mode="json")
        parts = [unit.manifest.digest, unit.split_digest, unit.seed, [*unit.val], [*unit.test]]
        assert unit.id == digest([version, learner, *parts])


# --- through a catalog


@pytest.fixture(scope="module")
def split(cells: RealDataset) -> Split:
    return split_of(cells, train=0.6, val=0.2, test=0.2)


@pytest.fixture(scope="module")
def uri(others: RealDataset, split: Split, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "catalog"
    publish(folder, others, split_digest=split.digest, dataset_fingerprint=split.dataset)
    return folder


SHOTS = {"n_shot": 3, "seed": 0}
"""How the models of these tests chose their images: as the study does."""


def publish(
    uri: Path,
    others: RealDataset,
    *,
    run_id: str = "run-1",
    learnt: dict[str, object] | None = None,
    **lineage: object,
) -> None:
    rows = []
    for number, name in enumerate(others.labels):
        status = "rejected" if number < 5 else "accepted"
        changes = {"class_name": name, "class_id": number % 5, "gate_status": status}
        changes["gate_reasons"] = ["blank"] if status == "rejected" else []
        row = sample_row(number, recipe=run_id, **changes, **lineage)
        image = encode_png(others.image(number))
        rows.append(row | {"image": {"bytes": image, "path": f"{row['image_id']}.png"}})
    batch = write_batch(uri, run_id=run_id, batch_index=0, rows=rows_table(rows))
    SampleSink(uri, run_id).commit([batch])
    known = {name: lineage.get(name) for name in ("base_model_id", "split_digest")}
    record_model(
        uri,
        {
            "model_id": lineage.get("model_id", "model-a"),
            "name": f"cells of {run_id}",
            "method": "text",
            "dataset_fingerprint": lineage.get("dataset_fingerprint"),
            "config": json.dumps(SHOTS if learnt is None else learnt),
            "licence": "MIT",
            "card": "",
            "added_at": NOW,
            **known,
        },
    )


def test_a_study_goes_on_where_it_was_killed_and_is_recorded_once(cells, split, uri, tmp_path):
    planned = plan_study(config(), Inputs(dataset=cells, splits=(split,), catalog=Catalog(uri)))
    assert len(planned.units) == 6
    trained = []

    def dying(units, material):
        for result in execute_ridge(units[:4], material):
            trained.append(result.unit_id)
            yield result
        raise KeyboardInterrupt

    def alive(units, material):
        trained.extend(unit.id for unit in units)
        yield from execute_ridge(units, material)

    with pytest.raises(KeyboardInterrupt):
        run_study(planned, tmp_path, dying)
    report = run_study(planned, tmp_path, alive)
    assert sorted(trained) == sorted(unit.id for unit in planned.units)
    for _ in range(2):
        record_study(planned, report, tmp_path, str(uri), now=NOW)
    catalog = Catalog(uri)
    told = sql(catalog, "SELECT name, catalog_version, model_ids, baseline FROM evaluations")
    assert told.to_pylist() == [
        {
            "name": "smear",
            "catalog_version": 1,
            "model_ids": ["model-a"],
            "baseline": report.baseline,
        }
    ]
    query = """SELECT arm, count(*) AS n, any_value(num_synthetic) AS drawn FROM scores
        WHERE part = 'test' AND metric = 'macro_f1' GROUP BY 1 ORDER BY 1"""
    assert sql(catalog, query).to_pylist() == [
        {"arm": "duplicate", "n": 2, "drawn": 0},
        {"arm": "mixed", "n": 2, "drawn": 40},
        {"arm": "real", "n": 2, "drawn": 0},
    ]
    assert "mixed" in (tmp_path / "report.md").read_text()
    assert "Membership: AUC" in (tmp_path / "report.md").read_text()
    page = (tmp_path / "report.html").read_text()
    assert "<h2>Diversity</h2>" in page
    assert report.verdicts["mixed"][1:] in page
    assert page.index(report.verdicts["mixed"][1:]) < page.index("<svg")
    assert "Recall by class" in page
    wrong = page.count("<figcaption>")
    assert page.count("data:image/png;base64,") == 1 + wrong
    assert "http" not in page.replace("base64", "")[:2000]  # needs nothing else


@pytest.mark.slow
@needs_chromium
def test_everyone_can_read_the_page(cells, split, uri, tmp_path):
    planned = plan_study(config(), Inputs(dataset=cells, splits=(split,), catalog=Catalog(uri)))
    run_study(planned, tmp_path, execute_ridge)
    assert faults_of(tmp_path / "report.html") == {}


def test_names_are_text_in_the_page(cells, others, material):
    report = study(cells, others, material, seed=0, shuffled=False)
    odd = dataclasses.replace(report, name="<script>alert(1)</script>", notes=("<img src=x>",))
    page = to_html(odd)
    assert "<script" not in page
    assert "<img src=x" not in page
    assert "&lt;script&gt;" in page


def test_a_real_training_runs_through(cells, split, uri, tmp_path):
    made = config(seeds=[0, 1], arms={n: ARMS[n] for n in ("real", "mixed")})
    planned = plan_study(made, Inputs(dataset=cells, splits=(split,), catalog=Catalog(uri)))
    lines: list[str] = []
    report = run_study(planned, tmp_path, execute_here, tell=lines.append)
    assert lines[0] == "4 trainings, 0 of them finished before"
    assert lines[1].startswith("about ")
    assert re.search(r"val macro_f1 .*\(4/4, \d+ s; 0 s left\)", lines[-1])
    assert len(lines) == 6
    assert report.arms["mixed"].num_synthetic == 40
    assert set(report.effects) == {"mixed"}


def test_drawn_cells_of_another_scale_are_said_before_training_and_in_the_report(
    cells, others, split, uri, tmp_path
):
    near = replace(others, reading={"crop": "0.65"})
    known = {"split_digest": split.digest, "dataset_fingerprint": split.dataset}
    publish(tmp_path / "near", near, **known)
    inputs = Inputs(dataset=cells, splits=(split,), catalog=Catalog(tmp_path / "near"))
    lines: list[str] = []
    report = run_study(plan_study(config(), inputs), tmp_path, execute_ridge, tell=lines.append)
    line = lines[1]
    assert line.startswith("scale: objects look 1.")
    share = float(line.partition("in drawn images as in real images, beyond 1.1; --crop ")[2][:4])
    assert share == pytest.approx(0.65, abs=0.08)
    assert report.notes == (line,)
    assert f"note: {line}" in (tmp_path / "report.md").read_text()
    assert outset.about_scale(plan_study(config(), replace(inputs, catalog=Catalog(uri)))) == []


def test_drawn_pixels_of_another_size_are_said_model_by_model(cells, others, split, tmp_path):
    known = {"split_digest": split.digest, "dataset_fingerprint": split.dataset}
    for number, size_um in enumerate((1.0, 2.0)):  # rows say that they are 8 px wide
        model = {"model_id": f"model-{number}", "pixel_size_um": size_um}
        publish(tmp_path, others, run_id=f"run-{number}", **known, **model)
    real = with_pixels(cells, 16 / SIZE_PX)
    inputs = Inputs(dataset=real, splits=(split,), catalog=Catalog(tmp_path))
    (line,) = outset.about_scale(plan_study(config(), inputs))
    assert "images of cells of run-0 (model-0) show 8 µm, real images 16 µm" in line


def test_rejected_images_are_never_taken(cells, split, uri):
    planned = plan_study(config(), Inputs(dataset=cells, splits=(split,), catalog=Catalog(uri)))
    assert len(planned.pool.images) == 95
    less = config(synthetic={"where": "recipe_index >= 50"})
    assert (
        len(
            plan_study(
                less, Inputs(dataset=cells, splits=(split,), catalog=Catalog(uri))
            ).pool.images
        )
        == 50
    )


def test_a_generator_of_another_split_is_refused(cells, others, split, uri, tmp_path):
    other = folds(cells, 3)[0]
    publish(tmp_path / "c", others, split_digest=other.digest, dataset_fingerprint=split.dataset)
    inputs = Inputs(dataset=cells, splits=(split,), catalog=Catalog(tmp_path / "c"))
    with pytest.raises(ConfigError, match=f"under split {other.digest}"):
        plan_study(config(), inputs)
    leaked = sorted({*other.train, *other.val} & {*split.val, *split.test})
    with pytest.raises(DataError, match=rf"model cells of run-1 \(model-a\) saw {leaked[0]}"):
        plan_study(config(), dataclasses.replace(inputs, generator_splits=(other,)))


def test_generators_of_single_folds_are_told_of_in_one_line(cells, others, tmp_path):
    splits, uri = folds(cells, 3)[:2], tmp_path / "c"
    for number, split in enumerate(splits):
        publish(
            uri,
            others,
            run_id=f"run-{number}",
            model_id=f"model-{number}",
            split_digest=split.digest,
            dataset_fingerprint=split.dataset,
        )
    inputs = Inputs(dataset=cells, splits=tuple(splits), catalog=Catalog(uri))
    planned = plan_study(config(), inputs)
    assert planned.notes == (
        "images of 2 generators serve some folds alone: those under whose split they were trained",
    )
    publish(uri, others, run_id="run-2", model_id="lost", split_digest="?", dataset_fingerprint="?")
    planned = plan_study(config(), dataclasses.replace(inputs, catalog=Catalog(uri)))
    assert len(planned.notes) == 2
    assert "lost" in planned.notes[0]


def planned_with(cells, split, uri, **changes: object):
    return plan_study(
        config(**changes), Inputs(dataset=cells, splits=(split,), catalog=Catalog(uri))
    )


def real_ids(planned) -> set[str]:
    rows = next(u for u in planned.units if u.manifest.arm == "real").manifest.rows
    return {row.id for row in rows}


def test_the_real_arm_holds_what_its_generator_saw_by_default(cells, others, split, tmp_path):
    lineage = {"split_digest": split.digest, "dataset_fingerprint": split.dataset}
    publish(tmp_path / "c", others, learnt={"n_shot": 3, "seed": 5}, **lineage)
    labels = dict(zip(cells.ids, cells.labels, strict=True))
    seen = n_shot(split, labels=labels, shots=3, seed=5)
    planned = planned_with(cells, split, tmp_path / "c")
    assert planned.config.shots_seed == 5
    assert real_ids(planned) == {i for ids in seen.values() for i in ids}
    assert planned.notes == ()
    with pytest.raises(DataError, match=r"learnt from 15 real images, \d+ of which") as caught:
        planned_with(cells, split, tmp_path / "c", shots_seed=42)
    assert "--set shots=3 --set shots_seed=5" in caught.value.remedy


def test_a_generator_of_a_long_tail_is_compared_with_real_arms_of_the_same(
    cells, others, split, tmp_path
):
    tail = {"monocyte": 2, "basophil": 1}
    lineage = {"split_digest": split.digest, "dataset_fingerprint": split.dataset}
    publish(tmp_path / "c", others, learnt={"n_shot": tail, "seed": 5}, **lineage)
    labels = dict(zip(cells.ids, cells.labels, strict=True))
    planned = planned_with(cells, split, tmp_path / "c", shots=tail)
    assert planned.config.shots_seed == 5
    seen = n_shot(split, labels=labels, shots=tail, seed=5)
    assert real_ids(planned) == {i for ids in seen.values() for i in ids}
    counts = Counter(labels[i] for i in real_ids(planned))
    assert (counts["monocyte"], counts["basophil"]) == (2, 1)
    assert counts["neutrophil"] == sum(labels[i] == "neutrophil" for i in split.train)
    with pytest.raises(DataError, match="learnt from"):
        planned_with(cells, split, tmp_path / "c", shots=1, shots_seed=5)


@pytest.mark.parametrize("learnt", [{}, {"n_shot": 4, "seed": 0}, {"n_shot": "?"}])
def test_a_generator_that_saw_more_than_the_real_arms_is_refused_or_said(
    cells, others, split, tmp_path, learnt
):
    lineage = {"split_digest": split.digest, "dataset_fingerprint": split.dataset}
    publish(tmp_path / "c", others, learnt=learnt, **lineage)
    with pytest.raises(DataError, match="their arms would know more than the controls"):
        planned_with(cells, split, tmp_path / "c")
    (note,) = planned_with(cells, split, tmp_path / "c", equal_information=False).notes
    assert note.startswith("arms with synthetic images know more than their controls: model cells")
    assert planned_with(cells, split, tmp_path / "c", shots=None).notes == ()


def test_a_generator_that_saw_images_without_labels_is_said_and_not_refused(
    cells, others, split, tmp_path
):
    lineage = {"split_digest": split.digest, "dataset_fingerprint": split.dataset}
    publish(tmp_path / "c", others, learnt={"unlabelled": True}, **lineage)
    planned = planned_with(cells, split, tmp_path / "c")
    (note,) = planned.notes
    assert f"learnt from {len(split.train)} real images, without their labels" in note
    assert "images without their labels" in planned.knew["mixed"]


def test_references_are_of_the_real_arms(cells, others, split, tmp_path):
    lineage = {"split_digest": split.digest, "dataset_fingerprint": split.dataset}
    labels = dict(zip(cells.ids, cells.labels, strict=True))
    shots = {i for ids in n_shot(split, labels=labels, shots=3, seed=0).values() for i in ids}
    foreign = next(i for i in split.train if i not in shots)
    publish(tmp_path / "c", others, reference_ids=[foreign], **lineage)
    with pytest.raises(DataError, match=rf"drawn from 1 real images, 1 of .* such as '{foreign}'"):
        planned_with(cells, split, tmp_path / "c")


def test_what_a_base_knows_of_other_images_is_said(cells, others, split, tmp_path):
    base = find_generator("wbc-base")
    lineage = {"split_digest": split.digest, "dataset_fingerprint": split.dataset}
    publish(tmp_path / "c", others, base_model_id=base.model_id, **lineage)
    (note,) = planned_with(cells, split, tmp_path / "c").notes  # its digests were compared
    assert note.startswith(
        f"model wbc-base ({base.model_id}) knows 15080 images of another dataset"
    )


def test_who_knew_what_says_how_many_images_a_base_learnt(cells, others, split, tmp_path):
    base = find_generator("wbc-base")
    fingerprint = base.manifest["dataset_fingerprint"]
    publish(tmp_path / "c", others, model_id=base.model_id, dataset_fingerprint=fingerprint)
    told = planned_with(cells, split, tmp_path / "c").knew["mixed"]
    assert told.endswith("what wbc-base learnt of 15080 images")


def test_a_class_may_be_left_out(cells, split, uri, tmp_path):
    planned = planned_with(cells, split, uri, without=["monocyte"])
    for unit in planned.units:
        assert unit.manifest.class_names == tuple(n for n in cells.class_names if n != "monocyte")
        named = {i.split("/")[0] for i in (*unit.val, *unit.test, *real_ids(planned))}
        assert "monocyte" not in named
    assert all(image.class_name != "monocyte" for image in planned.pool.images)
    report = run_study(planned, tmp_path, execute_ridge)
    assert "monocyte" not in report.class_names
    with pytest.raises(ConfigError, match="there is no class 'cat'"):
        planned_with(cells, split, uri, without=["cat"])


def test_too_few_images_of_a_class_come_with_numbers_and_a_way_out(cells, split, uri):
    arms = {**ARMS, "mixed": {"design": "add", "per_class": 99}}
    with pytest.raises(DataError, match="arm 'mixed': too few synthetic images of ") as caught:
        planned_with(cells, split, uri, arms=arms)
    assert "80 of 'basophil'" in caught.value.remedy
    assert "at most --set arms.mixed.per_class=19" in caught.value.remedy
    assert "without=[" in caught.value.remedy
    few = {**ARMS, "mixed": {"design": "ratio", "ratio": 9}}
    with pytest.raises(DataError, match="basophil") as caught:
        planned_with(cells, split, uri, arms=few)
    assert "arms.mixed.ratio=6.33" in caught.value.remedy


def test_classes_that_no_real_image_has_are_counted_with_what_leaves_them_out():
    told = {"soft_label": [1.0], "reference_ids": [], "model_id": "m", "split_digest": None}
    told |= {"dataset_fingerprint": None, "base_model_id": None}
    names = ["a", "x", "x", "y's", "b"]
    rows = [
        {**told, "image_id": str(n), "class_name": c, "class_names": [c]}
        for n, c in enumerate(names)
    ]
    choice = parse_config(SyntheticChoice, {"where": "seed > 1"}, where="test")
    with pytest.raises(DataError, match=r"'x' \(2 images\), \"y's\" \(1 images\)") as caught:
        pool_of(rows, choice, ["a", "b"], version=1)
    typed = shlex.split(caught.value.remedy.partition(": ")[2].partition(";")[0])
    assert typed == ["--set", "synthetic.where=class_name IN ('a', 'b') AND (seed > 1)"]
    mapped = parse_config(SyntheticChoice, {"classes": {"x": "a", "y's": "b"}}, where="test")
    assert len(pool_of(rows, mapped, ["a", "b"], version=1).images) == 5


def test_keys_that_studies_learnt_later_rename_no_older_study():
    was = "730e87c399ce3bfb3e8058da89032b03"  # of the default of the first version
    assert load_config(StudyConfig, "evaluate_finetuned").digest == was
    old = load_config(StudyConfig, "evaluate_finetuned").model_dump(mode="json")
    old["shots_seed"] = 42
    later = {"equal_information", "without", "gpus_per_training", *LATER}
    kept = {key: value for key, value in old.items() if key not in later}
    kept["arms"] = {
        name: {key: value for key, value in arm.items() if key not in LATER_OF_ARMS}
        for name, arm in old["arms"].items()
    }
    assert digest(kept) == was


def test_an_image_drawn_from_a_test_image_is_refused(cells, others, split, tmp_path):
    lineage = {"split_digest": split.digest, "dataset_fingerprint": split.dataset}
    publish(tmp_path / "c", others, reference_ids=[split.test[0]], **lineage)
    inputs = Inputs(dataset=cells, splits=(split,), catalog=Catalog(tmp_path / "c"))
    with pytest.raises(DataError, match=f"references saw {split.test[0]}"):
        plan_study(config(), inputs)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"synthetic": {"classes": {"monocyte": "nobody"}}}, ConfigError, "leads to 'nobody'"),
        ({"synthetic": {"where": "nothing = 1"}}, CatalogError, "nothing"),
        ({"arms": {**ARMS, "mixed": {"design": "add", "per_class": 99}}}, DataError, "too few"),
        ({"shots": 50}, DataError, "50 shots of class"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_trained(
    cells, split, uri, changes, error, message
):
    with pytest.raises(error, match=message):
        plan_study(config(**changes), Inputs(dataset=cells, splits=(split,), catalog=Catalog(uri)))


def test_a_study_needs_a_control_and_a_catalog(cells, split):
    with pytest.raises(ConfigError, match="a control is needed"):
        config(arms={n: {"design": "add", "per_class": 1} for n in ("a", "b")})
    with pytest.raises(ConfigError, match="no catalog has them"):
        plan_study(config(), Inputs(dataset=cells, splits=(split,)))


def test_the_command_trains_tests_and_reports(cells, split, tmp_path):
    split.save(tmp_path / "split.json")
    made = config(arms={"plain": {"design": "real"}, "even": {"design": "oversample"}})
    (tmp_path / "study.yaml").write_text(to_yaml(made))
    data = f"smear:100?seed=4&size={SIZE_PX}"
    arguments = ["--config", str(tmp_path / "study.yaml"), "--data", data, "--without-ray"]
    places = ["--split", str(tmp_path / "split.json"), "--output", str(tmp_path / "out")]
    done = CliRunner().invoke(evaluate, [*arguments, *places, "--set", "learner.steps=2"])
    assert done.exit_code == 0, done.output
    told = done.output.splitlines()
    assert told[0] == "2 arms x 1 fold x 2 seeds; tested on 20 real images of 4 groups"
    assert "hardly be told from chance" in told[1]
    assert told[2] == "without --split, five folds would test on all 100 images"
    assert "warmup_steps 20 is longer than the training (2 steps)" in told[3]
    assert told[4] == "4 trainings, 0 of them finished before"
    assert told[5].startswith("about ")
    assert told[-1] == f"page: {tmp_path / 'out' / 'report.html'}"
    assert Path(told[-1].removeprefix("page: ")).is_file()
    (floor,) = (line for line in told if line.startswith("majority class"))
    assert not any("|" in line or line.startswith(("#", "- ")) for line in told), done.output
    heads = told[told.index(floor) - 1]
    assert heads.rindex("AUC") + 3 >= len(floor)
    again = CliRunner().invoke(evaluate, [*arguments, *places, "--set", "learner.steps=2"])
    assert "4 trainings, 4 of them finished before" in again.output


def test_few_images_are_divided_into_folds_which_are_kept(cells, tmp_path, monkeypatch):
    made = config(arms={"plain": {"design": "real"}, "even": {"design": "oversample"}}, seeds=[0])
    (tmp_path / "study.yaml").write_text(to_yaml(made))
    arguments = ["--config", str(tmp_path / "study.yaml"), "--set", "learner.steps=2"]
    arguments += ["--data", f"smear:100?seed=4&size={SIZE_PX}", "--without-ray"]
    arguments += ["--output", str(tmp_path / "out")]
    done = CliRunner().invoke(evaluate, arguments)
    assert done.exit_code == 0, done.output
    assert "2 arms x 5 folds x 1 seed; tested on 100 real images of 20 groups" in done.output
    kept = [load_split(path) for path in sorted((tmp_path / "out" / "splits").iterdir())]
    assert kept == folds(cells, 0)
    monkeypatch.setattr(outset, "FEW_IMAGES", 100)
    assert len(own_splits(made, cells, None, tmp_path / "large")) == 1


def test_a_generator_that_learnt_from_these_images_wants_its_split(cells, uri, tmp_path):
    with pytest.raises(ConfigError, match=r"model model-a learnt from the train part of split"):
        own_splits(config(), cells, Catalog(uri), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_release_is_studied_as_it_was_released(cells, others, split, tmp_path):
    uri = tmp_path / "catalog"
    publish(uri, others, split_digest=split.digest, dataset_fingerprint=split.dataset)
    where = "recipe_index >= 20"
    create_release(uri, "late", where=where, now=NOW, code_version="0.1.0")
    split.save(tmp_path / "split.json")
    (tmp_path / "study.yaml").write_text(to_yaml(config(synthetic={"where": "recipe_index < 90"})))
    arguments = ["--config", str(tmp_path / "study.yaml"), "--without-ray"]
    arguments += ["--data", f"smear:100?seed=4&size={SIZE_PX}", "--catalog", str(uri)]
    arguments += ["--split", str(tmp_path / "split.json"), "--output", str(tmp_path / "out")]
    arguments += ["--release", "late", "--set", "learner.steps=2"]
    done = CliRunner().invoke(evaluate, arguments)
    assert done.exit_code == 0, done.output
    chosen = load_config(StudyConfig, tmp_path / "out" / "study.yaml").synthetic
    pool = read_pool(Catalog(uri), chosen, cells.class_names)
    assert len(pool.images) == 70
    assert sql(Catalog(uri), "SELECT catalog_version FROM evaluations").to_pylist() == [
        {"catalog_version": 1}
    ]
    refused = CliRunner().invoke(evaluate, [*arguments, "--version", "1"])
    assert "--release beside --version" in str(refused.exception)


@pytest.mark.ray
@pytest.mark.slow
def test_ray_gives_what_this_process_gives(local_ray, cells, split, uri, tmp_path):
    made = config(arms={n: ARMS[n] for n in ("real", "mixed")})
    planned = plan_study(made, Inputs(dataset=cells, splits=(split,), catalog=Catalog(uri)))
    here = run_study(planned, tmp_path / "here", execute_here)
    there = run_study(planned, tmp_path / "there", execute_on_ray)
    assert here.to_json() == there.to_json()
