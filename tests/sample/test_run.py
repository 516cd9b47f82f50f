"""A run: every request once, resumable, the same pixels however drawn.

One run goes over a real local Ray, and so does an error of a worker; what a run means is tested
without it, by the same code that Ray's actors run.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from catalog.query import sql
from catalog.sink import BatchFile
from catalog.table import Catalog
from factory.errors import CatalogError, ConfigError, ModelError
from factory.models.generator import Generator
from factory.real.pixels import pixel_sha256
from factory.sample.batches import draw_here
from factory.sample.config import GenerateConfig
from factory.sample.engine import Engine
from factory.sample.prepare import Run, prepare, prepare_resume
from factory.sample.regenerate import regenerate_images
from factory.sample.run import RunProgress, execute
from factory.sample.stream import stream_batches

pytestmark = pytest.mark.ray


def config(tiny: Generator, **changes: object) -> GenerateConfig:
    known = {
        "model": str(tiny.folder),
        "num_images": 21,
        "classes": {name: f"a {name}" for name in tiny.class_names},
        "num_inference_steps": 2,
        "batch_size": 4,
        "seed": 11,
        "stream": {"commit_batches": 2, "actors": 1},  # a second one loads torch for 4 images
    }
    return GenerateConfig.model_validate(known | changes)


def finish(run: Run, stream: Callable[..., Iterator[BatchFile]] = draw_here) -> RunProgress:
    *_, last = execute(run, stream=stream)
    return last


def pixels(uri: str, run_id: str) -> dict[str, str]:
    """Return pixel hashes by image; other tests may have drawn into the same catalog."""
    query = f"SELECT image_id, pixel_sha256 FROM samples WHERE run_id = '{run_id}'"
    rows = sql(Catalog(uri), query).to_pylist()
    assert len({row["image_id"] for row in rows}) == len(rows)
    return {row["image_id"]: row["pixel_sha256"] for row in rows}


def drawn_directly(run: Run, tiny: Generator) -> dict[str, str]:
    engine = Engine(tiny)
    return {
        request.image_id: pixel_sha256(image)
        for batch in run.plan.batches()
        for request, image in zip(batch.requests, engine.draw(batch).images, strict=True)
    }


@pytest.fixture(scope="module")
def finished(
    tiny: Generator, tmp_path_factory: pytest.TempPathFactory, local_ray: None
) -> tuple[str, Run, RunProgress]:
    uri = str(tmp_path_factory.mktemp("runs") / "catalog")
    run = prepare(config(tiny, stream={"commit_batches": 2, "actors": 2}), uri)
    return uri, run, finish(run, stream_batches)


Finished = tuple[str, Run, RunProgress]


def test_every_request_is_published_once_with_the_engines_pixels(
    finished: Finished, tiny: Generator
) -> None:
    uri, run, last = finished
    assert last.complete
    assert last.drawn == 21
    assert pixels(uri, run.run_id) == drawn_directly(run, tiny)


def test_the_run_row_holds_counts_config_and_environment(finished: Finished) -> None:
    uri, run, _ = finished
    row = Catalog(uri).run(run.run_id)
    assert row["status"] == "complete"
    assert row["num_accepted"] + row["num_rejected"] == row["num_requested"] == 21
    assert json.loads(row["config"])["seed"] == 11
    assert json.loads(row["environment"])["ray"].startswith("2.")
    assert row["seconds_sampling"] > 0


def test_rows_lead_back_to_the_model(finished: Finished, tiny: Generator) -> None:
    uri, _, _ = finished
    found = sql(
        Catalog(uri),
        "SELECT DISTINCT m.name, s.model_id FROM samples s JOIN models m USING (model_id)",
    )
    assert found.to_pylist() == [{"name": "tiny-0", "model_id": tiny.model_id}]


def test_a_complete_run_submitted_again_draws_nothing(finished: Finished) -> None:
    uri, run, _ = finished
    before = Catalog(uri).version
    again = finish(prepare(run.config, uri))
    assert again.complete
    assert again.drawn == 0
    assert Catalog(uri).version == before


def test_an_interrupted_run_resumes_by_its_id(tiny: Generator, tmp_path: Path) -> None:
    uri = str(tmp_path / "catalog")
    run = prepare(config(tiny, num_images=33), uri)
    steps = execute(run, stream=draw_here)
    for _ in range(5):
        next(steps)
    steps.close()
    published = len(pixels(uri, run.run_id))
    assert 0 < published < 33
    assert Catalog(uri).run(run.run_id)["status"] == "failed"

    last = finish(prepare_resume(run.run_id, uri))
    assert last.published == published
    assert last.drawn == 33 - published
    assert pixels(uri, run.run_id) == drawn_directly(run, tiny)
    outcomes = list(regenerate_images(uri, sample="100%"))
    assert [str(o) for o in outcomes] == ["identical"] * len(outcomes)


def test_worker_count_changes_no_bit(finished: Finished, tiny: Generator, tmp_path: Path) -> None:
    uri = str(tmp_path / "catalog")
    run = prepare(config(tiny, stream={"actors": 1}), uri)
    finish(run)
    assert pixels(uri, run.run_id) == pixels(finished[0], finished[1].run_id)


def test_a_second_run_with_a_fresh_seed_appends(finished: Finished, tiny: Generator) -> None:
    uri, _, _ = finished
    before = Catalog(uri).samples().count_rows()
    run = prepare(config(tiny, seed=None, num_images=5), uri)
    finish(run)
    assert len(pixels(uri, run.run_id)) == 5
    assert Catalog(uri).samples().count_rows() == before + 5


def test_images_that_another_run_drew_are_refused(finished: Finished, tiny: Generator) -> None:
    uri, run, _ = finished
    with pytest.raises(CatalogError, match=f"{run.run_id}.*same recipes.*another seed"):
        finish(prepare(config(tiny, num_images=8), uri))


def test_a_run_does_not_go_on_with_another_model(
    finished: Finished, tiny: Generator, tmp_path: Path
) -> None:
    copy = shutil.copytree(tiny.folder, tmp_path / "model")
    uri = str(tmp_path / "catalog")
    run = prepare(config(tiny, model=str(copy), num_images=4), uri)
    finish(run)
    scheduler = copy / "scheduler" / "scheduler_config.json"
    scheduler.write_text(scheduler.read_text().replace("0.012", "0.013"))
    with pytest.raises(ConfigError, match="other files now"):
        prepare_resume(run.run_id, uri)


def test_an_error_in_a_worker_arrives_as_it_was_raised(
    tiny: Generator, tmp_path: Path, local_ray: None
) -> None:
    copy = shutil.copytree(tiny.folder, tmp_path / "model")
    run = prepare(config(tiny, model=str(copy)), str(tmp_path / "catalog"))
    shutil.rmtree(copy)
    with pytest.raises(ModelError, match="no generator at"):
        finish(run, stream_batches)


def test_rejected_images_are_published_with_their_reason(tiny: Generator, tmp_path: Path) -> None:
    uri = str(tmp_path / "catalog")
    last = finish(prepare(config(tiny, num_images=6, gates={"min_contrast": 1.0}), uri))
    assert last.rejected_by_gate == {"blank": 6}
    rows = sql(Catalog(uri), "SELECT gate_status, gate_reasons FROM samples").to_pylist()
    assert {row["gate_status"] for row in rows} == {"rejected"}
    assert all(row["gate_reasons"][0].startswith("blank: contrast") for row in rows)
