"""Gates on masks: empty, area, parts; and the agreement of a segmenter."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from factory.gate.agreement import AgreementGate
from factory.gate.masks import MaskGates, count_parts, dice, foreground_share

MASK = np.zeros((20, 20), np.uint8)
MASK[2:6, 2:12] = 1  # 40 pixels
MASK[12:14, 12:17] = 2  # 10 pixels

masks = arrays(np.uint8, (5, 5), elements=st.integers(0, 2))


def reasons(gates: MaskGates, mask: np.ndarray = MASK) -> dict[str, str]:
    return {verdict.gate: verdict.reason for verdict in gates.judge(mask)}


def test_scores_are_the_share_and_the_number_of_objects() -> None:
    assert {v.gate: v.score for v in MaskGates().judge(MASK)} == {
        "mask_area": 0.125,
        "mask_parts": 2.0,
    }


def test_an_empty_mask_is_rejected_whatever_the_band() -> None:
    empty = np.zeros((8, 8), np.uint8)
    assert reasons(MaskGates(min_area=None), empty)["mask_area"] == "the mask is empty"


@pytest.mark.parametrize(
    ("gates", "gate", "reason"),
    [
        ({"min_area": 0.2}, "mask_area", "foreground share 0.125 below 0.2"),
        ({"max_area": 0.1}, "mask_area", "foreground share 0.125 above 0.1"),
        ({"max_parts": 1}, "mask_parts", "2 objects, more than 1"),
        ({"max_parts": 2}, "mask_parts", ""),
    ],
)
def test_what_lies_outside_is_rejected_with_its_figure(gates, gate, reason) -> None:
    assert reasons(MaskGates(**gates))[gate] == reason


def test_objects_that_touch_at_a_corner_are_one() -> None:
    assert count_parts(np.eye(4, dtype=np.uint8)) == 1
    assert foreground_share(np.eye(4, dtype=np.uint8)) == 0.25


def test_a_band_the_wrong_way_round_is_refused() -> None:
    with pytest.raises(ValueError, match=r"min_area 0.5 exceeds max_area 0.1"):
        MaskGates(min_area=0.5, max_area=0.1)


@given(masks, masks)
def test_dice_is_symmetric_and_one_only_for_equals(first: np.ndarray, second: np.ndarray) -> None:
    assert dice(first, second) == dice(second, first)
    assert (dice(first, second) == 1) == np.array_equal(first, second)


def test_dice_is_the_mean_over_classes() -> None:
    other = MASK.copy()
    other[12:14, 12:17] = 0
    assert dice(MASK, other) == 0.5
    other[2:6, 2:7] = 0  # half of class 1
    assert dice(MASK, other) == pytest.approx((2 * 20 / 60) / 2)


def test_agreement_is_judged_image_by_image() -> None:
    images = np.zeros((2, 20, 20, 3), np.uint8)
    drawn = np.stack([MASK, MASK.T])
    gate = AgreementGate(segmenter="anywhere", min_dice=0.6)
    agreed = gate.judge(images, drawn, lambda _: np.stack([MASK, MASK]))
    assert [verdict.score == 1 for verdict in agreed] == [True, False]
    assert agreed[0].passed
    assert agreed[1].reason.endswith("with the segmenter, below 0.6")
    scores = AgreementGate(segmenter="anywhere", min_dice=None)
    assert all(v.passed for v in scores.judge(images, drawn, lambda _: np.stack([MASK, MASK])))
