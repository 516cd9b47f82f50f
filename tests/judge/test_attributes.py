"""Attribute prompts: which contrasts can be judged, and what the judgement says."""

import numpy as np

from factory.judge.attributes import MIN_IMAGES, agreement, colour_quantiles, find_contrasts
from factory.measure.features import turned
from factory.measure.real_features import RealPart
from factory.models.prompts import PromptGrammar

GRAMMAR = PromptGrammar(
    subject="{size} {class_name}",
    phrases=("{granule} granules", "{stage} stage"),
    words={"stage": {"early": "", "late": "late"}},
)


def held_out(*rows: tuple[str, str, str, str, int]) -> RealPart:
    """Cells (class, size, granule, stage, count); size shows in feature 0, class in feature 1."""
    labels, facts, features = [], [], []
    rng = np.random.default_rng(0)
    for label, size, granule, stage, count in rows:
        labels += [label] * count
        facts += [{"size": size, "granule": granule, "stage": stage}] * count
        means = [2.0 if size == "big" else -2.0, 3.0 if label == "monocyte" else -3.0]
        features.append(rng.standard_normal((2, count, 6)) + np.array([*means, 0, 0, 0, 0]))
    turns = np.concatenate(features, axis=1).astype(np.float32)
    ids = [f"cell-{i}" for i in range(len(labels))]
    return RealPart(ids=ids, labels=labels, facts=facts, turns=turns)


CELLS = held_out(
    ("monocyte", "big", "no", "early", 40),
    ("monocyte", "small", "no", "late", 30),
    ("neutrophil", "big", "pink", "late", 60),
    ("neutrophil", "small", "pink", "early", MIN_IMAGES - 1),
)


def test_a_contrast_needs_two_common_values_within_a_class() -> None:
    (found,) = find_contrasts(CELLS, {"any": CELLS.turns}, GRAMMAR)
    assert (found.attribute, found.class_name, found.values) == (
        "size",
        "monocyte",
        ("big", "small"),
    )
    assert found.prompts == ("a big monocyte", "a small monocyte")
    assert found.real.value > 0.9
    assert found.real.n == 70


def test_the_contrast_that_the_judge_tells_best_is_kept() -> None:
    cells = held_out(
        ("monocyte", "big", "no", "early", 40),
        ("monocyte", "small", "no", "late", 30),
        ("neutrophil", "big", "pink", "late", 60),
        ("neutrophil", "small", "pink", "early", 20),
    )
    monocytes = [i for i, label in enumerate(cells.labels) if label == "monocyte"]
    cells.turns[:, monocytes, 0] = 0  # their size no longer shows
    (found,) = find_contrasts(cells, {"any": cells.turns}, GRAMMAR)
    assert found.class_name == "neutrophil"


def test_the_space_in_which_the_values_show_is_kept() -> None:
    noise = np.random.default_rng(1).standard_normal(CELLS.turns.shape).astype(np.float32)
    (found,) = find_contrasts(CELLS, {"noise": noise, "shown": CELLS.turns}, GRAMMAR)
    assert found.space == "shown"


def test_agreement_is_the_share_of_images_that_show_what_was_asked() -> None:
    (found,) = find_contrasts(CELLS, {"any": CELLS.turns}, GRAMMAR)
    obeyed = (CELLS.turns[:, :30], CELLS.turns[:, 40:70])
    assert agreement(found, obeyed).low > 0.8
    assert agreement(found, (obeyed[1], obeyed[0])).high < 0.2
    deaf = agreement(found, (obeyed[0], obeyed[0]))
    assert deaf.low < 0.5 < deaf.high
    assert deaf.n == 60


def test_unannotated_cells_are_left_out() -> None:
    bare = RealPart(
        ids=CELLS.ids, labels=CELLS.labels, facts=[{} for _ in CELLS.ids], turns=CELLS.turns
    )
    assert find_contrasts(bare, {"any": bare.turns}, GRAMMAR) == []
    assert find_contrasts(CELLS, {"any": CELLS.turns}, PromptGrammar()) == []


def test_a_plain_image_has_its_colour_as_every_quantile() -> None:
    plain = np.full((1, 16, 16, 3), (200, 90, 40), np.uint8)
    found = colour_quantiles(plain).reshape(6, 19)
    assert np.array_equal(found, np.repeat([[200], [90], [40], [110], [160], [50]], 19, axis=1))


def test_turns_do_not_matter_and_the_border_does_not_count() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    found = colour_quantiles(images)
    assert found.shape == (3, 114)
    for number in range(8):
        assert np.allclose(colour_quantiles(turned(images, number)), found, atol=1e-4)
    images[:, :12] = 0
    assert np.array_equal(colour_quantiles(images), found)
    images[:, 12:20] = 0
    assert not np.array_equal(colour_quantiles(images), found)
