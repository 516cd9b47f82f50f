"""What gates refuse is replaced until every class has its number: bounded, and exactly once."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from catalog.place import Place
from catalog.query import sql
from catalog.table import Catalog
from factory.gate.calibration import Calibration, calibration_of
from factory.gate.pixel import PixelGates
from factory.models.generator import Generator, open_generator
from factory.real.pixels import pixel_sha256
from factory.sample.batches import draw_here
from factory.sample.config import GenerateConfig
from factory.sample.console import Losses
from factory.sample.engine import Engine
from factory.sample.plan import Plan, Quota, plan_further
from factory.sample.prepare import Run, make_plan, prepare, prepare_resume, run_id_of, with_gates
from factory.sample.run import RunProgress, execute
from tests.fakes.tiny import tiny_generator


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Generator:
    return tiny_generator(tmp_path_factory.mktemp("models") / "tiny")


def config(tiny: Generator, **changes: object) -> GenerateConfig:
    known = {
        "model": str(tiny.folder),
        "num_images": 9,
        "num_inference_steps": 1,
        "batch_size": 4,
        "seed": 5,
        "max_tries": 4,
        "stream": {"commit_batches": 1},
    }
    return GenerateConfig.model_validate(known | changes)


@pytest.fixture(scope="module")
def half(tiny: Generator) -> PixelGates:
    """Gates that refuse about half of what `tiny` draws."""
    plan = make_plan(config(tiny, num_images=24, batch_size=24), tiny)
    images = Engine(tiny).draw(plan.batch(0)).images
    return PixelGates(
        min_contrast=float(np.median([PixelGates().judge(i)[0].score for i in images]))
    )


def finish(run: Run) -> RunProgress:
    *_, last = execute(run, stream=draw_here)
    return last


def rows(uri: str) -> dict[tuple[str, int], tuple[str, str, int]]:
    query = "SELECT class_name, recipe_index, image_id, pixel_sha256, batch_index FROM samples"
    found = sql(Catalog(uri), query).to_pylist()
    kept = {
        (r["class_name"], r["recipe_index"]): (r["image_id"], r["pixel_sha256"], r["batch_index"])
        for r in found
    }
    assert len(kept) == len(found)
    return kept


def accepted(uri: str) -> dict[str, int]:
    query = "SELECT class_name, count(*) AS n FROM samples WHERE gate_status='accepted' GROUP BY 1"
    return {row["class_name"]: row["n"] for row in sql(Catalog(uri), query).to_pylist()}


@pytest.fixture(scope="module")
def undisturbed(
    tiny: Generator, half: PixelGates, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Run, RunProgress]:
    uri = str(tmp_path_factory.mktemp("whole") / "catalog")
    run = prepare(config(tiny, gates=half), uri)
    return uri, run, finish(run)


Done = tuple[str, Run, RunProgress]


def test_every_class_gets_its_number_and_the_images_are_the_engines(
    undisturbed: Done, tiny: Generator
) -> None:
    uri, run, last = undisturbed
    assert all(accepted(uri)[name] >= 3 for name in tiny.class_names)
    drawn = rows(uri)
    assert len(drawn) == last.drawn == last.requested > 9
    for name in tiny.class_names:  # numbered without a gap, whatever round drew them
        indices = sorted(index for each, index in drawn if each == name)
        assert indices == list(range(len(indices)))
    recipe = {quota.recipe.class_name: quota.recipe for quota in run.plan.quotas}
    engine = Engine(tiny)
    for (name, index), (image_id, sha256, _) in drawn.items():
        alone = Plan(quotas=(Quota(recipe=recipe[name], count=1, first=index),)).batch(0)
        assert alone.requests[0].image_id == image_id
        assert pixel_sha256(engine.draw(alone).images[0]) == sha256
    event = Catalog(uri).run(run.run_id)
    assert event["status"] == "complete"
    assert event["num_requested"] == len(drawn)


def test_a_run_that_is_cut_off_anywhere_ends_with_the_same_images(
    undisturbed: Done, tmp_path: Path
) -> None:
    whole, run, last = undisturbed
    uri = str(tmp_path / "catalog")
    begun = replace(run, place=Place(uri))
    for steps in range(1, last.drawn):  # each attempt gets a little further
        left = execute(begun, stream=draw_here)
        progress = [step for step, _ in zip(left, range(1 + steps % 3), strict=False)]
        left.close()
        if progress[-1].complete:
            break
        begun = prepare_resume(run.run_id, uri)
    assert finish(begun).complete
    assert rows(uri) == rows(whole)
    assert finish(begun).drawn == 0


def test_more_tries_are_the_same_run_and_take_it_further(
    tiny: Generator, half: PixelGates, undisturbed: Done, tmp_path: Path
) -> None:
    uri = str(tmp_path / "catalog")
    once = prepare(config(tiny, gates=half, max_tries=1), uri)
    assert finish(once).drawn == 9
    more = prepare(config(tiny, gates=half), uri)
    assert more.run_id == once.run_id == undisturbed[1].run_id
    finish(more)
    assert rows(uri) == rows(undisturbed[0])


def test_a_class_without_hope_ends_at_the_bound(tiny: Generator, tmp_path: Path) -> None:
    uri = str(tmp_path / "catalog")
    last = finish(prepare(config(tiny, gates={"min_contrast": 1.0}, max_tries=3), uri))
    assert last.complete
    assert last.drawn == 27
    assert last.accepted == 0


def test_what_is_drawn_further_follows_from_what_was_accepted(tiny: Generator) -> None:
    plan = make_plan(config(tiny, num_images=300), tiny)
    first, second, third = (quota.recipe.digest for quota in plan.quotas)
    found = {first: (100, 100), second: (100, 50), third: (100, 0)}
    further = plan_further(plan, found, first_batch=7, max_tries=3)
    assert [(q.recipe.digest, q.first, q.count) for q in further.quotas] == [(second, 100, 100)]
    assert further.indices == range(7, 7 + 25)
    assert further.batch(7).requests[0].index == 100
    with pytest.raises(IndexError):
        further.batch(0)
    assert plan_further(plan, found, first_batch=7, max_tries=1) is None
    few = {first: (100, 100), second: (290, 97), third: (300, 20)}
    rest = plan_further(plan, few, first_batch=90, max_tries=3)
    assert [quota.count for quota in rest.quotas] == [9]


def calibrated(tiny: Generator, gates: PixelGates, folder: Path) -> Generator:
    real = {name: {"blank": (0.2, 0.25, 0.3)} for name in tiny.class_names}
    measured = Calibration(images=48, thresholds=gates, real=real)
    folder.mkdir()
    for part in tiny.folder.iterdir():
        (folder / part.name).symlink_to(part)
    (folder / "factory.json").unlink()
    told = {**tiny.manifest, "gates": measured.model_dump(mode="json")}
    (folder / "factory.json").write_text(json.dumps(told))
    return open_generator(folder)


def test_a_generator_that_was_measured_is_judged_by_its_own_images_and_draws_on(
    tiny: Generator, half: PixelGates, tmp_path: Path
) -> None:
    own = calibrated(tiny, half, tmp_path / "own")
    assert own.model_id == tiny.model_id
    job = config(own, max_tries=None)
    run = prepare(job, str(tmp_path / "catalog"))
    assert run.config.gates == half
    assert run.config.max_tries == 3
    losses, told = Losses(calibration_of(own)), []
    for progress in execute(run, stream=draw_here):
        told += losses.lines(progress)
    assert any(line.startswith("drawing on: ") for line in told)
    lost = [line for line in told if "refused by the gate blank" in line]
    assert lost
    assert all("real images of the class: 0.2 to 0.3" in line for line in lost)
    assert len({line.partition(":")[0] for line in lost}) == len(lost)  # each class once
    again = prepare_resume(run.run_id, run.place.uri)
    assert again.config == run.config
    assert prepare(job, "elsewhere").run_id == run.run_id


def test_without_a_calibration_runs_keep_their_names_and_draw_once(tiny: Generator) -> None:
    job = config(tiny, max_tries=None, copies=None)
    resolved = with_gates(job, tiny)
    assert resolved.max_tries is None
    assert resolved == job
    assert resolved.digest == job.digest
    plan = make_plan(job, tiny)
    old = {"min_contrast": 0.02, "max_clipped": 0.5, "min_sharpness": 0.005}
    from factory.digest import digest

    assert run_id_of(plan, resolved) == "run-" + digest([plan.digest, old])[:12]
    assert "max_tries" not in job.model_dump()
