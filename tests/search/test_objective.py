"""A point's score: drawn once, trained on, validated; what a space may hold."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from catalog import Catalog, sql
from factory.config import parse_config, to_yaml
from factory.errors import CatalogError, ConfigError, DataError
from factory.evaluate.placement import execute_here
from factory.real.dataset import RealDataset
from factory.real.splits import Split
from factory.sample.prepare import drawn_by
from factory.search.config import Axis, Point, Setting, SweepConfig, setting_at
from factory.search.drawer import Drawer
from factory.search.finish import finish
from factory.search.objective import (
    Ground,
    check_plans,
    plan_trial,
    score_point,
    setting_of,
    told_plans,
    with_enough,
)
from factory.search.page import Plots, plots_of
from factory.search.space import (
    check_space,
    distribution_of,
    values_of,
    without_settled,
)
from factory.search.trials import Trial
from tests.fakes.accessible import faults_of
from tests.fakes.browser import needs_chromium
from tests.fakes.tiny import tiny_generator


def drawer(ground: Ground):
    made = Drawer(ground.catalog)
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
    rows = sql(Catalog(ground.catalog), "SELECT run_id, count(*) AS n FROM samples GROUP BY 1")
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


def test_guidance_is_not_searched_where_nothing_can_be_followed(ground: Ground) -> None:
    config = ground.config
    generator = drawn_by(config.generate)
    assert without_settled(config, generator) == config
    alone = replace(generator, manifest={**generator.manifest, "condition": "none"})
    searched = without_settled(config, alone)
    assert sorted(searched.space) == ["arm.per_class", "learner.learning_rate"]
    assert searched.start == ({"arm.per_class": 4, "learner.learning_rate": 1e-3},)
    assert searched.generate.guidance_scale == 1
    check_space(searched)
    only = config.model_copy(
        update={
            "space": {"generate.guidance_scale": config.space["generate.guidance_scale"]},
            "start": (),
        }
    )
    with pytest.raises(ConfigError, match=r"move nothing.*arm.ratio"):
        without_settled(only, alone)


def test_what_another_run_drew_is_said_before_anything_is(ground: Ground) -> None:
    """The trials of a way of drawing failed one after another, and the search went on without."""
    setting = setting_of(ground, ground.config.start[0])
    gates = setting.generate.gates.model_copy(update={"min_contrast": 0.0})
    Drawer(ground.catalog).draw(setting.generate.model_copy(update={"gates": gates}))
    with pytest.raises(CatalogError, match="has drawn the same recipes"):
        check_plans(ground)


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
        ({"gate.seed": {"low": 0.0, "high": 1.0}}, "axis 'gate.seed' is no key.*gate.blur_score"),
        ({"gate.blur_score": {"choices": ["high"]}}, "axis 'gate.blur_score' is 'high'"),
        ({"gate.copy_score": {"low": 0.5, "high": 1.0}}, "no image is judged by that gate"),
        ({"gate.agreement_score": {"choices": [0.5]}}, "Set generate.agreement, or leave"),
    ],
)
def test_an_axis_that_means_nothing_is_named(
    stored: dict[str, Any], axis: dict[str, Any], message: str
) -> None:
    ungated = {"generate": stored["generate"] | {"copies": None}}
    searched = stored | ungated | {"space": axis, "start": ()}
    config = parse_config(SweepConfig, searched, where="test")
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


def test_plans_are_checked_without_a_drawing(ground: Ground, split: Split) -> None:
    assert check_plans(ground) == [25, 25]
    lines = told_plans(ground, [25, 25])
    assert lines[0].startswith("5 trials, each of up to 2 trainings; then 14 trainings")
    for changes, message in (
        ({"splits": (replace(split, seed=9),)}, "no synthetic image may be used"),
        (
            {"config": changed(ground, arm={"design": "add", "per_class": 2, "quota": {"x": 9}})},
            "quota of class 'x', which no real image has",
        ),
        ({"config": with_axis(ground, "arm.per_class", low=1, high=6)}, r"\(5 of 6\)"),
        ({"config": with_axis(ground, "gate.mask_area_score", low=0.1, high=0.2)}, "no masks"),
    ):
        asked = replace(ground, **changes)
        with pytest.raises((ConfigError, DataError), match=message):
            check_plans(asked)
    assert not Path(ground.catalog.uri).exists()


def changed(ground: Ground, **changes: Any) -> SweepConfig:
    stored = ground.config.model_dump(mode="json") | changes
    return parse_config(SweepConfig, stored, where="test")


def with_axis(ground: Ground, key: str, **axis: Any) -> SweepConfig:
    space = ground.config.model_dump(mode="json")["space"] | {key: axis}
    return changed(ground, space=space, start=[])


def test_only_classes_of_the_real_images_are_drawn(
    ground: Ground, cells: RealDataset, split: Split, tmp_path: Path
) -> None:
    names = ("another", *cells.class_names)
    folder = tmp_path / "more"
    tiny_generator(folder, class_names=names)
    told = json.loads((folder / "factory.json").read_text())
    told |= {"split_digest": split.digest, "dataset_fingerprint": split.dataset}
    (folder / "factory.json").write_text(json.dumps(told))
    generate = ground.config.generate.model_copy(update={"model": str(folder)})
    more = replace(ground, config=ground.config.model_copy(update={"generate": generate}))
    drawn = setting_of(more, ground.config.start[0]).generate
    assert list(drawn.classes) == [*cells.class_names]
    assert check_plans(more) == [25, 25]
    asked_for = []

    def draw(setting: Setting) -> tuple[str, int]:
        asked_for.append(setting.generate)
        raise KeyboardInterrupt

    for tried in (
        lambda: next(score_point(more, ground.config.start[0], draw)),
        lambda: finish(more, [trial_at(ground.config.start[0])], draw, execute_here),
    ):
        with pytest.raises(KeyboardInterrupt):
            tried()
    assert asked_for == [drawn, drawn]  # the winner's images are those of its trial
    asked = generate.model_copy(update={"classes": dict.fromkeys(names, "x")})
    config = ground.config.model_copy(update={"generate": asked})
    with pytest.raises(ConfigError, match="class 'another' would be drawn, and the real images"):
        check_plans(replace(ground, config=config))
    left = changed(replace(ground, config=ground.config), without=[cells.class_names[0]])
    drawn = setting_of(replace(ground, config=left), ground.config.start[0]).generate
    assert list(drawn.classes) == [*cells.class_names[1:]]
    mapped = {"synthetic": {"classes": {"another": cells.class_names[0]}}}
    merged = changed(replace(ground, config=config), **mapped)
    assert check_plans(replace(ground, config=merged)) == [25, 25]


def test_the_winner_is_tested_beside_what_everybody_takes(ground: Ground) -> None:
    default = ground.config.start[0]
    found = finish(ground, [trial_at(default)], drawer(ground), execute_here).report
    assert "default" not in found.arms
    won = replace(ground, output=ground.output / "won")
    best = trial_at({**default, "arm.per_class": 1, "generate.guidance_scale": 1})
    report = finish(won, [best], drawer(ground), execute_here).report
    assert {name: report.arms[name].num_synthetic for name in ("winner", "default")} == {
        "winner": 5, "default": 20
    }  # fmt: skip
    assert (report.arms["plain"].num_synthetic, report.arms["synthetic"].num_real) == (0, 0)
    assert report.arms["synthetic"].num_synthetic == 25  # of the winner's run alone
    assert "default" in str(report.primary_verdict)
    assert "default" in report.comparisons["winner"]
    by_run = sql(Catalog(ground.catalog), "SELECT run_id, count(*) AS n FROM samples GROUP BY 1")
    assert by_run["n"].to_pylist() == [25, 25]  # each arm had the images of its own run


def test_shots_are_drawn_several_times_where_asked(ground: Ground) -> None:
    few = changed(ground, shots=2, draws=3, equal_information=False)
    run_id, _ = drawer(ground)(setting_of(replace(ground, config=few), few.start[0]))
    planned = plan_trial(replace(ground, config=few), setting_at(few, few.start[0]), run_id)
    assert len({unit.draw for unit in planned.units}) == 3
    assert len(planned.units) == replace(ground, config=few).trainings == 6


def trial_at(point: Point) -> Trial:
    numbers = {"score": 0.5, "trained": 2, "num_synthetic": 20, "drawn": 0, "asked": 25}
    return Trial(point=dict(point), begun=0.0, ended=1.0, **numbers)


def test_a_drawer_says_how_far_it_is(ground: Ground) -> None:
    made = Drawer(ground.catalog)
    assert made.progress() is None
    stream, lines = made._stream, []

    def watched(*given: Any) -> Any:
        for file in stream(*given):
            yield file
            lines.append(made.progress())

    made._stream = watched
    made.draw(ground.config.generate.model_copy(update={"batch_size": 5}))
    assert made.progress() is None
    assert [line.split()[2] for line in lines if line] == [
        "5/25",
        "10/25",
        "15/25",
        "20/25",
        "25/25",
    ]


def searcher(space: dict[str, Any], *, start: Sequence[dict[str, Any]] = (), seed: int = 0) -> Any:
    from factory.search.sweep import NewPoints

    read = TypeAdapter(dict[str, Axis]).validate_python(space)
    made = NewPoints(
        space={key: distribution_of(axis) for key, axis in read.items()},
        metric="score",
        mode="max",
        points_to_evaluate=[*start],
        seed=seed,
    )
    made.values = [values_of(axis) for axis in read.values()]
    return made


@pytest.mark.parametrize(
    ("space", "size"),
    [
        ({"a": {"choices": [1, 2]}, "b": {"choices": ["x", "y"]}}, 4),
        ({"a": {"low": 1, "high": 6}}, 6),
        ({"a": {"low": 8, "high": 64, "step": 8}, "b": {"choices": [True, False, True]}}, 16),
        ({"a": {"low": 0.1, "high": 0.5, "step": 0.1}}, 5),
        ({"a": {"low": 1, "high": 9, "log": True}}, 9),
    ],
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_point_is_tried_twice_while_another_is_open(
    space: dict[str, Any], size: int, seed: int
) -> None:
    made, points = searcher(space, seed=seed), []
    for number in range(size):
        point = made.suggest(str(number))
        points.append(tuple(f"{value:.6}" if isinstance(value, float) else value
                            for value in point.values()))  # fmt: skip
        made.on_trial_complete(str(number), {"score": 1.0})  # one as good as the other
    assert len(set(points)) == size
    assert made.suggest("one more") == made.FINISHED


def test_a_search_on_a_line_has_points_without_end() -> None:
    made = searcher({"a": {"low": 0.0, "high": 1.0}}, start=[{"a": 0.5}, {"a": 0.5}])
    points = [made.suggest(str(number))["a"] for number in range(8)]
    assert points[0] == 0.5
    assert len(set(points)) == 8


def page_of_alike(ground: Ground, folder: Path) -> Plots:
    """Write the page of a search whose trials score alike to `sweep.html` in a folder."""
    from factory.evaluate.study_report import ArmScores, StudyReport
    from factory.search.finish import Outcome
    from factory.search.page import write_page
    from factory.search.trials import store_study

    points = [{**ground.config.start[0], "arm.per_class": number} for number in (1, 2, 3, 4)]
    trials = [trial_at(point) for point in points]
    found = plots_of(ground.config, trials, store_study(trials, ground.config, folder))
    arm = ArmScores(num_real=4, num_synthetic=0, val=(0.5,), test={"macro_f1": (0.5, 0.75)},
                    recall={}, confusion=(), seconds=90.0)  # fmt: skip
    report = StudyReport(
        name="small", task="classify", num_folds=1, num_seeds=2, num_test=9,
        class_names=("a", "b"), floor=(), arms={"real": arm}, baseline="real", comparisons={},
        adjusted_p={},
    )  # fmt: skip
    outcome = Outcome(trials=tuple(trials), report=report)
    write_page(folder / "sweep.html", ground.config, outcome, found)
    return found


def test_trials_that_score_alike_have_no_importance_to_draw(ground: Ground, tmp_path: Path) -> None:
    """Also: the page of a search is that of its study, with the search in it and no empty box."""
    found = page_of_alike(ground, tmp_path)
    assert list(found.drawings) == ["Score by number of drawn images", "Best score by time"]
    assert found.drawings["Score by number of drawn images"].count("<circle") == 4
    assert found.grid is not None
    assert sum(score is not None for _, row in found.grid.rows for score in row) == 4
    page = (tmp_path / "sweep.html").read_text()
    assert "The search: 4 trials" in page
    assert page.count("<svg") == 1 + len(found.drawings)
    assert "data:image" not in page
    assert page.index("All arms") < page.index("The search") < page.index("How it was made")


def test_the_largest_arm_decides_how_many_images_are_drawn(
    ground: Ground, stored: dict[str, Any]
) -> None:
    held = Counter(
        ground.dataset.labels[ground.dataset.index_of(i)] for i in ground.splits[0].train
    )
    ratios = {"arm.ratio": {"choices": [1, 7]}}
    changed = stored | {"arm": {"design": "ratio", "ratio": 1}, "space": ratios, "start": ()}
    few = replace(ground, config=parse_config(SweepConfig, changed, where="test"))
    with pytest.raises(DataError, match="too few synthetic images"):
        check_plans(few)
    enough = with_enough(few)
    assert enough.config.generate.num_images == 5 * 7 * max(held.values()) > 25
    assert check_plans(enough)[0] == enough.config.generate.num_images
    assert with_enough(enough) == enough  # the same words go on
    assert with_enough(replace(ground, config=ground.config)).config == ground.config
    alone = changed | {"shots": 2}
    shots = with_enough(replace(ground, config=parse_config(SweepConfig, alone, where="test")))
    assert shots.config.generate.num_images == 5 * 7 * 2


@pytest.mark.slow
@needs_chromium
def test_everyone_can_read_the_page(ground: Ground, tmp_path: Path) -> None:
    page_of_alike(ground, tmp_path)
    assert faults_of(tmp_path / "sweep.html") == {}


def test_too_few_images_are_told(ground: Ground) -> None:
    point = {**ground.config.start[0], "arm.per_class": 6}
    with pytest.raises(DataError, match=r"too few synthetic images of 'basophil' \(5 of 6\)"):
        next(score_point(ground, point, drawer(ground)))


def test_a_search_comes_back_from_its_file(ground: Ground, tmp_path) -> None:
    from factory.config import load_config

    (tmp_path / "sweep.yaml").write_text(to_yaml(ground.config))
    assert load_config(SweepConfig, tmp_path / "sweep.yaml") == ground.config
    for preset in ("wbc_sweep", "polyp_sweep"):
        check_space(load_config(SweepConfig, preset))
