from collections import Counter

import pytest
from pydantic import TypeAdapter

from factory.errors import ConfigError, DataError
from factory.evaluate.arms import Drawn, Manifest, Stock
from factory.evaluate.designs import Design
from factory.evaluate.rows import make_arms

NAMES = ("eosinophil", "lymphocyte", "monocyte")
HELD = {"eosinophil": 2, "lymphocyte": 7, "monocyte": 4}
REAL = {f"{name}/{i}": name for name, count in HELD.items() for i in range(count)}


def drawn(name: str, number: int) -> Drawn:
    return Drawn(
        id=f"drawn-{name}-{number}",
        class_name=name,
        soft_label=tuple(0.8 if own == name else 0.1 for own in NAMES),
        reference_ids=(f"{name}/{number % HELD[name]}",),
    )


DRAWN = [drawn(name, i) for name in NAMES for i in range(20)]


def arms(seed: int = 0, images: list[Drawn] = DRAWN, **designs: object) -> dict[str, Manifest]:
    kinds = {n: TypeAdapter(Design).validate_python(d) for n, d in designs.items()}
    return make_arms(kinds, Stock(class_names=NAMES, real=REAL, drawn=images, seed=seed))


def synthetic(made: Manifest) -> dict[str, int]:
    found = Counter(row.id.split("-")[1] for row in made.rows if row.synthetic)
    return {name: found[name] for name in NAMES}


@pytest.mark.parametrize(
    ("design", "counts", "real"),
    [
        ({"design": "real"}, (2, 7, 4), 13),
        ({"design": "oversample"}, (7, 7, 7), 21),
        ({"design": "synthetic"}, (20, 20, 20), 0),
        ({"design": "synthetic", "per_class": 5}, (5, 5, 5), 0),
        ({"design": "add", "per_class": 10}, (12, 17, 14), 13),
        ({"design": "add", "per_class": 3, "quota": {"monocyte": 0}}, (5, 10, 4), 13),
        ({"design": "top_up", "to": 5}, (5, 7, 5), 13),
        ({"design": "top_up", "to": 5, "cut": True}, (5, 5, 5), 11),
        ({"design": "ratio", "ratio": 1.5}, (5, 18, 10), 13),
        ({"design": "ratio", "ratio": None}, (4, 14, 8), 13),
        ({"design": "per_reference", "alpha": 1, "r": 2}, (6, 21, 12), 13),
        ({"design": "per_reference", "alpha": 0, "r": 2}, (2, 7, 4), 13),
    ],
)
def test_a_design_has_the_rows_that_it_names(design, counts, real):
    made = arms(it=design)["it"]
    assert tuple(made.counts.values()) == counts
    assert made.num_real == real
    assert len(made.rows) == sum(counts)


def test_the_duplicate_control_has_as_many_rows_of_each_class_and_no_synthetic_one():
    made = arms(
        twin={"design": "duplicate", "like": "more"}, more={"design": "add", "per_class": 9}
    )
    assert list(made) == ["twin", "more"]
    assert made["twin"].counts == made["more"].counts
    assert made["twin"].num_synthetic == 0
    repeats = Counter(row.id for row in made["twin"].rows if row.id.startswith("eosinophil"))
    assert sorted(repeats.values()) == [5, 6]


def test_larger_arms_hold_the_smaller_ones_and_another_seed_chooses_anew():
    few, many = (arms(it={"design": "add", "per_class": n})["it"] for n in (3, 8))
    assert set(few.rows) < set(many.rows)
    other = arms(seed=1, it={"design": "add", "per_class": 3})["it"]
    assert other.counts == few.counts
    assert other.digest != few.digest


def test_real_rows_are_certain_and_synthetic_ones_keep_label_and_weight():
    made = arms(it={"design": "add", "per_class": 1, "synthetic_weight": 0.25})["it"]
    rows = {row.synthetic: row for row in made.rows if "monocyte" in row.id}
    assert (rows[False].soft_label, rows[False].weight) == ((0, 0, 1), 1)
    assert (rows[True].soft_label, rows[True].weight) == ((0.1, 0.1, 0.8), 0.25)


def test_hard_labels_are_the_likeliest_class_and_change_nothing_else():
    soft, hard = (
        arms(it={"design": "add", "per_class": 3, "hard_labels": h})["it"] for h in (False, True)
    )
    assert [row.id for row in soft.rows] == [row.id for row in hard.rows]
    assert all(sorted(row.soft_label) == [0, 0, 1] for row in hard.rows)
    likeliest = [
        [r.soft_label.index(max(r.soft_label)) for r in made.rows] for made in (soft, hard)
    ]
    assert likeliest[0] == likeliest[1]
    assert soft.digest != hard.digest


def test_images_made_from_a_real_one_come_with_it():
    made = arms(it={"design": "per_reference", "alpha": 0.5, "r": 1})["it"]
    references = {d.id: d.reference_ids[0] for d in DRAWN}
    used = [references[row.id] for row in made.rows if row.synthetic]
    assert 0 < len(used) < 13
    assert len(set(used)) == len(used)
    most = arms(it={"design": "per_reference", "alpha": 0.9, "r": 1})["it"]
    assert set(used) <= {references[row.id] for row in most.rows if row.synthetic}


@pytest.mark.parametrize(
    ("designs", "error", "message"),
    [
        ({"it": {"design": "add", "per_class": 21}}, DataError, r"'eosinophil' \(20 of 21\)"),
        ({"it": {"design": "duplicate", "like": "that"}}, ConfigError, "'that', which is no other"),
        ({"it": {"design": "per_reference", "alpha": 1, "r": 4}}, DataError, "fewer than 4"),
    ],
)
def test_what_cannot_be_made_is_refused_with_the_reason(designs, error, message):
    with pytest.raises(error, match=message):
        arms(**designs)


def test_a_ratio_goes_as_far_as_the_rarest_drawn_class_and_says_where_there_is_none():
    few = [d for d in DRAWN if d.class_name != "lymphocyte" or d.id < "drawn-lymphocyte-12"]
    assert len(few) == 44  # 4 lymphocytes, for 7 real ones
    made = arms(images=few, it={"design": "ratio", "ratio": None})["it"]
    assert tuple(made.counts.values()) == (4, 11, 7)  # 4 of 7: so many of 2 and of 4, rounded up
    none = [d for d in DRAWN if d.class_name != "monocyte"]
    with pytest.raises(DataError, match=r"images of 'monocyte' \(0 of 1\)\.") as caught:
        arms(images=none, it={"design": "ratio", "ratio": None})
    assert "ask for less" not in caught.value.remedy
    assert "'without=[monocyte]'" in caught.value.remedy


def test_a_class_without_real_images_is_refused():
    stock = Stock(class_names=NAMES, real={"monocyte/0": "monocyte"})
    with pytest.raises(DataError, match="no real training image of eosinophil, lymphocyte"):
        make_arms({"real": TypeAdapter(Design).validate_python({"design": "real"})}, stock)
