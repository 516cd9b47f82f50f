"""A planted test image is refused wherever it turns up, by its id."""

import dataclasses
import io

import pytest
from PIL import Image

from factory.errors import DataError
from factory.evaluate.lineage import (
    Choice,
    Known,
    Origin,
    check_references,
    learnt_from,
    may_be_used,
)
from factory.real.build import build_dataset
from factory.real.dataset import RealDataset, RealImage
from factory.real.duplicates import Digests
from factory.real.leaks import Held, Use, held_out, refuse_leaks
from factory.real.smear import smear_items
from factory.real.splits import Split
from factory.real.stored import InlineBytes
from tests.fakes.splits import split_of


@pytest.fixture(scope="module")
def cells() -> RealDataset:
    return build_dataset(smear_items(40, seed=4, size_px=32))


@pytest.fixture(scope="module")
def split(cells: RealDataset) -> Split:
    return divided(cells, seed=0)


@pytest.fixture(scope="module")
def held(cells: RealDataset, split: Split) -> Held:
    return held_out(cells, split)


def divided(cells: RealDataset, seed: int) -> Split:
    return split_of(cells, train=0.6, val=0.2, test=0.2, seed=seed)


def elsewhere(cells: RealDataset, image_id: str, change) -> RealDataset:
    """Another hospital's set of one image: ours, changed and saved under another name."""
    buffer = io.BytesIO()
    change(Image.fromarray(cells.image(cells.index_of(image_id)))).save(buffer, "PNG")
    stored = InlineBytes(name="theirs", data=buffer.getvalue())
    return build_dataset([RealImage(id="theirs", label="cell", image=stored)])


def test_a_clean_split_passes_and_its_parts_are_what_is_held(cells, split, held):
    assert held.ids == (*split.val, *split.test)
    assert held.leaks(Use(what="training", dataset=cells, ids=split.train)) == []


@pytest.mark.parametrize("what", ["generator training", "references", "clusters", "calibration"])
def test_a_planted_test_image_is_refused_by_its_id(cells, split, held, what):
    planted = split.test[1]
    uses = [Use(what=what, dataset=cells, ids=(*split.train, planted))]
    with pytest.raises(DataError, match=rf"{what} saw {planted} \(itself\)"):
        refuse_leaks(held, uses)


def test_all_leaks_are_told_and_many_are_counted(cells, split, held):
    uses = [
        Use(what="clusters", dataset=cells, ids=held.ids),
        Use(what="references", dataset=cells, ids=split.val[:1]),
    ]
    with pytest.raises(DataError) as caught:
        refuse_leaks(held, uses)
    assert f"and {len(held.ids) - 8} others; references saw {split.val[0]}" in caught.value.what


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda image: image, "has the pixels of theirs"),
        (lambda image: image.resize((28, 28)), "nearly theirs"),
        (lambda image: image.transpose(Image.Transpose.ROTATE_90), "nearly theirs"),
        (
            lambda image: image.transpose(Image.Transpose.TRANSVERSE).resize((60,) * 2),
            "nearly theirs",
        ),
        (lambda image: image.point(lambda v: min(255, round(v * 1.03))), "nearly theirs"),
    ],
)
def test_a_copy_in_another_dataset_is_found_by_its_pixels(cells, split, held, change, why):
    other = elsewhere(cells, split.test[0], change)
    found = held.leaks(Use(what="generator training", dataset=other, ids=other.ids))
    assert [(leak.held, str(leak)) for leak in found] == [
        (split.test[0], f"{split.test[0]} ({why})")
    ]


def test_another_image_of_a_held_out_slide_is_a_leak(cells, split, held):
    moved = split.test[0]
    mates = [i for i, g in zip(cells.ids, cells.groups, strict=True)
             if g == cells.groups[cells.index_of(moved)] and i != moved]  # fmt: skip
    fewer = Held(dataset=cells, ids=(moved,))
    found = fewer.leaks(Use(what="training", dataset=cells, ids=tuple(mates)))
    assert [leak.why for leak in found] == ["is of one group with"]


def origin(split: Split | None, *, base: str | None = None, model_id: str = "mine") -> Origin:
    return Origin(
        model_id=model_id,
        split_digest=split and split.digest,
        dataset_fingerprint=split and split.dataset,
        base_model_id=base,
    )


def test_a_generator_of_the_studys_own_split_may_be_used(split, held):
    assert may_be_used(origin(split), held, split, Known()) is None


def test_a_generator_of_an_unknown_split_or_no_split_may_not(cells, split, held):
    other = divided(cells, seed=1)
    assert f"under split {other.digest}" in str(may_be_used(origin(other), held, split, Known()))
    reason = may_be_used(origin(None), held, split, Known())
    assert str(reason) == "model mine does not say what it was trained on"


def test_where_the_other_split_is_known_its_test_images_are_named(cells, split, held):
    other = divided(cells, seed=1)
    leaked = {*other.train, *other.val} & set(held.ids)
    with pytest.raises(DataError, match=rf"the training of model mine saw {sorted(leaked)[0]}"):
        may_be_used(origin(other), held, split, Known(splits={other.digest: other}))
    less = dataclasses.replace(split, train=split.train[:9], val=())
    assert may_be_used(origin(less), held, split, Known(splits={less.digest: less})) is None


def test_a_base_is_held_to_the_same_as_its_adapter(cells, split, held):
    other = divided(cells, seed=1)
    known = Known(models={"base": origin(other, model_id="base")})
    assert "model base was" in str(may_be_used(origin(split, base="base"), held, split, known))
    public = Known(models={"base": origin(None, model_id="base")})
    assert may_be_used(origin(split, base="base"), held, split, public) is None


def test_a_generator_of_another_dataset_must_have_been_compared(split, held):
    foreign = Origin(model_id="far", split_digest="s", dataset_fingerprint="pbc")
    assert "dataset pbc, which was not compared" in str(may_be_used(foreign, held, split, Known()))
    assert may_be_used(foreign, held, split, Known(foreign=frozenset({"pbc"}))) is None


def test_a_generator_that_carries_digests_of_its_images_is_compared_by_them(cells, split, held):
    others = build_dataset(smear_items(60, seed=77, size_px=32))
    digests = Digests.of(others.picture(i) for i in range(len(others)))
    far = Origin(
        model_id="far", name="pbc", split_digest="s", dataset_fingerprint="pbc", digests=digests
    )
    known = Known(models={"far": far})
    row = Origin(model_id="far", split_digest="s", dataset_fingerprint="pbc")  # of `samples`
    assert may_be_used(row, held, split, known) is None
    taken = cells.index_of(split.test[0])
    copy = cells.picture(taken).transpose(Image.Transpose.ROTATE_90)
    leaky = dataclasses.replace(far, digests=Digests.of([others.picture(3), copy]))
    known = Known(models={"far": leaky})
    told = rf"model pbc \(far\) saw {split.test[0]} \(looks like one of 2 training images\)"
    with pytest.raises(DataError, match=told):
        may_be_used(row, held, split, known)
    lora = dataclasses.replace(origin(split), base_model_id="far")
    with pytest.raises(DataError, match=told):
        may_be_used(lora, held, split, known)


def test_who_cannot_compare_is_told_how_to_say_so_by_the_models_name(split, held):
    far = Origin(model_id="far", name="theirs", split_digest="s", dataset_fingerprint="pbc")
    known = Known(models={"far": far})
    barred = may_be_used(far, held, split, known)
    assert "--seen" in barred.remedy
    assert "'synthetic.foreign=[theirs]'" in barred.remedy
    for name in ("theirs", "pbc", "far"):
        known = Known(models={"far": far}, foreign=frozenset({name}))
        assert may_be_used(far, held, split, known) is None


@pytest.mark.parametrize(
    ("choice", "learnt"),
    [
        (None, 25),
        (Choice(), 25),
        (Choice(n_shot=2), 10),
        (Choice(n_shot=6), 25),
        (Choice(n_shot={"basophil": 2}), 22),
    ],
)
def test_what_a_generator_learnt_from_follows_from_its_configuration(cells, split, choice, learnt):
    labels = dict(zip(cells.ids, cells.labels, strict=True))
    found = learnt_from(dataclasses.replace(origin(split), choice=choice), split, labels)
    assert len(found) == learnt
    assert found <= set(split.train)
    one = Choice(only=(cells.labels[0],), n_shot=2)
    found = learnt_from(dataclasses.replace(origin(split), choice=one), split, labels)
    assert [labels[i] for i in found] == [cells.labels[0]] * 2


def test_a_bridge_is_held_to_the_same_as_all_that_it_binds(cells, split, held):
    bridge = Origin(
        model_id="bridge", split_digest=None, dataset_fingerprint=None, member_ids=("a", "b")
    )
    here, elsewhere = origin(split, model_id="a"), origin(divided(cells, seed=1), model_id="b")

    def verdict(*models: Origin) -> str:
        known = Known(models={m.model_id: m for m in (bridge, *models)})
        return str(may_be_used(dataclasses.replace(bridge, member_ids=()), held, split, known))

    assert verdict(here, dataclasses.replace(here, model_id="b")) == "None"
    assert "model b was trained under split" in verdict(here, elsewhere)
    assert verdict(here) == "model bridge binds model b, of which nothing is known"


def test_references_are_of_the_train_part(split, held):
    check_references([*split.train, "of/another/dataset"], held)
    with pytest.raises(DataError, match=f"references saw {split.val[0]}"):
        check_references([split.train[0], split.val[0]], held)


def test_the_looks_of_held_out_images_are_found_once(cells, split, held):
    assert held.looks.hashes.shape == (len(held.ids), 8)
    assert held.looks.thumbnails.shape[1:] == (16, 16, 3)
    assert held.looks.names == held.ids
