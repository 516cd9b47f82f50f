"""Probes: features computed once, heads fitted in a moment, draws of the shots."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from factory.config import parse_config
from factory.errors import ConfigError, ModelError
from factory.evaluate import backbones
from factory.evaluate.arms import Drawn, source_id
from factory.evaluate.backbones import (
    COLOURS,
    Backbone,
    backbone_name,
    features_of,
    open_backbone,
    seen_as,
    view_names,
)
from factory.evaluate.config import Augmentation, Probe, StudyConfig
from factory.evaluate.head import ALONE, STRENGTHS, Examples, Head, chosen_strength, fit_head
from factory.evaluate.lineage import Known
from factory.evaluate.material import of_probe, with_features
from factory.evaluate.outset import said_first
from factory.evaluate.placement import execute_here
from factory.evaluate.probe import sampled, surest
from factory.evaluate.study import Inputs, Planned, plan_study, plan_units, who_knew
from factory.evaluate.study_drawn import DrawnFigures, measure_drawn
from factory.evaluate.study_html import to_html
from factory.evaluate.study_report import make_report, to_markdown
from factory.evaluate.study_run import announce
from factory.evaluate.study_sheet import look_at
from factory.evaluate.synthetic import EMPTY
from factory.evaluate.units import Material
from factory.measure.copies import measure_privacy
from factory.real.dataset import RealDataset
from factory.real.sources import open_dataset
from factory.real.splits import make_folds

SETTINGS = Probe(backbone=COLOURS, size_px=16, turns=2, tta=2, varied=2, strength=1.0)
ARMS = {
    "real": {"design": "real"},
    "real_all": {"design": "real", "shots": "all"},
    "mixed": {"design": "add", "per_class": 6, "real_share": 0.5},
    "shuffled": {"design": "add", "per_class": 6, "shuffled_labels": True},
    "synthetic": {"design": "synthetic"},
}


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(backbones.KEPT, str(tmp_path / "features"))
    return tmp_path / "features"


def config(**changes: object) -> StudyConfig:
    plain = {"learner": SETTINGS.model_dump(), "arms": ARMS, "shots": 3, "draws": 3, "seeds": [0]}
    return parse_config(StudyConfig, {**plain, **changes}, where="test")


def folds(cells: RealDataset, k: int = 2):
    parts = {"ids": cells.ids, "labels": cells.labels, "groups": cells.groups}
    return make_folds(dataset=cells.fingerprint, k=max(3, k), seed=0, **parts)[:k]


@pytest.fixture(scope="module")
def others() -> RealDataset:
    """More cells of the same kind, as if a generator had drawn them, or another lab had them."""
    return open_dataset("smear:60?seed=9&size=16")


def drawn(cells: RealDataset, others: RealDataset) -> list[Drawn]:
    names = cells.class_names
    return [
        Drawn(id=f"drawn/{i}", class_name=own, soft_label=tuple(float(own == n) for n in names))
        for i, own in zip(others.ids, others.labels, strict=True)
    ]


def material_of(cells: RealDataset, others: RealDataset) -> Material:
    """Both sets, the others as drawn images and as a source's."""
    ids = [*cells.ids, *(f"drawn/{i}" for i in others.ids)]
    ids += [source_id("lab", i) for i in others.ids]
    return Material(
        class_names=cells.class_names,
        images=np.concatenate([cells.array(16), *(2 * [others.array(16)])]),
        position={i: n for n, i in enumerate(ids)},
        labels=dict(zip(cells.ids, cells.labels, strict=True)),
        groups=dict(zip(cells.ids, cells.groups, strict=True)),
    )


def test_features_are_computed_once_for_each_pixels_view_and_backbone(kept, cells):
    asked = []

    def extract(images):
        asked.append(len(images))
        return images.reshape(len(images), -1)[:, :5].astype(np.float32)

    backbone = Backbone(name="fake", digest="f" * 32, extract=extract)
    images, varying = cells.array(16)[:4], Augmentation()
    views = view_names(SETTINGS, turns=2, varied=1)
    first = features_of(backbone, images, [views] * 4, varying)
    again = features_of(backbone, images[::-1].copy(), [views] * 4, varying)
    assert asked == [12]
    assert np.array_equal(first.reshape(4, 3, 5), again.reshape(4, 3, 5)[::-1])
    features_of(backbone, images, [[*views, "turn2"]] * 4, varying)
    features_of(replace(backbone, digest="e" * 32), images[:1], [views], varying)
    assert asked == [12, 4, 3]
    (kept / ("f" * 32) / "broken.safetensors").write_bytes(b"no")
    assert len(features_of(backbone, images, [views] * 4, varying)) == 12
    assert asked == [12, 4, 3]


def test_views_are_turned_or_varied_and_follow_from_pixels(cells):
    images = cells.array(16)[:2]
    assert np.array_equal(seen_as(images, "ab", "turn0", Augmentation()), images)
    assert np.array_equal(seen_as(images, "ab", "turn4", Augmentation())[0], images[0][:, ::-1])
    varied = [seen_as(images, "ab", view, Augmentation()) for view in ("varied0-x", "varied1-x")]
    assert not np.array_equal(*varied)
    assert np.array_equal(varied[0], seen_as(images, "ab", "varied0-x", Augmentation()))


def test_a_backbone_without_weights_is_said_and_one_that_is_asked_for_must_be_there(
    monkeypatch, tmp_path
):
    monkeypatch.setenv("FACTORY_EXTRACTORS", str(tmp_path))
    monkeypatch.setattr(backbones, "CACHE", tmp_path / "none")
    assert backbone_name(Probe()) == COLOURS
    with pytest.raises(ModelError, match=r"test_resnet\.safetensors|no weights"):
        open_backbone(Probe(backbone="test_resnet"))
    with pytest.raises(ConfigError, match="timm knows no backbone"):
        open_backbone(Probe(backbone="no_such_net"))


def test_a_network_of_timm_is_a_backbone(tmp_path):
    import timm
    from safetensors.torch import save_file

    path = tmp_path / "test_resnet.safetensors"
    save_file(timm.create_model("test_resnet", pretrained=False).state_dict(), path)
    backbone = open_backbone(Probe(backbone="test_resnet", weights=path, input_px=32))
    found = backbone.extract(np.zeros((3, 16, 16, 3), np.uint8))
    assert found.shape[0] == 3
    assert np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-4)
    other = open_backbone(Probe(backbone="test_resnet", weights=path, input_px=64))
    assert other.digest != backbone.digest


def blobs(rng, count: int, apart: float) -> Examples:
    labels = np.eye(3)[np.arange(count) % 3]
    features = rng.standard_normal((count, 40)) + apart * labels @ rng.standard_normal((3, 40))
    turns = (np.arange(count) // 3) % 4
    return Examples(
        features=features.astype(np.float32), labels=labels, weights=np.ones(count), left_out=turns
    )


@pytest.mark.parametrize("head", ["logistic", "ridge"])
def test_a_head_tells_classes_apart_and_weights_count_as_repeats(head):
    rng = np.random.Generator(np.random.Philox(0))
    examples = blobs(rng, 60, apart=2.0)
    settings = Probe(head=head)
    fitted = fit_head(settings, examples, 1.0)
    assert (fitted.chances(examples.features).argmax(1) == np.arange(60) % 3).all()
    twice = np.concatenate([np.arange(60), np.arange(20)])
    weights = np.where(np.arange(60) < 20, 2.0, 1.0)
    repeated = replace(examples._at(twice), weights=np.ones(80))
    one, two = (fit_head(settings, e, 1.0) for e in (replace(examples, weights=weights), repeated))
    assert one.slopes == pytest.approx(two.slopes, abs=0.1 * np.abs(one.slopes).max())


def test_strength_is_chosen_on_what_was_left_out():
    rng = np.random.Generator(np.random.Philox(1))
    noise, clear = (chosen_strength(Probe(), blobs(rng, 24, apart)) for apart in (0.0, 2.0))
    assert noise == min(STRENGTHS)
    assert clear > noise
    single = blobs(rng, 3, 1.0)
    assert chosen_strength(Probe(), single) == ALONE


@pytest.fixture(scope="module")
def trained(cells, others):
    made, splits = config(primary="mixed minus real", shots=1), folds(cells, 3)
    units = plan_units(made, cells, splits, [drawn(cells, others)] * len(splits))
    rows = {row.id: row.synthetic for unit in units for row in unit.manifest.rows}
    material = with_features(material_of(cells, others), SETTINGS, rows)
    todo = {unit.id: unit for unit in units}
    results = {r.unit_id: r for r in execute_here(list(todo.values()), material)}
    return made, units, results, material


def test_draws_are_paired_nested_and_trained_once_where_they_are_the_same(trained):
    _made, units, results, _material = trained
    assert len(units) == 3 * 3 * len(ARMS)
    assert len(results) < len(units)  # real_all is the same in every draw
    rows = {
        (u.manifest.arm, u.fold, u.draw): {r.id for r in u.manifest.rows if not r.synthetic}
        for u in units
    }
    assert rows["real", 0, 0] != rows["real", 0, 1]
    assert all(rows["real", *p] == rows["mixed", *p] for p in ((0, 0), (1, 2)))
    weights = [r for u in units if u.manifest.arm == "mixed" for r in u.manifest.rows]
    assert sum(r.weight for r in weights if r.synthetic) == pytest.approx(
        sum(r.weight for r in weights if not r.synthetic)
    )


def test_a_report_of_draws_has_verdict_curve_and_primary(trained):
    made, units, results, material = trained
    report = make_report(made, units, results, material)
    assert report.baselines["mixed"] == "real"  # and not real_all, which holds more
    assert report.findings["mixed"] == "helps"
    assert report.findings["shuffled"] != "helps"
    assert report.primary_verdict.startswith(f"named beforehand ({made.primary_digest}): mixed")
    assert report.to_json()["primary_verdict"] == report.primary_verdict
    reach = report.curve.drawn["mixed"]
    assert reach.labels == 1
    assert reach.worth[1] is None or reach.worth[1] > 1
    assert report.curve.drawn["synthetic"].labels == 0
    text, page = to_markdown(report), to_html(report)
    assert "3 draws of the shots" in text
    assert "real labels per class" in page
    json.dumps(report.to_json(), allow_nan=False)


def test_arms_with_another_lab_s_images_are_bounds_and_need_them(cells, others):
    """Also: no label of an unlabelled image, no image of sampled features."""
    splits, images = folds(cells)[:1], drawn(cells, others)
    arms = {
        "real": {"design": "real"},
        "sampled": {"design": "sampled_features", "per_class": 5},
        "strong": {"design": "real", "strong": True},
        "source": {"design": "source", "source": "lab", "per_class": 4},
        "named": {"design": "self_training", "source": "lab", "per_class": 4},
        "mixed": {"design": "add", "per_class": 6},
    }
    made = config(arms=arms, draws=2)
    with pytest.raises(ConfigError, match="--source lab=URI"):
        plan_units(made, cells, splits, [images])
    other = dict(zip(others.ids, others.labels, strict=True))
    units = plan_units(made, cells, splits, [images], sources={"lab": other})
    assert made.bounds == ("source", "named")
    assert made.mixed == ("mixed",)
    rows = {r.id: r.synthetic or bool(r.made) for u in units for r in u.manifest.rows}
    strong = {r.id for u in units if u.manifest.strong for r in u.manifest.rows}
    material = with_features(material_of(cells, others), SETTINGS, rows, strong=strong)
    assert {len(material.views_of(i)) for i in strong} == {4}
    results = {r.unit_id: r for r in execute_here(units, material)}
    report = make_report(made, units, results, material, knew=who_knew(made, units, EMPTY, Known()))
    assert list(report.comparisons["mixed"]) == [
        "real",
        "sampled",
        "strong",
        "source",
        "named",
    ]
    assert report.baselines["mixed"] in ("real", "sampled", "strong")
    assert report.knew["named"].endswith("20 real images of source 'lab', without their labels")
    assert report.knew["real"] == "3 labelled real images of each class"
    assert {r.soft_label for u in units for r in u.manifest.rows if r.made == "unlabelled"} == {
        (1 / 5,) * 5
    }
    source, real = (np.mean(report.arms[a].test["macro_f1"]) for a in ("source", "real"))
    assert source > real
    assert "Who knew what" in to_html(report)


def test_self_training_keeps_what_a_head_is_surest_of():
    chances = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.3, 0.7], [0.55, 0.45]])
    views = [np.eye(5, dtype=np.float32)[[n, n]] for n in range(5)]
    head = Head(slopes=np.log(chances), offsets=np.zeros(2))
    found = surest(views, head, np.ones(5), keep=0.5)
    assert found.features.argmax(1).tolist() == [0, 0, 1, 1, 2, 2]  # each with its two views
    assert found.labels.argmax(1).tolist() == [0, 0, 0, 0, 1, 1]
    assert found.weights.sum() == pytest.approx(5)


def test_images_whose_label_nobody_told_are_the_rest_of_the_train_part(cells, others):
    arms = {
        "real": {"design": "real", "unlabelled": 0.5},
        "real_all": {"design": "real", "shots": "all", "unlabelled": 0.5},
        "mixed": {"design": "add", "per_class": 6, "real_share": 0.5, "unlabelled": 0.25},
        "drawn": {"design": "synthetic", "unlabelled": 0.5},
    }
    made, splits = config(arms=arms, draws=2), folds(cells)
    units = plan_units(made, cells, splits, [drawn(cells, others)] * 2)
    assert made.controls == ("real", "real_all")
    more = {"plain": {"design": "real"}, "few": {"design": "add", "per_class": 2}}
    plain = config(arms={**arms, **more})
    assert (plain.controls_of("few"), plain.bounds_of("few")) == (("plain",), ("real",))
    assert plain.controls_of("mixed") == ("real", "plain")
    for unit in units:
        own = [row for row in unit.manifest.rows if row.made == "own"]
        told = {row.id for row in unit.manifest.rows if not (row.synthetic or row.made)}
        assert {row.id for row in own} == {*splits[unit.fold].train} - told
        assert not {row.id for row in own} & {*unit.val, *unit.test}
        assert {row.soft_label for row in own} <= {(1 / 5,) * 5}
        weight = sum(row.weight for row in own) / sum(row.weight for row in unit.manifest.rows)
        share = 0.0 if unit.manifest.arm == "real_all" else arms[unit.manifest.arm]["unlabelled"]
        assert weight == pytest.approx(share)
    manifests = list({unit.manifest.digest: unit.manifest for unit in units}.values())
    held = {i for unit in units for i in (*unit.val, *unit.test)}
    material = of_probe(material_of(cells, others), SETTINGS, manifests, held)
    todo = {unit.id: unit for unit in units}
    results = {r.unit_id: r for r in execute_here(list(todo.values()), material)}
    report = make_report(made, units, results, material, knew=who_knew(made, units, EMPTY, Known()))
    assert report.arms["mixed"].num_real == 15
    assert next(u for u in units if u.manifest.arm == "mixed").manifest.counts["monocyte"] == 9
    assert look_at(units, material) is not None
    assert measure_drawn(units, material).num_drawn == 30
    assert report.knew["drawn"].endswith("real images of the train part without a label")
    assert report.knew["real_all"].endswith("labelled real images")
    assert report.curve is None  # no arm of real images alone


def test_sampled_features_spread_as_views_do():
    rng = np.random.Generator(np.random.Philox(3))
    examples = blobs(rng, 90, apart=2.0)
    found = sampled(examples, [0, 1, 2] * 300, [1.0] * 900)
    for k in range(3):
        mine, theirs = (e.features[e.labels[:, k] == 1] for e in (examples, found))
        assert theirs.mean(0) == pytest.approx(mine.mean(0), abs=0.3)
    assert found.features.std(0).mean() == pytest.approx(examples.features.std(0).mean(), rel=0.1)


@pytest.mark.parametrize("copied", [True, False])
def test_copies_of_training_images_stand_beside_the_verdict(trained, cells, others, copied):
    real = cells.array(16)
    learnt, unseen = real[::2], real[1::2]
    figures = DrawnFigures(
        arm="mixed", fold=0, num_drawn=8, diversity={},
        privacy=measure_privacy(learnt[:8] if copied else others.array(16)[:8], learnt, unseen),
    )  # fmt: skip
    text = to_markdown(replace(make_report(*trained), drawn=figures))
    assert ("nearly copies of training images: 100%" in text) is copied
    assert "Compared are" not in text
    many = to_markdown(replace(make_report(*trained), drawn=replace(figures, num_drawn=75_000)))
    assert "Compared are 8 of the 75,000, at even distances." in many


def test_the_primary_comparison_cannot_be_changed_once_it_is_announced(trained, tmp_path, cells):
    made = trained[0]
    planned = Planned(
        config=made,
        inputs=Inputs(dataset=cells, splits=()),
        pool=EMPTY,
        units=(),
        notes=(),
        subgroup_of={},
    )
    told = []
    announce(planned, tmp_path, tell=told.append)
    announce(planned, tmp_path)
    assert told == [f"named beforehand: mixed minus real ({made.primary_digest})"]
    with pytest.raises(ConfigError, match="another primary comparison"):
        announce(replace(planned, config=config(primary="synthetic minus real")), tmp_path)


def test_a_study_of_draws_says_how_many_before_it_begins(cells):
    arms = {"real": {"design": "real"}, "all": {"design": "real", "shots": "all"}}
    planned = plan_study(config(arms=arms), Inputs(dataset=cells, splits=tuple(folds(cells))))
    assert "3 draws of the shots" in said_first(planned)[0]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"primary": "mixed minus nobody"}, "ARM minus ARM"),
        ({"shots": None}, "draws: of which shots"),
        ({"arms": {**ARMS, "none": {"design": "real", "shots": 0}}}, "1 or more"),
    ],
)
def test_what_makes_no_study_is_refused(changes, told):
    with pytest.raises(ConfigError, match=told):
        config(**changes)
