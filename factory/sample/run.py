"""A generation run: plan it, stream it, publish it while it goes on, record what happened."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catalog.progress import recipe_counts
from catalog.sink import BatchFile, SampleSink
from catalog.table import Catalog
from catalog.transaction import Retry
from factory.errors import CatalogError
from factory.monitor.recorder import NOTHING, Recorder, RunInfo
from factory.sample.config import StreamConfig
from factory.sample.method import method_of
from factory.sample.plan import Plan, plan_further
from factory.sample.prepare import Run
from factory.sample.record import RunRecord

Stream = Callable[[Run, NDArray[np.int64], StreamConfig], Iterator[BatchFile]]
"""Draws batches of a run and yields their files as they are written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassCounts:
    """Images of one class; `rejected` is gate -> (images, least score, greatest score)."""

    drawn: int = 0
    accepted: int = 0
    rejected: Mapping[str, tuple[int, float, float]] = field(default_factory=dict)

    def plus(self, told: Mapping[str, Any]) -> "ClassCounts":
        """Return the sum with what a `BatchFile` says of the class."""
        rejected = dict(self.rejected)
        for gate, (images, least, greatest) in told["rejected"].items():
            before, low, high = rejected.get(gate, (0, least, greatest))
            rejected[gate] = (before + images, min(low, least), max(high, greatest))
        return ClassCounts(
            drawn=self.drawn + told["drawn"],
            accepted=self.accepted + told["accepted"],
            rejected=rejected,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunProgress:
    """Where a run stands. Counts of rejects are by gate, for this submission's images."""

    run_id: str
    requested: int
    published: int
    drawn: int
    accepted: int
    rejected_by_gate: dict[str, int]
    images_per_second: float
    seconds_commit: float
    seconds: float
    by_class: Mapping[str, ClassCounts]
    """What became of this submission's images, class by class."""
    complete: bool = False

    @property
    def eta_seconds(self) -> float | None:
        """Seconds until the last image, at the present rate; None before the first."""
        left = self.requested - self.published - self.drawn
        return left / self.images_per_second if self.images_per_second else None


def execute(
    run: Run,
    *,
    stream: Stream | None = None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    recorder: Recorder = NOTHING,
) -> Iterator[RunProgress]:
    """Draw and publish whatever of `run` the catalog does not hold yet; yield after every batch.

    What gates refused is replaced, plan after plan, as far as the run's `max_tries` go.

    `stream` draws: on Ray (None), or in this process (`draw_here`): the same rows. The last
    item says `complete`. Submitting a complete run again yields just that. `recorder` is told of
    every step.

    Raises:
        CatalogError: another run has drawn these very images, or the catalog cannot be written.
    """
    if stream is None:
        from factory.sample.stream import stream_batches  # Ray: not before a plan is checked

        stream = stream_batches
    check_drawn_elsewhere(run, Catalog.create(run.place))
    record = RunRecord(run=run, num_requested=run.plan.num_images, now=now)
    sink = SampleSink(run.place, run.run_id, retry=_told(recorder))
    tally, worked = _Tally(run, recorder=recorder), False
    for plan in _plans(run):
        todo = _missing(plan, sink)
        tally.plans(plan, todo)
        if len(todo) == 0:
            continue
        record = replace(record, num_requested=tally.requested)
        begun, worked = replace(run, plan=plan, facts=record.started()), True
        recorder.begun(_info(run, tally))
        try:
            for file in _published(begun, stream, todo, sink, tally):
                tally.add(file)
                yield tally.progress()
        except BaseException as error:
            record.failed(tally.figures(), error)
            recorder.failed(error)
            raise
    if worked:
        record.completed(tally.figures())
        recorder.completed(version=Catalog(run.place).version)
    yield tally.progress(complete=True)


def _plans(run: Run) -> Iterator[Plan]:
    """Yield the run's plan, and what follows from the images it published, see `plan_further`.

    Each is asked for when all images of those before are published.
    """
    yield run.plan
    tries, plan = run.config.max_tries or 1, run.plan
    if not method_of(run.plan.quotas[0].recipe.method).draws_on:
        return
    while tries > 1:
        stop = plan.indices.stop
        catalog = Catalog(run.place)
        found = recipe_counts(catalog, run.run_id, before_batch=stop)
        further = plan_further(run.plan, found, first_batch=stop, max_tries=tries)
        if further is None:
            return
        yield (plan := further)


def _published(
    run: Run,
    stream: Stream,
    todo: NDArray[np.int64],
    sink: SampleSink,
    tally: "_Tally",
) -> Iterator[BatchFile]:
    """Yield files as they are written, committing several at a time and the rest at the end."""
    waiting: list[BatchFile] = []
    last = time.monotonic()
    for file in stream(run, todo, run.config.stream):
        waiting.append(file)
        yield file
        overdue = time.monotonic() - last > run.config.stream.commit_seconds
        if overdue or len(waiting) >= run.config.stream.commit_batches:
            tally.commit(sink, waiting)
            waiting, last = [], time.monotonic()
    if waiting:
        tally.commit(sink, waiting)


def _told(recorder: Recorder) -> Retry:
    """Return the sink's patience with rivals, of which `recorder` is told."""

    def sleep(seconds: float) -> None:
        recorder.retried()
        time.sleep(seconds)

    return Retry(sleep=sleep)


def _info(run: Run, tally: "_Tally") -> RunInfo:
    return RunInfo(
        run_id=run.run_id,
        catalog_uri=run.place.uri,
        model_id=run.generator.model_id,
        model_name=run.generator.manifest.get("name") or run.generator.folder.name,
        config_digest=run.config.digest,
        data=run.config.data,
        num_requested=tally.requested,
        num_published=tally.already + tally.drawn,
        num_batches=tally.left,
    )


def _missing(plan: Plan, sink: SampleSink) -> NDArray[np.int64]:
    """Return the batch indices that the catalog lacks: one bit a batch, whatever the rows."""
    missing = np.ones(plan.num_batches, bool)
    own = [index for index in sink.published() if index in plan.indices]
    missing[np.array(own, np.int64) - plan.first_batch] = False
    return np.flatnonzero(missing) + plan.first_batch


def _count(plan: Plan, todo: NDArray[np.int64]) -> int:
    """Return how many images the batches `todo` hold."""
    return sum(plan.batch_length(int(index)) for index in todo)


def check_drawn_elsewhere(run: Run, catalog: Catalog) -> None:
    """Raise where another run of the catalog drew the very images of this one.

    Raises:
        CatalogError: naming that run.
    """
    digests = [quota.recipe.digest for quota in run.plan.quotas]
    others = catalog.published_recipes(digests, besides=run.run_id)
    if others:
        raise CatalogError(
            f"run {min(others.values())} of this catalog has drawn the same recipes"
            f" (seed {run.config.seed}): their image ids would appear twice",
            remedy="Choose another seed (--set seed=...), or --resume that run",
        )


class _Tally:
    """Counts and times of one submission."""

    def __init__(self, run: Run, *, recorder: Recorder) -> None:
        self.run, self.recorder = run, recorder
        self.requested = self.already = 0
        self.left = self.waiting = 0
        self.drawn = self.accepted = 0
        self.rejected_by_gate: dict[str, int] = {}
        self.by_class: dict[str, ClassCounts] = {}
        self.seconds_commit = 0.0
        self.started = time.monotonic()
        self.first_file: float | None = None
        self.first_images = 0

    def plans(self, plan: Plan, todo: NDArray[np.int64]) -> None:
        self.requested += plan.num_images
        self.already += plan.num_images - _count(plan, todo)
        self.left = len(todo)

    def add(self, file: BatchFile) -> None:
        if self.first_file is None:  # the rate leaves out loading the model
            self.first_file, self.first_images = time.monotonic(), file.num_rows
        self.drawn += file.num_rows
        self.accepted += file.num_accepted
        for gate, count in json.loads(file.rejected_by_gate).items():
            self.rejected_by_gate[gate] = self.rejected_by_gate.get(gate, 0) + count
        for name, told in json.loads(file.by_class).items():
            self.by_class[name] = self.by_class.get(name, ClassCounts()).plus(told)
        self.left, self.waiting = self.left - 1, self.waiting + 1
        self.recorder.drawn(file, left=self.left, waiting=self.waiting)

    def commit(self, sink: SampleSink, files: list[BatchFile]) -> None:
        begun = time.monotonic()
        sink.commit(files)
        seconds = time.monotonic() - begun
        self.seconds_commit, self.waiting = self.seconds_commit + seconds, 0
        self.recorder.committed(files, seconds=seconds)

    def figures(self) -> dict[str, float]:
        """Return the times of this submission that the table `runs` keeps."""
        sampling = self.progress().seconds - self.seconds_commit
        return {
            "seconds_sampling": sampling,
            "seconds_commit": self.seconds_commit,
            "images_per_second": self.drawn / max(sampling, 1e-9),
        }

    def progress(self, *, complete: bool = False) -> RunProgress:
        now = time.monotonic()
        seconds = max(now - self.started, 1e-9)
        rate, steady = self.drawn / seconds, now - (self.first_file or now)
        if 2 * steady > seconds:  # until then loading, and batches that come at once, say too much
            rate = (self.drawn - self.first_images) / steady
        return RunProgress(
            run_id=self.run.run_id,
            requested=self.requested,
            published=self.already,
            drawn=self.drawn,
            accepted=self.accepted,
            rejected_by_gate=dict(self.rejected_by_gate),
            by_class=dict(self.by_class),
            images_per_second=rate,
            seconds_commit=self.seconds_commit,
            seconds=seconds,
            complete=complete,
        )
