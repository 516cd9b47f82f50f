"""Laws of identity: digests, ids, seeds and plans (promises I1 and I2)."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.digest import canonical_json, digest
from factory.errors import ConfigError
from factory.sample.plan import Plan, Quota, Ranges
from factory.sample.quotas import split_evenly
from factory.sample.recipe import Recipe, Request, recipe_from

scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner)
)


def shuffled(value: object, rng: random.Random) -> object:
    if isinstance(value, dict):
        items = [(key, shuffled(item, rng)) for key, item in value.items()]
        rng.shuffle(items)
        return dict(items)
    if isinstance(value, list):
        return [shuffled(item, rng) for item in value]
    return value


def recipe(**changes: object) -> Recipe:
    known = {
        "model_id": "m",
        "class_name": "monocyte",
        "class_id": 1,
        "prompt": "a monocyte",
        "guidance_scale": 2.0,
        "num_inference_steps": 20,
        "scheduler": "ddim",
        "height_px": 64,
        "width_px": 64,
        "seed": 7,
        "batch_size": 4,
    }
    return Recipe(**(known | changes))


EARLY = ["model_id", "method", "class_name", "class_id", "prompt", "negative_prompt"]
EARLY += ["guidance_scale", "num_inference_steps", "scheduler", "height_px", "width_px"]
EARLY += ["seed", "batch_size", "dtype"]

recipes = st.builds(
    recipe,
    prompt=st.text(max_size=10),
    guidance_scale=st.sampled_from([1.0, 2.0, 3.5]),
    seed=st.integers(0, 2**62),
    batch_size=st.integers(1, 9),
)
plans = st.lists(
    st.tuples(recipes, st.integers(0, 40)), max_size=6, unique_by=lambda pair: pair[0].digest
).map(lambda pairs: Plan(quotas=tuple(Quota(recipe=r, count=n) for r, n in pairs)))


@given(values, st.integers(0, 1000))
def test_digest_does_not_know_the_order_of_keys(value: object, seed: int) -> None:
    assert digest(value) == digest(shuffled(value, random.Random(seed)))


@given(values, values)
def test_equal_digests_mean_equal_values(first: object, second: object) -> None:
    same = canonical_json(first) == canonical_json(second)
    assert (digest(first) == digest(second)) == same


def test_whole_floats_and_integers_name_the_same_recipe() -> None:
    assert recipe(guidance_scale=2).digest == recipe(guidance_scale=2.0).digest


def test_a_recipe_without_the_later_parts_keeps_its_name() -> None:
    """Ids of images drawn before recipes knew references and options stay what they were."""
    assert set(recipe().to_dict()) == {*EARLY}
    assert recipe().digest == "c43be91674ae936430e9b1824d7bf3d8"
    shown = recipe(reference_id="a", reference_sha256="0" * 64, options="{}")
    assert len({shown.digest, recipe().digest, recipe(options="{}").digest}) == 3
    assert recipe_from(canonical_json(shown.to_dict())) == shown


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_without_a_canonical_text_is_refused(value: float) -> None:
    with pytest.raises(ValueError):
        digest([value])


@given(recipes)
def test_a_recipe_survives_its_catalog_row(one: Recipe) -> None:
    assert recipe_from(canonical_json(one.to_dict())).digest == one.digest


def test_an_unknown_recipe_field_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="colour"):
        recipe_from(canonical_json(recipe().to_dict() | {"colour": "red"}))


@given(plans)
def test_every_request_is_in_exactly_one_batch(plan: Plan) -> None:
    drawn = [(r.recipe.digest, r.index) for b in plan.batches() for r in b.requests]
    wanted = {(q.recipe.digest, i) for q in plan.quotas for i in range(q.count)}
    assert len(drawn) == len(wanted) == plan.num_images
    assert set(drawn) == wanted


@given(plans)
def test_image_ids_are_unique_within_a_plan(plan: Plan) -> None:
    ids = [request.image_id for batch in plan.batches() for request in batch.requests]
    assert len(set(ids)) == len(ids)


@given(plans)
def test_a_batch_shares_its_settings_and_fits_its_shape(plan: Plan) -> None:
    for batch in plan.batches():
        assert len({request.recipe.settings for request in batch.requests}) == 1
        assert 1 <= len(batch.requests) <= batch.size == batch.requests[0].recipe.batch_size
        assert plan.batch_length(batch.index) == len(batch.requests)


@given(plans, st.integers(1, 5))
def test_a_plan_split_over_workers_and_merged_is_the_plan(plan: Plan, workers: int) -> None:
    shares = [range(number, plan.num_batches, workers) for number in range(workers)]
    merged = sorted((b for share in shares for b in plan.batches(share)), key=lambda b: b.index)
    assert merged == list(plan.batches())


@given(plans, st.randoms())
def test_a_plan_does_not_know_the_order_of_its_quotas(plan: Plan, rng: random.Random) -> None:
    quotas = list(plan.quotas)
    rng.shuffle(quotas)
    other = Plan(quotas=tuple(quotas))
    assert other.digest == plan.digest
    assert sorted(i for b in other.batches() for i in ids(b)) == sorted(
        i for b in plan.batches() for i in ids(b)
    )


def ids(batch: object) -> list[str]:
    return [request.image_id for request in batch.requests]  # type: ignore[attr-defined]


@given(st.integers(0, 10_000), st.integers(1, 50))
def test_an_even_split_loses_nothing(num_images: int, parts: int) -> None:
    counts = split_evenly(num_images, parts)
    assert sum(counts) == num_images
    assert max(counts) - min(counts) <= 1


def test_a_recipe_twice_in_a_plan_is_refused() -> None:
    quota = Quota(recipe=recipe(), count=1)
    with pytest.raises(ConfigError, match="twice"):
        Plan(quotas=(quota, quota))


@settings(max_examples=30)
@given(recipes, st.integers(0, 10**6))
def test_seeds_fit_a_signed_64_bit_column(one: Recipe, index: int) -> None:
    assert 0 <= Request(recipe=one, index=index).seed < 2**63


def test_a_million_image_plan_is_planned_lazily() -> None:
    plan = Plan(quotas=(Quota(recipe=recipe(batch_size=32), count=10**6),))
    assert plan.num_batches == 31_250
    assert plan.batch(31_249).requests[-1].index == 10**6 - 1


@given(st.sets(st.integers(0, 200)))
def test_ranges_hold_the_numbers_they_were_made_of(numbers: set[int]) -> None:
    ranges = Ranges.of(sorted(numbers))
    assert list(ranges) == sorted(numbers)
    assert len(ranges) == len(numbers)
    assert len(ranges.pairs) == sum(n - 1 not in numbers for n in numbers)


def test_ranges_refuse_numbers_that_do_not_rise() -> None:
    with pytest.raises(ValueError, match="3 comes after 5"):
        Ranges.of([5, 3])
