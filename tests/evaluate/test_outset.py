"""What is said before a study trains: what it can show, and how long it takes."""

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from factory.evaluate import tasks
from factory.evaluate.arms import Manifest, Row
from factory.evaluate.compare import compare
from factory.evaluate.config import Classifier
from factory.evaluate.outset import detectable_points, expected_seconds, of_one_group
from factory.evaluate.scores import confusion_rows, macro_f1, tally
from factory.evaluate.units import Material, Result, Unit


@pytest.mark.parametrize(
    ("counts", "num_folds", "points"),
    [
        ((4, 4, 3, 3, 3), 1, 32),  # of 175 cells, a test part of a tenth
        ((35,) * 5, 5, 13),  # the same cells in five folds
        ((3000,) * 5, 5, 1),
        ((1, 1), 3, 100),
    ],
)
def test_what_a_study_can_show_follows_from_its_test_images(counts, num_folds, points):
    tested = Counter({str(number): count for number, count in enumerate(counts)})
    assert detectable_points(tested, num_folds=num_folds) == pytest.approx(points, abs=1)


def test_draws_of_the_shots_cost_power_and_more_of_them_give_it_back():
    tested = Counter({str(number): 60 for number in range(8)})
    none, few, many = (detectable_points(tested, num_folds=1, draws=d) for d in (None, 5, 100))
    assert none < many < few


def test_few_patients_show_less_than_many_images():
    tested = Counter(a=60, b=60)
    one, four = (detectable_points(tested, num_folds=1, num_groups=n) for n in (None, 4))
    assert four > 1.3 * one


def test_a_difference_as_large_as_was_said_is_found_in_four_of_five_studies():
    rng = np.random.Generator(np.random.Philox(11))
    tested = Counter(a=60, b=60)
    share = detectable_points(tested, num_folds=1) / 100
    found = 0
    for _ in range(300):
        labels = np.repeat([0, 1], 60)
        one = np.where(rng.random(120) < 0.1 + share / 2, 1 - labels, labels)  # errors of the other
        two = np.where(rng.random(120) < 0.1 - share / 2, 1 - labels, labels)
        tallies = [
            {(0, s): tally([str(i) for i in range(120)], confusion_rows(labels, said, 2))
             for s in range(2)}
            for said in (two, one)
        ]  # fmt: skip
        comparison = compare(*tallies, macro_f1)
        found += comparison.difference.low > 0
    assert 0.65 <= found / 300 <= 0.95


@pytest.mark.parametrize(
    ("groups", "num_folds", "alone"),
    [(("a", "a", "b", "b"), 1, False), (("a",) * 4, 1, True), (("a",) * 4, 2, True),
     (("a",) * 4, 3, False)],
)  # fmt: skip
def test_test_images_of_one_patient_are_told_before_anything_trains(groups, num_folds, alone):
    ids = tuple("wxyz")
    units = [SimpleNamespace(fold=fold, test=ids) for fold in range(num_folds)]
    assert of_one_group(units, SimpleNamespace(groups=groups, index_of=ids.index)) is alone


def test_time_is_told_from_a_few_steps(monkeypatch):
    unit = Unit(
        learner=Classifier(steps=300, batch_size=10, validate_every=100),
        manifest=Manifest(
            arm="a",
            class_names=("x", "y"),
            rows=(Row(id="1", synthetic=False, soft_label=(1.0, 0.0)),),
            augment=False,
        ),
        fold=0,
        seed=0,
        split_digest="s",
        val=("v",) * 30,
        test=("t",) * 60,
    )
    asked = []

    def run(short, material):
        asked.append(short.learner.steps)
        assert short.test == ()
        passes = 3 * 10 * short.learner.steps + 2 * 30
        return Result(unit_id="", best_step=0, seconds=0.01 * passes, val={}, test={}, said=())

    monkeypatch.setattr(tasks, "run_unit", run)
    material = Material(
        class_names=("x", "y"), images=np.empty(0), position={}, labels={}, groups={}
    )
    whole = 0.01 * (3 * 10 * 300 + (3 + 1) * 30 + 60)
    assert expected_seconds([unit, replace(unit, seed=1)], material) == pytest.approx(2 * whole)
    assert asked == [1, 2]
    monkeypatch.setattr("factory.evaluate.outset.PATIENCE_SECONDS", 0.1)
    assert expected_seconds([unit], material, threads=1) == pytest.approx(whole)
    assert asked == [1, 2, 1]
