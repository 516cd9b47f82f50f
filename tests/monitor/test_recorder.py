"""A run tells its recorder of every step; without one it tells nobody and needs no Ray."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from catalog.sink import BatchFile
from catalog.table import Catalog
from factory.models.generator import Generator
from factory.monitor.log import LogRecorder
from factory.monitor.recorder import Recorder, RunInfo, Several
from factory.sample.batches import draw_here
from factory.sample.config import GenerateConfig
from factory.sample.prepare import Run, prepare
from factory.sample.run import execute


def prepared(tiny: Generator, uri: Path, *, seed: int = 1, blur: float = 0.0) -> Run:
    config = GenerateConfig.model_validate(
        {
            "model": str(tiny.folder),
            "num_images": 10,
            "classes": {"monocyte": "a monocyte"},
            "num_inference_steps": 1,
            "batch_size": 4,
            "seed": seed,
            "gates": {"min_sharpness": blur},
            "stream": {"commit_batches": 2},
        }
    )
    return prepare(config, str(uri))


class Notes(Recorder):
    """Keeps what it is told, in order."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.run: RunInfo | None = None
        self.images = 0

    def begun(self, run: RunInfo) -> None:
        self.run = run
        self.steps.append("begun")

    def drawn(self, file: BatchFile, *, left: int, waiting: int) -> None:
        self.images += file.num_rows
        self.steps.append(f"drawn left {left} waiting {waiting}")

    def committed(self, files: Sequence[BatchFile], *, seconds: float) -> None:
        assert seconds >= 0
        self.steps.append(f"committed {len(files)}")

    def retried(self) -> None:
        self.steps.append("retried")

    def completed(self, *, version: int | None) -> None:
        self.steps.append(f"complete {version}")

    def failed(self, error: BaseException) -> None:
        self.steps.append(f"failed {error}")


def test_every_step_of_a_run_is_told_in_order(tiny: Generator, tmp_path: Path) -> None:
    notes = Notes()
    list(execute(prepared(tiny, tmp_path / "c"), stream=draw_here, recorder=Several([notes])))
    assert notes.steps == [
        "begun",
        "drawn left 2 waiting 1",
        "drawn left 1 waiting 2",
        "committed 2",
        "drawn left 0 waiting 1",
        "committed 1",
        "complete 2",
    ]
    assert notes.images == 10
    assert notes.run is not None
    assert (notes.run.num_requested, notes.run.num_published, notes.run.num_batches) == (10, 0, 3)


def test_a_run_that_goes_on_tells_only_what_is_left(tiny: Generator, tmp_path: Path) -> None:
    first = execute(prepared(tiny, tmp_path / "c"), stream=draw_here)
    for progress in first:
        if progress.drawn == 10:  # two batches are published, the third is not
            break
    first.close()
    notes = Notes()
    list(execute(prepared(tiny, tmp_path / "c"), stream=draw_here, recorder=notes))
    assert notes.run is not None
    assert (notes.run.num_published, notes.run.num_batches, notes.images) == (8, 1, 2)


def test_a_failure_is_told(tiny: Generator, tmp_path: Path) -> None:
    notes = Notes()
    run = execute(prepared(tiny, tmp_path / "c"), stream=draw_here, recorder=notes)
    next(run)
    with pytest.raises(RuntimeError):
        run.throw(RuntimeError("power cut"))
    assert notes.steps[-1] == "failed power cut"


def test_a_lost_race_is_told_as_a_retry(tiny: Generator, tmp_path: Path) -> None:
    """Another writer commits between this one's snapshot and its commit."""
    from catalog.sink import SampleSink
    from tests.fakes.rows import batch_rows
    from tests.fault.driver import with_steps

    uri, notes = tmp_path / "c", Notes()
    run = prepared(tiny, uri)
    raced: list[str] = []

    def rival(step: str) -> None:
        from catalog.sink import write_batch

        if step == "before_commit" and not raced:
            raced.append(step)
            file = write_batch(uri, run_id=run.run_id, batch_index=99, rows=batch_rows(99))
            SampleSink(uri, run.run_id).commit([file])

    with with_steps(rival):
        list(execute(run, stream=draw_here, recorder=notes))
    assert notes.steps.count("retried") == 1


def test_a_run_logs_its_steps_with_its_ids(
    tiny: Generator, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = prepared(tiny, tmp_path / "c", blur=1e9)
    with caplog.at_level("INFO", logger="factory.run"):
        list(execute(run, stream=draw_here, recorder=LogRecorder()))
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == "run begun"
    assert said[-1] == "run complete"
    assert {vars(record)["run_id"] for record in caplog.records} == {run.run_id}
    drawn = [vars(r) for r in caplog.records if r.getMessage() == "batch drawn"]
    assert sorted(each["batch_index"] for each in drawn) == [0, 1, 2]
    assert json.dumps(drawn[0]["rejected_by_gate"]) == '{"blur": 4}'


def test_the_recorded_rate_counts_every_batch(tiny: Generator, tmp_path: Path) -> None:
    run = prepared(tiny, tmp_path)
    list(execute(run, stream=draw_here))
    row = Catalog(tmp_path).run(run.run_id)
    assert row["images_per_second"] == pytest.approx(10 / float(str(row["seconds_sampling"])))
