"""A point's score: drawn once, trained on, validated; what a space may hold."""

from dataclasses import replace
from typing import Any

import pytest

from catalog import Catalog, sql
from factory.config import parse_config, to_yaml
from factory.errors import ConfigError, DataError
from factory.search.config import SweepConfig, setting_at
from factory.search.drawer import Drawer
from factory.search.objective import Ground, plan_trial, score_point
from factory.search.space import check_space


def drawer(ground: Ground):
    made = Drawer(ground.catalog_uri, None, on_ray=False)
    return lambda setting: made.draw(setting.generate)


def test_images_are_drawn_once_and_trainings_done_once(ground: Ground) -> None:
    point = dict(ground.config.start[0])
    first = list(score_point(ground, point, drawer(ground)))
    assert [scored.trained for scored in first] == [1, 2]
    assert {(s.drawn, s.asked, s.num_synthetic) for s in first} == {(25, 25, 20)}
    fewer = list(score_point(ground, {**point, "arm.per_class": 1}, drawer(ground)))
    assert {(s.drawn, s.num_synthetic) for s in fewer} == {(0, 5)}
    kept = {path: path.stat().st_mtime_ns for path in (ground.output / "units").iterdir()}
    again = list(score_point(ground, point, drawer(ground)))
    assert [scored.score for scored in again] == [scored.score for scored in first]
    assert kept == {path: path.stat().st_mtime_ns for path in (ground.output / "units").iterdir()}
    other = list(score_point(ground, {**point, "generate.guidance_scale": 1}, drawer(ground)))
    assert other[0].drawn == 25
    rows = sql(Catalog(ground.catalog_uri), "SELECT run_id, count(*) AS n FROM samples GROUP BY 1")
    assert rows["n"].to_pylist() == [25, 25]


def test_the_test_part_is_not_touched(ground: Ground) -> None:
    setting = setting_at(ground.config, ground.config.start[0])
    run_id, _ = drawer(ground)(setting)
    planned = plan_trial(ground, setting, run_id)
    assert [unit.test for unit in planned.units] == [(), ()]
    assert {unit.manifest.arm for unit in planned.units} == {"tried"}


def test_a_generator_of_another_split_is_refused(ground: Ground) -> None:
    other = replace(ground.splits[0], seed=9)
    point = ground.config.start[0]
    with pytest.raises(ConfigError, match="no synthetic image may be used"):
        next(score_point(replace(ground, splits=(other,)), point, drawer(ground)))


def test_gates_become_conditions(stored: dict[str, Any]) -> None:
    space = {**stored["space"], "gate.blur_score": {"low": 0.0, "high": 0.5}}
    config = parse_config(SweepConfig, stored | {"space": space, "start": ()}, where="test")
    check_space(config)
    setting = setting_at(config, {"gate.blur_score": 0.25, "learner.learning_rate": 1e-3})
    assert setting.where("run-1", "guidance_scale = 2") == (
        "run_id = 'run-1' AND blur_score >= 0.25 AND (guidance_scale = 2)"
    )
    assert setting.learner.learning_rate == 1e-3


@pytest.mark.parametrize(
    ("axis", "message"),
    [
        ({"arm.per_clas": {"low": 1, "high": 2}}, "unknown key 'arm.per_clas'"),
        ({"per_class": {"low": 1, "high": 2}}, "axis 'per_class' is no key"),
        ({"arm.per_class": {"low": 0, "high": 2}}, "arm.per_class is 0"),
        ({"generate.scheduler": {"choices": ["ddim", "magic"]}}, "generate.scheduler is 'magic'"),
        ({"gate.a b": {"low": 0.0, "high": 1.0}}, "axis 'gate.a b' is no key"),
    ],
)
def test_an_axis_that_means_nothing_is_named(
    stored: dict[str, Any], axis: dict[str, Any], message: str
) -> None:
    config = parse_config(SweepConfig, stored | {"space": axis, "start": ()}, where="test")
    with pytest.raises(ConfigError, match=message):
        check_space(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arm": {"design": "real"}}, "choose one with synthetic images"),
        ({"start": ({"arm.per_class": 1},)}, "is no axis, or an axis is missing"),
        ({"space": {"arm.per_class": {"low": 3, "high": 3}}, "start": ()}, "not below high"),
        ({"controls": {"winner": {"design": "real"}}}, "name of another arm"),
    ],
)
def test_a_search_without_sense_is_refused(
    stored: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(SweepConfig, stored | changes, where="test")


def test_the_seed_of_drawing_must_be_fixed(stored: dict[str, Any]) -> None:
    generate = stored["generate"] | {"seed": None}
    with pytest.raises(ConfigError, match="fix it, so that images are found again"):
        parse_config(SweepConfig, stored | {"generate": generate}, where="test")


def test_too_few_images_are_told(ground: Ground) -> None:
    point = {**ground.config.start[0], "arm.per_class": 6}
    with pytest.raises(DataError, match=r"too few synthetic images of 'basophil' \(5 of 6\)"):
        next(score_point(ground, point, drawer(ground)))


def test_a_search_comes_back_from_its_file(ground: Ground, tmp_path) -> None:
    from factory.config import load_config

    (tmp_path / "sweep.yaml").write_text(to_yaml(ground.config))
    assert load_config(SweepConfig, tmp_path / "sweep.yaml") == ground.config
    check_space(load_config(SweepConfig, "wbc_sweep"))
