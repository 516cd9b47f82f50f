"""What an arm of a probe does with images that are not its own: colours, stages, selection."""

from dataclasses import replace

import numpy as np
import pytest

from factory.config import load_config, parse_config
from factory.errors import ConfigError
from factory.evaluate import backbones
from factory.evaluate.arms import AS_MANY, Manifest, Row, Ways, share_of
from factory.evaluate.backbones import COLOURS
from factory.evaluate.config import Probe, StudyConfig, plain
from factory.evaluate.derived import coloured, round_trip
from factory.evaluate.designs import WAYS
from factory.evaluate.head import STRENGTHS, Examples, Space, fit_head, stacked_space
from factory.evaluate.material import of_probe
from factory.evaluate.probe import chances_of, fit_probe, selected
from factory.evaluate.tasks import metrics
from factory.evaluate.units import Material
from factory.models.config import ExpertSpec
from factory.models.expert_file import save_expert
from factory.models.experts import build_expert
from factory.real.dataset import RealDataset
from factory.real.sources import open_dataset
from factory.search.config import SweepConfig

SETTINGS = Probe(backbone=COLOURS, size_px=16, turns=2, tta=2, varied=2, strength=1.0)
TINT = np.array([0.8, 0.95, 0.6])


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    monkeypatch.setenv(backbones.KEPT, str(tmp_path / "features"))


@pytest.fixture(scope="module")
def others() -> RealDataset:
    return open_dataset("smear:60?seed=9&size=16")


def labelled(name: str, names: tuple[str, ...]) -> tuple[float, ...]:
    return tuple(float(name == own) for own in names)


def arm(cells: RealDataset, others: RealDataset, ways: Ways, *, real: int = 3) -> Manifest:
    """So many real cells of each class, and all others, as if they were drawn."""
    names, rows = cells.class_names, []
    for name in names:
        own = [i for i, label in zip(cells.ids, cells.labels, strict=True) if label == name]
        label = labelled(name, names)
        rows += [Row(id=i, synthetic=False, soft_label=label, weight=0.01) for i in own[:real]]
    rows += [
        Row(id=f"drawn/{i}", synthetic=True, soft_label=labelled(label, names))
        for i, label in zip(others.ids, others.labels, strict=True)
    ]
    return Manifest(arm="a", class_names=names, rows=tuple(rows), augment=True, ways=ways)


def tinted(images: np.ndarray) -> np.ndarray:
    return np.rint(images * TINT).astype(np.uint8)


def material_of(cells: RealDataset, others: RealDataset) -> Material:
    """The others come from a microscope with another lamp and stain."""
    ids = [*cells.ids, *(f"drawn/{i}" for i in others.ids)]
    return Material(
        class_names=cells.class_names,
        images=np.concatenate([cells.array(16), tinted(others.array(16))]),
        position={i: n for n, i in enumerate(ids)},
        labels=dict(zip(cells.ids, cells.labels, strict=True)),
        groups=dict(zip(cells.ids, cells.groups, strict=True)),
    )


def score(manifest: Manifest, settings: Probe, cells: RealDataset, others: RealDataset) -> float:
    held = [i for i in cells.ids if i not in manifest.own]
    material = of_probe(material_of(cells, others), settings, [manifest], frozenset(held))
    head, _ = fit_probe(settings, manifest, material)
    said = chances_of(head, settings, manifest, material, held)
    return metrics(material.class_indices(held), said, material.class_names)["macro_f1"]


@pytest.mark.parametrize("way", ["reinhard", "macenko"])
def test_other_images_are_brought_to_the_colours_of_the_own_all_together(way, others):
    images = others.array(16)
    back = coloured(tinted(images), images, way).astype(np.float64)
    before = np.abs(tinted(images) - images.astype(np.float64)).mean()
    assert np.abs(back - images).mean() < 0.35 * before
    bright = images.mean(axis=(1, 2, 3))
    assert np.corrcoef(back.mean(axis=(1, 2, 3)), bright)[0, 1] > 0.95, "images stay apart"


def test_colours_of_the_shots_make_foreign_images_worth_more(cells, others):
    plain, moved = (
        score(arm(cells, others, Ways(colour=way)), SETTINGS, cells, others)
        for way in (None, "reinhard")
    )
    assert moved > plain + 0.03


def test_a_coloured_image_depends_on_the_real_ones_beside_it(cells, others):
    few, more = (arm(cells, others, Ways(colour="reinhard"), real=n) for n in (2, 3))
    row = few.rows[-1]
    assert few.shown_as(row) != more.shown_as(row)
    assert few.shown_as(few.rows[0]) == (few.rows[0].id,)
    assert few.digest != replace(few, ways=Ways()).digest


def test_views_in_other_stains_join_those_of_drawn_images_alone(cells, others):
    manifest = arm(cells, others, Ways(stain=True))
    material = of_probe(material_of(cells, others), SETTINGS, [manifest], frozenset())
    counts = {row.synthetic: len(material.views_of(row.id)) for row in manifest.rows}
    assert counts == {True: SETTINGS.drawn_turns + SETTINGS.stained, False: 2}


def test_the_second_stage_is_held_to_the_first():
    rng = np.random.Generator(np.random.Philox(0))
    labels = np.eye(3)[np.arange(60) % 3]
    features = rng.standard_normal((60, 40)) + 2 * labels @ rng.standard_normal((3, 40))
    examples = Examples(
        features=features.astype(np.float32),
        labels=labels,
        weights=np.ones(60),
        left_out=np.arange(60) % 4,
    )
    first = fit_head(Probe(), replace(examples, labels=np.roll(labels, 1, axis=1)), 1.0)
    weak, strong = (fit_head(Probe(), examples, c, start=first) for c in (1e-6, 100.0))
    assert weak.slopes == pytest.approx(first.slopes, abs=1e-2 * np.abs(first.slopes).max())
    assert (strong.chances(examples.features).argmax(1) == labels.argmax(1)).all()


def test_a_stacked_head_takes_what_sets_classes_apart_from_the_others(cells, others):
    """They are called in turn: of the wrong class each, yet apart as the own ones are."""
    settings = SETTINGS.model_copy(update={"strength": None})
    given = arm(cells, others, Ways(stacked=True), real=4)
    turned = tuple(
        replace(row, soft_label=(*row.soft_label[1:], row.soft_label[0])) if row.synthetic else row
        for row in given.rows
    )
    stacked, mixed = (
        score(replace(given, rows=turned, ways=ways), settings, cells, others)
        for ways in (Ways(stacked=True), Ways())
    )
    assert stacked > mixed + 0.2
    assert given.digest != replace(given, ways=Ways()).digest


def test_a_head_beside_a_first_one_gives_the_scores_of_its_inputs():
    rng = np.random.Generator(np.random.Philox(1))
    labels = np.eye(3)[np.arange(48) % 3]
    examples = Examples(
        features=rng.standard_normal((48, 40)).astype(np.float32),
        labels=labels,
        weights=rng.uniform(0.5, 2, 48),
        left_out=np.arange(48) % 4,
    )
    first = fit_head(Probe(), replace(examples, labels=np.roll(labels, 1, axis=1)), 1.0)
    space, strength = stacked_space(Probe(), examples, first)
    assert strength in STRENGTHS
    inputs = space.inputs(examples.features)
    shares = examples.weights / examples.weights.sum()
    assert shares @ (inputs[:, :3] ** 2).sum(axis=1) == pytest.approx(1, rel=1e-4)
    scores = examples.features @ first.slopes
    assert np.corrcoef(inputs[:, 0], scores[:, 0])[0, 1] == pytest.approx(1, abs=1e-5)
    head = fit_head(Probe(), examples, strength, space)
    inner = fit_head(Probe(), replace(examples, features=inputs), strength, plain_space(inputs))
    assert head.chances(examples.features) == pytest.approx(inner.chances(inputs), abs=1e-3)


def plain_space(inputs: np.ndarray) -> Space:
    return Space(middle=0 * inputs[0], factor=1.0, axes=np.eye(inputs.shape[1], dtype=np.float32))


def test_agreement_leaves_wrong_labels_out_and_keeps_the_weight(cells, others):
    manifest = arm(cells, others, Ways(select="agree"))
    wrong = {row.id for row in manifest.rows[-60::6]}

    def told(row: Row) -> Row:
        given = (*row.soft_label[1:], row.soft_label[0])
        return replace(row, soft_label=given) if row.id in wrong else row

    manifest = replace(manifest, rows=tuple(map(told, manifest.rows)))
    material = of_probe(material_of(cells, others), SETTINGS, [manifest], frozenset())
    found = selected(SETTINGS, manifest, material)
    kept = {row.id for row in found.rows if row.synthetic}
    assert len(kept & wrong) / len(wrong) < 0.4
    assert len(kept - wrong) / (60 - len(wrong)) > 0.6
    assert sum(row.weight for row in found.rows) == pytest.approx(
        sum(row.weight for row in manifest.rows)
    )
    half = selected(SETTINGS, replace(manifest, ways=Ways(select="uncertain")), material)
    assert len([row for row in half.rows if row.synthetic]) == len(kept) // 2


def test_an_expert_of_other_images_stands_beside_the_backbone(cells, others, tmp_path):
    spec = ExpertSpec(backbone="test_resnet", class_names=("a", "b"), size_px=32)
    folder = tmp_path / "expert"
    save_expert(folder, build_expert(spec, seed=0), val_accuracy=0.5, split_digest="0")
    settings = SETTINGS.model_copy(update={"experts": {"theirs": folder}})
    manifest = arm(cells, others, Ways(expert="theirs"))
    material = of_probe(material_of(cells, others), settings, [manifest], frozenset(cells.ids))
    alone, beside = (material.views_of(cells.ids[0], name) for name in (None, "theirs"))
    assert beside.shape[1] > alone.shape[1]
    assert np.linalg.norm(beside[:, alone.shape[1] :], axis=1) == pytest.approx(1, abs=1e-3)
    assert score(manifest, settings, cells, others) > 0.3


def test_an_autoencoder_shows_what_it_keeps_of_an_image(cells):
    images = open_dataset("smear:2?seed=1&size=64").array(64)
    seen = round_trip(images, "wbc-base").astype(np.float64)
    error = np.sqrt(((seen - images) ** 2).mean())
    assert 1 < error < 40
    manifest = arm(cells, cells, Ways(autoencoder="wbc-base"))
    own, drawn = manifest.rows[0], manifest.rows[-1]
    assert len(manifest.shown_as(own)) == 2
    assert manifest.shown_as(drawn) == (drawn.id,)


def test_who_is_judged_is_seen_through_the_autoencoder_as_well(cells, others):
    manifest = arm(cells, others, Ways(autoencoder="wbc-base"))
    held = [i for i in cells.ids if i not in manifest.own][:3]
    material = of_probe(material_of(cells, others), SETTINGS, [manifest], frozenset(held))
    head, _ = fit_probe(SETTINGS, manifest, material)
    ways = [
        head.chances(np.stack([material.views_of(f"{i}{end}") for i in held])).mean(axis=1)
        for end in ("", "@autoencoder:wbc-base")
    ]
    said = chances_of(head, SETTINGS, manifest, material, held)
    assert np.abs(ways[0] - ways[1]).max() > 1e-4
    assert said == pytest.approx(np.mean(ways, axis=0))


def test_features_around_a_mean_are_looked_at_as_no_image(cells, others):
    manifest = arm(cells, others, Ways())
    label = labelled(cells.class_names[0], cells.class_names)
    around = Row(id="sampled:0", synthetic=False, soft_label=label, made="sampled")
    told = replace(manifest, rows=(*manifest.rows, around))
    held = frozenset(i for i in cells.ids if i not in told.own)
    material = of_probe(material_of(cells, others), SETTINGS, [told], held)
    assert "sampled:0" not in material.position
    assert fit_probe(SETTINGS, told, material)


def test_real_images_count_by_their_number(cells, others):
    shares = [
        share_of("auto", arm(cells, others, Ways(), real=n).rows, len(cells.class_names))
        for n in (1, 4, 16)
    ]
    assert shares == pytest.approx([n / (n + AS_MANY) for n in (1, 4, 16)])
    assert share_of(0.3, (), 5) == 0.3


@pytest.mark.parametrize(
    ("own", "told"),
    [
        ({"expert": "nobody"}, "knows no expert 'nobody'"),
        ({"select": "all"}, "select"),
        ({"stages": ["real", "drawn"]}, "stages"),
        ({"stages": ["drawn", "real"], "stacked": True}, "choose one"),
    ],
)
def test_what_no_probe_can_do_is_refused(own, told):
    arms = {"real": {"design": "real"}, "mixed": {"design": "add", "per_class": 1, **own}}
    with pytest.raises(ConfigError, match=told):
        parse_config(StudyConfig, {"learner": SETTINGS.model_dump(), "arms": arms}, where="test")


def test_a_network_that_is_trained_knows_none_of_these_ways():
    arms = {"real": {"design": "real"}, "mixed": {"design": "add", "per_class": 1, "stain": True}}
    with pytest.raises(ConfigError, match="is for a probe"):
        parse_config(StudyConfig, {"arms": arms}, where="test")


def test_what_arms_and_gates_learnt_later_renames_no_search():
    now = load_config(SweepConfig, "wbc_sweep")
    without = now.generate.model_copy(update={"copies": None})  # as searches hold it from before
    assert now.model_copy(update={"generate": without}).digest == now.digest
    told = plain(now.model_dump(mode="json"))
    assert not WAYS.keys() & {*told["arm"], *told["controls"]["real"]}
