import numpy as np
import pytest
from sklearn import metrics

from factory.evaluate.scores import (
    accuracy,
    balanced_accuracy,
    confusion_rows,
    image_dice,
    image_iou,
    macro_f1,
    majority_rate,
    mask_rows,
    one_against_rest_auc,
    pooled_dice,
    pooled_iou,
    recalls,
    tally,
)

RNG = np.random.Generator(np.random.Philox(3))
LABELS = RNG.integers(4, size=90)
SAID = np.where(RNG.random(90) < 0.6, LABELS, RNG.integers(4, size=90))


def test_scores_are_those_of_scikit_learn():
    sums = confusion_rows(LABELS, SAID, 4).sum(axis=0)
    assert sums.reshape(4, 4).tolist() == metrics.confusion_matrix(LABELS, SAID).tolist()
    assert accuracy(sums) == pytest.approx(metrics.accuracy_score(LABELS, SAID))
    assert balanced_accuracy(sums) == pytest.approx(metrics.balanced_accuracy_score(LABELS, SAID))
    assert macro_f1(sums) == pytest.approx(metrics.f1_score(LABELS, SAID, average="macro"))
    expected = metrics.recall_score(LABELS, SAID, average=None)
    assert recalls(sums) == pytest.approx(expected)
    chances = RNG.dirichlet(np.ones(4), size=90)
    theirs = metrics.roc_auc_score(LABELS, chances, multi_class="ovr")
    assert one_against_rest_auc(LABELS, chances) == pytest.approx(theirs)


def test_a_class_that_a_fold_lacks_leaves_every_score_defined():
    kept = LABELS != 2
    sums = confusion_rows(LABELS[kept], SAID[kept], 4).sum(axis=0)
    names = [0, 1, 3]
    theirs = metrics.f1_score(LABELS[kept], SAID[kept], labels=names, average="macro")
    assert macro_f1(sums) == pytest.approx(theirs)
    assert np.isnan(recalls(sums)).tolist() == [False, False, True, False]
    assert 0 < balanced_accuracy(sums) < 1
    chances = RNG.dirichlet(np.ones(4), size=kept.sum())
    assert one_against_rest_auc(LABELS[kept], chances) is not None
    assert one_against_rest_auc(np.zeros(5, np.int64), chances[:5]) is None


def test_a_tally_keeps_groups_together_and_its_sum_is_the_whole():
    rows = confusion_rows(LABELS, SAID, 4)
    made = tally([f"slide-{i // 9}" for i in range(90)], rows)
    assert len(made.groups) == 10
    assert made.score(macro_f1) == pytest.approx(float(macro_f1(rows.sum(axis=0))))


def test_masks_are_scored_by_image_and_pooled():
    wanted, found = np.zeros((3, 8, 8), np.uint8), np.zeros((3, 8, 8), np.uint8)
    wanted[0, :4], found[0, 2:6] = 2, 1  # half of each in both
    wanted[1, :1] = 1  # missed
    sums = mask_rows(found, wanted).sum(axis=0)  # the third: both empty
    assert image_dice(sums) == pytest.approx((0.5 + 0 + 1) / 3)
    assert image_iou(sums) == pytest.approx((1 / 3 + 0 + 1) / 3)
    assert pooled_dice(sums) == pytest.approx(2 * 16 / (32 + 40))
    assert pooled_iou(sums) == pytest.approx(16 / (32 + 40 - 16))


def test_the_floor_names_the_most_frequent_training_class_everywhere():
    floor = majority_rate(("a", "b", "c"), np.array([1, 1, 0]), np.array([0, 1, 1, 0, 1]))
    assert (floor.class_name, floor.accuracy, floor.balanced_accuracy) == ("b", 0.6, 0.5)
    assert floor.macro_f1 == pytest.approx((2 * 3 / (3 + 5)) / 2)
