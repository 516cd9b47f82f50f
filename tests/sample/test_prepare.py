"""A configuration becomes a plan, a run gets its name."""

from dataclasses import replace

import pytest

from factory.errors import ConfigError
from factory.models.generator import Generator, find_generator
from factory.sample.config import GenerateConfig
from factory.sample.prepare import check_prompts, make_plan, run_id_of, with_classes, with_seed


def config(**changes: object) -> GenerateConfig:
    known = {"num_images": 7, "classes": {"monocyte": ("a", "b"), "lymphocyte": "c"}, "seed": 3}
    return GenerateConfig(**(known | changes))


def test_images_are_shared_by_classes_and_then_by_prompts(tiny: Generator) -> None:
    counts = {q.recipe.prompt: q.count for q in make_plan(config(), tiny).quotas}
    assert counts == {"a": 2, "b": 2, "c": 3}


def test_class_ids_are_the_generators(tiny: Generator) -> None:
    ids = {q.recipe.class_name: q.recipe.class_id for q in make_plan(config(), tiny).quotas}
    assert ids == {"lymphocyte": 0, "monocyte": 1}


def test_an_unknown_class_is_refused_with_the_known_ones(tiny: Generator) -> None:
    with pytest.raises(ConfigError, match=r"'blast' is unknown.*lymphocyte, monocyte"):
        make_plan(config(classes={"blast": "a blast"}), tiny)


def test_a_prompt_written_twice_is_named_with_its_class(tiny: Generator) -> None:
    with pytest.raises(ConfigError, match="'monocyte' has the prompt 'b' twice"):
        make_plan(config(classes={"monocyte": ("a", "b", "b")}), tiny)


def test_equal_work_is_one_run(tiny: Generator) -> None:
    one, two = config(), config(classes={"lymphocyte": "c", "monocyte": ("b", "a")}, num_images=7)
    assert run_id_of(make_plan(one, tiny), one) == run_id_of(make_plan(one, tiny), one)
    other = config(seed=4)
    assert run_id_of(make_plan(one, tiny), one) != run_id_of(make_plan(other, tiny), other)
    assert two.digest != other.digest


def test_a_run_without_a_seed_gets_a_fresh_one() -> None:
    seeds = {with_seed(config(seed=None)).seed for _ in range(5)}
    assert len(seeds) == 5
    assert with_seed(config()).seed == 3


def test_without_classes_all_of_the_generators_are_drawn(tiny: Generator) -> None:
    plan = make_plan(config(classes={}, num_images=6), tiny)
    drawn = {q.recipe.class_name: q.recipe.prompt for q in plan.quotas}
    assert drawn == {name: f"a {name}" for name in tiny.class_names}
    nameless = replace(tiny, manifest={})
    with pytest.raises(ConfigError, match="names no classes"):
        make_plan(config(classes={}), nameless)


def test_names_alone_are_drawn_under_the_generators_prompts(tiny: Generator) -> None:
    two = with_classes(config(classes=("monocyte", "lymphocyte")), tiny)
    assert two.classes == {"monocyte": "a monocyte", "lymphocyte": "a lymphocyte"}
    with pytest.raises(ConfigError, match=r"'blast' is unknown.*Choose from lymphocyte"):
        with_classes(config(classes=("blast",)), tiny)


LONG = "moderately differentiated pulmonary adenocarcinoma, predominantly "


def test_a_prompt_that_would_be_cut_is_refused_with_the_words_that_nobody_would_read() -> None:
    base = find_generator("wbc-base")
    asked = config(classes={"monocyte": ("a monocyte", f"{LONG}lepidic")})
    with pytest.raises(
        ConfigError, match=r"of 'monocyte' has 52 tokens.*reads 48: 'lepidic' would"
    ):
        check_prompts(asked, base, begun=False)
    assert check_prompts(asked, base, begun=True) == [
        "monocyte: of the prompt 'lepidic' is cut off and not read"
    ]
    negative = config(classes={"monocyte": "a monocyte"}, negative_prompt=f"{LONG}lepidic")
    with pytest.raises(ConfigError, match="the prompt of 'negative_prompt' has 52 tokens"):
        check_prompts(negative, base, begun=False)
    fitting = config(classes={"monocyte": ("a monocyte", LONG)})
    assert check_prompts(fitting, base, begun=False) == []
    foreign = config(classes={"monocyte": "Übergang"})
    assert check_prompts(foreign, base, begun=False) == [
        "monocyte: the letters 'Ü' of the prompt are not known"
    ]


def test_prompts_that_a_generator_was_trained_under_are_drawn_and_told(tiny: Generator) -> None:
    own = replace(tiny, manifest={**tiny.manifest, "prompts": {"monocyte": "monocyte " * 60}})
    asked = with_classes(config(classes={}), own)
    (told,) = check_prompts(asked, own, begun=False)
    assert "is cut off" in told
