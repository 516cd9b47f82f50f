import json

import pytest
from sklearn.model_selection import StratifiedKFold

from factory.errors import DataError
from factory.real.splits import PARTS, load_split, make_folds, make_split, n_shot, verify_split

IDS = [f"i{n:02d}" for n in range(30)]
LABELS = ["a" if n % 3 else "b" for n in range(30)]
GROUPS = [f"g{n // 2}" for n in range(30)]
ROWS = {"dataset": "d", "ids": IDS, "labels": LABELS, "groups": GROUPS}
FEW = {"train": 0.8, "val": 0.1, "test": 0.1}
SHARES = {"train": 0.6, "val": 0.2, "test": 0.2}


def test_saved_split_is_loaded_equal_and_an_edited_one_refused(tmp_path):
    split = make_split(**ROWS, fractions=SHARES, seed=1)
    path = tmp_path / "split.json"
    split.save(path)
    assert load_split(path) == split
    stored = json.loads(path.read_text())
    stored["train"].append(stored["test"].pop())
    path.write_text(json.dumps(stored))
    with pytest.raises(DataError, match="was changed after it was made"):
        load_split(path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"digest": "x"}', "\x00"])
def test_a_file_that_is_no_split_says_so(tmp_path, text):
    path = tmp_path / "split.json"
    path.write_text(text)
    with pytest.raises(DataError, match="is not a readable split file"):
        load_split(path)


def test_unknown_key_in_a_split_file_is_refused(tmp_path):
    make_split(**ROWS, fractions=SHARES, seed=1).save(tmp_path / "s.json")
    stored = json.loads((tmp_path / "s.json").read_text())
    (tmp_path / "s.json").write_text(json.dumps({**stored, "holdout": []}))
    with pytest.raises(DataError, match="unknown key 'holdout'"):
        load_split(tmp_path / "s.json")


def test_verification_names_what_is_wrong():
    split = make_split(**ROWS, fractions=SHARES, seed=1)
    verify_split(split, dataset="d", ids=IDS, groups=GROUPS)
    with pytest.raises(DataError, match="was made for dataset d, this one is e"):
        verify_split(split, dataset="e", ids=IDS, groups=GROUPS)
    with pytest.raises(DataError, match="disagree on 1 ids, the first is 'i29'"):
        verify_split(split, dataset="d", ids=IDS[:-1], groups=GROUPS[:-1])
    with pytest.raises(DataError, match="group 'all' lies in"):
        verify_split(split, dataset="d", ids=IDS, groups=["all"] * 30)


def test_fractions_must_name_parts_and_sum_to_one():
    nan = float("nan")
    for shares in (
        {"train": 0.5},
        {"train": 0.5, "dev": 0.5},
        {"train": 0.8, "test": 0.3},
        {"train": -1.0, "val": 2.0},
        {"train": nan, "val": 1.0},
    ):
        with pytest.raises(DataError, match="must name"):
            make_split(**ROWS, fractions=shares, seed=0)


def test_six_patients_are_divided_and_the_part_that_lacked_one_takes_the_best_fitting():
    labels = ["a", "b"] * 21
    labels[35:] = ["b"] * 7
    rows = {"dataset": "d", "ids": [f"i{n:02}" for n in range(42)], "labels": labels}
    groups = [f"p{n // 7}" for n in range(42)]
    split = make_split(**rows, groups=groups, fractions=FEW, seed=0)
    assert [len(getattr(split, part)) for part in PARTS] == [28, 7, 7]
    for part in PARTS:  # the patient of one class alone stays where there are others
        assert {labels[int(i[1:])] for i in getattr(split, part)} == {"a", "b"}


def test_a_class_of_which_a_part_got_no_patient_is_shown_there_where_two_stay():
    labels = ["good"] * 42 + ["poor"] * 42
    rows = {"dataset": "d", "ids": [f"i{n:02}" for n in range(84)], "labels": labels}
    groups = [f"p{n // 7}" for n in range(84)]
    for seed in range(5):
        split = make_split(**rows, groups=groups, fractions=FEW, seed=seed)
        for part in PARTS:
            assert {labels[int(i[1:])] for i in getattr(split, part)} == {"good", "poor"}
        assert [len(getattr(split, part)) for part in PARTS] == [56, 14, 14]
    one = [*labels[:77], *["rare"] * 7]  # a patient alone stays where there is most to learn
    split = make_split(**{**rows, "labels": one}, groups=groups, fractions=FEW, seed=0)
    assert {one[int(i[1:])] for i in (*split.val, *split.test)} == {"good", "poor"}


def test_too_few_groups_for_a_part_or_fold_is_an_error():
    one = {**ROWS, "groups": ["all"] * 30}
    with pytest.raises(DataError, match="no group is left for"):
        make_split(**one, fractions=SHARES, seed=0)
    with pytest.raises(DataError, match="folds need"):
        make_folds(**one, k=3, seed=0)


def test_more_shots_than_training_images_names_the_class():
    split = make_split(**ROWS, fractions=SHARES, seed=1)
    with pytest.raises(DataError, match="99 shots of class 'a'"):
        n_shot(split, labels=dict(zip(IDS, LABELS, strict=True)), shots=99, seed=0)


def test_shots_may_be_a_number_for_each_class_and_all_of_the_others():
    split = make_split(**ROWS, fractions=SHARES, seed=1)
    labels = dict(zip(IDS, LABELS, strict=True))
    even = n_shot(split, labels=labels, shots=2, seed=3)
    own = n_shot(split, labels=labels, shots={"a": 2}, seed=3)
    assert own["a"] == even["a"]
    others = {name: {i for i in split.train if labels[i] == name} for name in own if name != "a"}
    assert {name: set(own[name]) for name in others} == others
    with pytest.raises(DataError, match="99 shots of class 'a'"):
        n_shot(split, labels=labels, shots={"a": 99}, seed=0)
    with pytest.raises(DataError, match="shots of class 'z' asked, which has no image"):
        n_shot(split, labels=labels, shots={"z": 1}, seed=0)


def test_part_of_knows_every_id_and_no_other():
    split = make_split(**ROWS, fractions=SHARES, seed=1)
    assert split.part_of(split.val[0]) == "val"
    with pytest.raises(DataError, match="'nobody' is in no part"):
        split.part_of("nobody")


PUBLISHED = (8484, 3937, 3268, 1789, 424, 109, 79, 78, 70, 42, 26, 18, 16, 16, 16)
"""Images of the 15 classes whose five folds were published as 11,024 / 3,674 / 3,674."""


@pytest.mark.parametrize("pairs", [0, 2])
def test_folds_have_the_published_counts(pairs):
    labels = [f"c{n:02}" for n, count in enumerate(PUBLISHED) for _ in range(count)]
    ids = [f"{n:05}" for n in range(len(labels))]
    groups = list(ids)
    for n in range(pairs):  # two pictures of one cell: no longer scikit-learn's case
        groups[n + 1000] = groups[n]
    folds = make_folds(dataset="d", ids=ids, labels=labels, groups=groups, k=5, seed=42)
    for fold in folds:
        sizes = [len(part) for part in (fold.train, fold.val, fold.test)]
        assert sizes[1:] in ([3674, 3674], [3674, 3675], [3675, 3674], [3675, 3675])
        assert sizes[0] == len(ids) - sum(sizes[1:])
    for number, count in enumerate(PUBLISHED):
        held = [sum(labels[int(i)] == f"c{number:02}" for i in fold.test) for fold in folds]
        assert max(held) - min(held) <= 1, count


def test_folds_of_single_images_are_those_of_scikit_learn():
    ids, labels = [f"{n:03}" for n in range(60)], ["a", "b", "c"] * 20
    folds = make_folds(dataset="d", ids=ids, labels=labels, groups=ids, k=3, seed=42)
    splitter = StratifiedKFold(3, shuffle=True, random_state=42)
    wanted = [tuple(ids[i] for i in part) for _, part in splitter.split(ids, labels)]
    assert [fold.test for fold in folds] == wanted
    swapped = make_folds(
        dataset="d", ids=ids[::-1], labels=labels[::-1], groups=ids[::-1], k=3, seed=42
    )
    assert swapped == folds
